// Sends recordings to the server and shows its verdicts. Text from outside is only ever set as text.
"use strict";

const machine = document.getElementById("machine");
const drop = document.getElementById("drop");
const chooser = document.getElementById("file");
const progress = document.getElementById("status");
const results = document.getElementById("results");
const limit = Number(document.body.dataset.limit);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function card(result) {
  const box = element("article", "", { class: result.error ? "error" : result.verdict });
  box.append(element("h2", result.error ? "Not judged" : result.verdict === "anomalous" ? "Anomalous" : "Normal"));
  box.append(element("p", result.file, { class: "file" }));
  if (result.error) {
    box.append(element("p", result.error));
    return box;
  }
  box.append(element("p", `${result.machine_type} ${result.machine_id}: score ${result.score.toPrecision(4)}, ` +
    `threshold ${result.threshold.toPrecision(4)}, at or above ${Math.round(result.percentile)} % ` +
    `of its normal training clips`));
  const loud = result.windows.filter((one) => one.anomalous);
  if (result.windows.length > 1) {
    const times = loud.map((one) => `${clock(one.start)}–${clock(one.end)}`).join(", ");
    box.append(element("p", `${loud.length} of ${result.windows.length} windows above the threshold` +
      (times ? `: ${times}` : "")));
  }
  box.append(element("audio", "", { controls: "", preload: "metadata", src: `/kept/${result.number}.wav` }));
  const picture = element("a", "", { href: `/kept/${result.number}.png` });
  picture.append(element("img", "", { src: `/kept/${result.number}.png`, alt: `Why: ${result.line}` }));
  box.append(picture);
  return box;
}

async function send(file) {
  if (file.size > limit) {
    throw new Error(`${file.name} has ${Math.ceil(file.size / 1e6)} MB; this page takes up to ${limit / 1e6} MB. ` +
      "Use detect.py for it.");
  }
  const query = new URLSearchParams({ machine: machine.value, name: file.name });
  const answer = await fetch(`/judge?${query}`, {
    method: "POST", body: file, headers: { "X-Requested-By": "detect" },
  });
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error);
  return result;
}

async function judge(files) {
  for (const [place, file] of [...files].entries()) {
    progress.textContent = `Listening to ${file.name} (${place + 1} of ${files.length}) …`;
    try {
      results.prepend(card(await send(file)));
    } catch (error) {
      const message = error instanceof TypeError ? "the server does not answer" : error.message;
      results.prepend(card({ file: file.name, error: message }));
    }
  }
  progress.textContent = "";
}

chooser.addEventListener("change", () => judge(chooser.files).then(() => { chooser.value = ""; }));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  judge(event.dataTransfer.files);
});
fetch("/results").then((answer) => answer.json()).then((last) => last.forEach((one) => results.append(card(one))));
