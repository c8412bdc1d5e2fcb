// A small plot of a machine's verdicts over time: p-values with the promised rate, or scores where there are none.
"use strict";

const WIDTH = 340, HEIGHT = 130, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 24;

function shape(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function figure(number, digits = 2) {
  const size = Math.abs(number);
  const plain = size === 0 || size >= 0.001 && size < 1e5;
  return plain ? String(Number(number.toPrecision(digits))) : number.toExponential(digits - 1);
}

function day(time, withDay) {
  const clock = { hour: "2-digit", minute: "2-digit" };
  return new Date(time).toLocaleString([], withDay ? { day: "numeric", month: "short", ...clock } : clock);
}

/** A figure with a mark for each verdict that has a value; the dashed line is at that of the last one's limit. */
function plot(verdicts) {
  const promised = verdicts.some((one) => one.p_value !== null);
  const shown = verdicts.filter((one) => (promised ? one.p_value : one.score) !== null);
  const value = (one) => promised ? Math.log10(Math.max(one.p_value, 1e-9)) : one.score;
  const last = shown.at(-1);
  const limit = promised ? last.alpha : last.threshold;
  const line = limit === null ? null : promised ? Math.log10(limit) : limit;

  const values = shown.map(value).concat(line ?? []);
  let low = Math.min(...values), high = promised ? 0 : Math.max(...values);
  const margin = (high - low || 1) * 0.1;
  low -= margin;
  if (!promised) high += margin;
  const times = shown.map((one) => Date.parse(one.time));
  const first = Math.min(...times), span = Math.max(...times) - first;
  const x = (time) => LEFT + 6 + (span ? (time - first) / span : 0.5) * (WIDTH - LEFT - RIGHT - 12);
  const y = (at) => TOP + (high - at) / (high - low) * (HEIGHT - TOP - BOTTOM);

  const count = shown.filter((one) => one.verdict === "anomalous").length;
  const left = verdicts.length - shown.length;
  const caption = (promised ? "p-values" : "Scores") +
    (limit === null ? "" : `; dashed: ${promised ? "promised rate of false alarms" : "threshold"}, ${figure(limit)}`) +
    (left ? `; ${left} without ${promised ? "p-value" : "score"}` : "");
  const label = `${count} of the last ${shown.length} recordings anomalous. ${caption}`;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });

  if (line !== null) {
    const top = promised ? y(line) : TOP, bottom = promised ? HEIGHT - BOTTOM : y(line);
    svg.append(shape("rect", { class: "beyond", x: LEFT, y: top, width: WIDTH - LEFT - RIGHT, height: bottom - top }));
  }
  const ticks = promised ? [...Array(10).keys()].map((power) => -power).filter((power) => power >= low) :
    [Math.min(...shown.map(value)), Math.max(...shown.map(value))];
  let previous = -Infinity;
  for (const tick of [...ticks].sort((a, b) => y(a) - y(b))) {
    const beside = line !== null && Math.abs(y(tick) - y(line)) < 11;
    if (!beside && y(tick) - previous >= 13) {
      previous = y(tick);
      svg.append(shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
      svg.append(shape("text", { class: "tick", x: LEFT - 5, y: y(tick) + 4 }, figure(promised ? 10 ** tick : tick)));
    }
  }
  if (line !== null) {
    svg.append(shape("line", { class: "limit", x1: LEFT, x2: WIDTH - RIGHT, y1: y(line), y2: y(line) }));
    svg.append(shape("text", { class: "tick", x: LEFT - 5, y: y(line) + 4 }, figure(limit)));
  }
  svg.append(shape("polyline", { class: "path", points: shown.map((one, n) => `${x(times[n])},${y(value(one))}`).join(" ") }));
  shown.forEach((one, n) => {
    const at = { cx: x(times[n]), cy: y(value(one)) };
    const mark = one.verdict === "anomalous" ?
      shape("path", { class: "anomalous", d: `M${at.cx} ${at.cy - 5}l5 5l-5 5l-5 -5z` }) :
      shape("circle", { class: "normal", ...at, r: 3.2 });
    mark.append(shape("title", {}, `${day(one.time, true)}, ${one.file}: ${one.verdict}, ` +
      (promised ? `p = ${figure(one.p_value)}` : `score ${figure(one.score)}`)));
    svg.append(mark);
  });
  const several = new Date(first).toDateString() !== new Date(first + span).toDateString();
  svg.append(shape("text", { class: "time", x: span ? LEFT : (WIDTH + LEFT) / 2, y: HEIGHT - 6,
    "text-anchor": span ? "start" : "middle" }, day(first, several || !span)));
  if (span) {
    svg.append(shape("text", { class: "time", x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" },
      day(first + span, several)));
  }
  const made = document.createElement("figure");
  made.append(svg, document.createElement("figcaption"));
  made.lastChild.textContent = caption;
  return made;
}
