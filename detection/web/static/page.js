// Shows the machines, sends recordings to the server and shows its verdicts. Text from outside is only set as text.
"use strict";

const machine = document.getElementById("machine");
const drop = document.getElementById("drop");
const chooser = document.getElementById("file");
const progress = document.getElementById("status");
const results = document.getElementById("results");
const limit = Number(document.body.dataset.limit);
const title = document.title;
const ROWS = 20; // of a machine's table
const TIMES = 12; // of windows
const EVERY = 5000; // ms between two looks at the verdicts
const ATTEMPTS = 12; // while the server is busy

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function word(verdict) {
  return verdict === "anomalous" ? "Anomalous" : "Normal";
}

/** What the verdict rests on, in words. */
function reason(said) {
  const score = `score ${figure(said.score, 4)}, threshold ${figure(said.threshold, 4)}`;
  if (typeof said.p_value !== "number") return score;
  const among = said.n ? ` among ${said.n} normal recordings` : "";
  const rate = said.alpha ? `; promised rate of false alarms ${figure(said.alpha)}` : "";
  return `p = ${figure(said.p_value)}${among}${rate}; ${score}`;
}

// ---------------------------------------------------------------------------------------------------- the machines

const cards = new Map(); // machine -> its card and the state it shows

function table(verdicts) {
  const rows = verdicts.slice(-ROWS).reverse();
  const made = element("table");
  const head = element("tr");
  for (const name of ["Judged", "Recording", "Verdict", "p", "Score"]) head.append(element("th", name, { scope: "col" }));
  made.append(head);
  for (const one of rows) {
    const row = element("tr");
    const p = one.p_value === null ? "–" : figure(one.p_value);
    row.append(element("td", day(one.time, true)), element("td", one.file), element("td", word(one.verdict),
      { class: one.verdict }), element("td", p), element("td", one.score === null ? "–" : figure(one.score, 4)));
    made.append(row);
  }
  const scroll = element("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Verdicts" });
  scroll.append(made);
  return scroll;
}

function machineCard(one) {
  const last = one.verdicts.at(-1);
  const box = element("article", "", { class: `machine ${last.verdict}` });
  const head = element("header");
  head.append(element("h3", `${one.machine_type} ${one.machine_id}`), element("span", word(last.verdict), { class: "state" }));
  box.append(head, element("p", `${day(last.time, true)}, ${last.file}`, { class: "muted" }));
  const what = last.score === null || last.threshold === null ? "" : reason(last);
  if (what) box.append(element("p", what));
  if (last.warnings) box.append(element("p", last.warnings, { class: "warning" }));
  if (one.verdicts.some((each) => each.p_value !== null || each.score !== null)) box.append(plot(one.verdicts));
  const more = element("details");
  more.append(element("summary", "As a table"), table(one.verdicts));
  box.append(more);
  return box;
}

function showMachines(said) {
  const heard = said.machines.filter((one) => one.verdicts.length);
  const list = document.getElementById("machines");
  const bad = (one) => one.verdicts.at(-1).verdict === "anomalous";
  heard.sort((a, b) => bad(b) - bad(a));
  for (const [place, one] of heard.entries()) {
    const name = `${one.machine_type}/${one.machine_id}`;
    const state = JSON.stringify(one.verdicts);
    let shown = cards.get(name);
    if (!shown || shown.state !== state) {
      const card = machineCard(one);
      if (shown?.card.querySelector("details").open) card.querySelector("details").open = true;
      const focused = shown?.card.contains(document.activeElement) ? document.activeElement.tagName : "";
      shown?.card.replaceWith(card);
      if (focused) card.querySelector(focused)?.focus();
      shown = { card, state };
      cards.set(name, shown);
    }
    if (list.children[place] !== shown.card) list.insertBefore(shown.card, list.children[place] ?? null);
  }
  const silent = said.machines.filter((one) => !one.verdicts.length).map((one) => `${one.machine_type} ${one.machine_id}`);
  document.getElementById("unheard").textContent = silent.length ? `No verdict yet: ${silent.join(", ")}` : "";
  document.getElementById("unjudged").replaceChildren(...said.unjudged.map((one) =>
    element("li", `${day(one.time, true)}, ${one.file}: not judged: ${one.error}`)));
  const count = heard.filter(bad).length;
  document.title = count ? `${count} anomalous – ${title}` : title;
  return said.record_error && `The record cannot be shown: ${said.record_error}.`;
}

function warn(text) {
  const news = document.getElementById("news");
  if (news.textContent !== text) news.textContent = text;
  news.hidden = !text;
}

async function ask(address, options = {}) {
  const answer = await fetch(address, options);
  if (answer.status === 401) location.assign("/login");
  return answer;
}

async function look() {
  try {
    const answer = await ask("/verdicts", { cache: "no-cache" });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    warn(showMachines(said));
  } catch (error) {
    warn(error instanceof TypeError ? "The server does not answer: these verdicts may be old." : error.message);
  }
}

// ------------------------------------------------------------------------------------------------- the last results

function resultCard(result, open) {
  const box = element("article", "", { class: result.error ? "error" : result.verdict });
  box.append(element("h3", result.error ? "Not judged" : word(result.verdict)));
  box.append(element("p", result.file, { class: "muted" }));
  if (result.error) {
    box.append(element("p", result.error));
    return box;
  }
  box.append(element("p", `${result.machine_type} ${result.machine_id}: ${reason(result)}`));
  for (const warning of result.warnings ?? []) box.append(element("p", warning, { class: "warning" }));
  const loud = result.windows.filter((one) => one.anomalous);
  if (result.windows.length > 1) {
    const times = loud.slice(0, TIMES).map((one) => `${clock(one.start)}–${clock(one.end)}`).join(", ");
    box.append(element("p", `${loud.length} of ${result.windows.length} windows above the threshold` +
      (times ? `: ${times}` : "") + (loud.length > TIMES ? " …" : "")));
  }
  if (result.sound) {
    box.append(element("audio", "", { controls: "", preload: "metadata", src: `/kept/${result.number}.wav`,
      "aria-label": `Sound of ${result.file}` }));
  }
  if (result.picture) {
    const why = element("details");
    const picture = element("a", "", { href: `/kept/${result.number}.png` });
    picture.append(element("img", "", { src: `/kept/${result.number}.png`, alt: `Why: ${result.line}`, loading: "lazy" }));
    why.append(element("summary", "Why"), picture);
    why.open = open;
    box.append(why);
  }
  if (!result.sound || !result.picture) {
    const missing = [result.sound ? "" : "sound", result.picture ? "" : "picture"].filter(Boolean).join(" and ");
    box.append(element("p", `The server had no room to keep its ${missing}.`, { class: "warning" }));
  }
  return box;
}

function showResult(card) {
  results.prepend(card);
  document.getElementById("results-title").hidden = false;
}

async function send(file) {
  if (file.size > limit) {
    throw new Error(`${file.name} has ${Math.ceil(file.size / 1e6)} MB; this page takes up to ${limit / 1e6} MB. ` +
      "Use detect.py for it.");
  }
  const query = new URLSearchParams({ machine: machine.value, name: file.name });
  for (let attempt = 1; ; attempt++) {
    const answer = await ask(`/judge?${query}`, { method: "POST", body: file, headers: { "X-Requested-By": "detect" } });
    const result = await answer.json();
    if (answer.ok) return result;
    if (answer.status !== 503 || attempt === ATTEMPTS) throw new Error(result.error);
    const seconds = Number(answer.headers.get("Retry-After")) || 5;
    progress.textContent = `The server is busy; ${file.name} is sent again in ${seconds} s …`;
    await new Promise((done) => setTimeout(done, 1000 * seconds));
  }
}

async function judge(files) {
  results.setAttribute("aria-busy", "true");
  let said = "";
  for (const [place, file] of [...files].entries()) {
    const among = files.length > 1 ? ` (${place + 1} of ${files.length})` : "";
    progress.textContent = `${said} Listening to ${file.name}${among} …`;
    try {
      const result = await send(file);
      showResult(resultCard(result, true));
      said = result.error ? `${result.file}: not judged.` : `${result.file}: ${word(result.verdict)}.`;
    } catch (error) {
      const message = error instanceof TypeError ? "the server does not answer" : error.message;
      showResult(resultCard({ file: file.name, error: message }));
      said = `${file.name}: not judged.`;
    }
    await look();
  }
  progress.textContent = said;
  results.setAttribute("aria-busy", "false");
}

chooser.addEventListener("change", () => judge([...chooser.files]).then(() => { chooser.value = ""; }));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  judge([...event.dataTransfer.files]);
});

ask("/results").then((answer) => answer.json()).then((last) => last.reverse().forEach((one, place) =>
  showResult(resultCard(one, place === last.length - 1))));
look();
setInterval(() => { if (!document.hidden) look(); }, EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
