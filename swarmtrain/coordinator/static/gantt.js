// What every peer's compute lane did inside a step. Forward work hangs from the top of a row and backward work stands on its
// bottom, so the two are told apart without colour.

import { byId, colour, duration, el, fill, inOrder } from "./dom.js";

const KINDS = {
  forward: ["F", "sky", 0, 0.6], backward: ["B", "orange-fill", 0.4, 1], loss: ["L", "green-fill", 0, 1],
  state: ["S", "quiet", 0.36, 0.64], reduce: ["R", "purple-fill", 0.86, 1],
};
const ROW = 24;
const MOST_ROWS = 24;
const LABEL = 124;

let chosen = null; // a step, or null for the newest that is whole

export function drawGantt(run, again) {
  const steps = run.traces.map((trace) => trace.step);
  if (!steps.includes(chosen)) chosen = null;
  const trace = run.traces.find((t) => t.step === chosen) ?? newestWhole(run.traces);
  drawChoice(steps, trace, again);
  const host = byId("gantt");
  if (!trace) {
    fill(host, el("p", { class: "empty" }, "No step was told in detail yet."));
    return;
  }
  const rows = rowsOf(run, trace);
  const canvas = el("canvas", { role: "img", "aria-label": words(rows) });
  fill(host, canvas);
  paint(canvas, rows, host.clientWidth);
  const left = Object.values(trace.peers).reduce((sum, peer) => sum + peer.left_out, 0);
  const more = Object.keys(trace.peers).length - rows.length;
  fill(
    byId("gantt-key"),
    Object.entries(KINDS).map(([kind, [letter, hue]]) => {
      const sign = el("b", {}, letter);
      sign.style.color = colour(hue);
      return el("li", {}, sign, { state: "applies the step, snapshots", reduce: "sums with its replicas" }[kind] ?? kind);
    }),
    more > 0 ? el("li", {}, `${more} more peers are not drawn`) : null,
    left > 0 ? el("li", {}, `${left} spans are left out`) : null,
    el("li", {}, el("a", { href: `/api/v1/trace?step=${trace.step}` }, "as a file for Perfetto")),
  );
}

/** Reports come one by one: the last step is whole when as many peers told of it as of the one before. */
function newestWhole(traces) {
  const sizes = traces.map((trace) => Object.keys(trace.peers).length);
  const last = traces.length - 1;
  return last > 0 && sizes[last] < sizes[last - 1] ? traces[last - 1] : traces[last];
}

function drawChoice(steps, trace, again) {
  fill(byId("gantt-steps"), steps.map((step) =>
    el("button", { type: "button", "aria-pressed": step === trace?.step ? "true" : "false", onclick: () => { chosen = step; again("traces"); } }, `step ${step}`)));
}

function rowsOf(run, trace) {
  const rows = Object.entries(trace.peers).map(([id, peer]) => ({
    name: run.peers[id]?.name ?? id.slice(0, 8), first: run.peers[id]?.stages[0] ?? 0, ...peer,
  }));
  rows.sort((a, b) => a.first - b.first || inOrder(a.name, b.name));
  for (const row of rows) row.busy = row.spans.reduce((sum, [kind, , , , length]) => sum + (kind === "reduce" ? 0 : length), 0) / (1e6 * row.seconds || 1);
  return rows.slice(0, MOST_ROWS);
}

function paint(canvas, rows, available) {
  const ratio = devicePixelRatio || 1;
  const label = available < 520 ? 84 : LABEL;
  const height = rows.length * ROW + 26;
  canvas.width = available * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui";
  context.textBaseline = "middle";
  const longest = Math.max(...rows.map((row) => row.seconds), 1e-6);
  const scale = (available - label - 44) / longest;
  axis(context, longest, scale, { label, bottom: rows.length * ROW, most: available < 520 ? 3 : 7 });
  rows.forEach((row, index) => {
    const y = index * ROW + 2;
    context.fillStyle = colour("soft");
    context.fillRect(label, y, row.seconds * scale, ROW - 5);
    context.fillStyle = colour("ink");
    context.fillText(fitted(context, row.name, label - 8), 0, y + ROW / 2 - 2);
    for (const span of row.spans) bar(context, span, y, scale, label);
    context.fillStyle = colour("quiet");
    context.fillText(`${Math.round(100 * Math.min(row.busy, 1))} %`, available - 38, y + ROW / 2 - 2);
  });
}

function bar(context, [kind, stage, key, begin, length], y, scale, label) {
  const [, hue, from, to] = KINDS[kind] ?? KINDS.state;
  const x = label + 1e-6 * begin * scale;
  const width = Math.max(1e-6 * length * scale - 0.5, 0.8);
  const inner = ROW - 5;
  context.fillStyle = colour(hue);
  context.fillRect(x, y + from * inner, width, (to - from) * inner);
  if (width > 15 && to - from > 0.5) {
    context.fillStyle = "#10151b";
    context.font = "10px system-ui";
    context.fillText(String(key), x + 3, y + ((from + to) / 2) * inner + 0.5);
    context.font = "12px system-ui";
  }
}

function axis(context, longest, scale, { label, bottom, most }) {
  const rough = longest / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  context.fillStyle = colour("quiet");
  context.strokeStyle = colour("line");
  for (let at = 0; at <= longest; at += step) {
    const x = label + at * scale;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, bottom + 4);
    context.stroke();
    if (longest - at > 0.3 * step) context.fillText(longest < 10 ? `${Math.round(1000 * at)} ms` : duration(at), x + 2, bottom + 14);
  }
}

function fitted(context, text, width) {
  while (text.length > 2 && context.measureText(text).width > width) text = `${text.slice(0, -2)}…`;
  return text;
}

const words = (rows) => rows.map((row) => `${row.name}: ${Math.round(100 * Math.min(row.busy, 1))} % busy`).join("; ");
