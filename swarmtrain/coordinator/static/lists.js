// The panels that are lists: events, contributors, peers.

import { SIGNS, bits, byId, bytes, count, duration, el, fill, inOrder } from "./dom.js";
import { STATES } from "./map.js";

const TONES = { good: "+", warn: "!", bad: "✕", plain: "·" };
const MOST_ROWS = 50;
const MOST_CREDITED = 12;

// ---- events

export function drawLog(run) {
  const list = byId("log");
  const onlyNotable = byId("log-filter").value === "notable";
  const lines = run.log.filter((line) => !onlyNotable || line.tone !== "plain").reverse();
  const offset = Date.now() - 1000 * run.now();
  fill(list, lines.map((line) => {
    const at = new Date(offset + 1000 * line.at_seconds);
    return el(
      "li", { class: line.tone, "data-kind": line.kind },
      el("time", { datetime: at.toISOString(), title: `step ${line.step}` }, at.toLocaleTimeString("en-GB")),
      el("i", { title: line.kind.replaceAll("_", " ") }, TONES[line.tone] ?? "·"),
      el("span", {}, line.text, line.count > 1 ? el("span", { class: "many" }, ` (${count(line.count)} of this kind)`) : null),
    );
  }));
  if (!lines.length) fill(list, el("li", { class: "plain" }, el("span", {}, ""), el("i", {}, "·"), el("span", {}, "Nothing happened yet.")));
}

// ---- contributors

export function drawCredit(run) {
  const { names, positions, first } = run.contributors;
  const most = first[0]?.positions || 1;
  const all = positions || 1;
  fill(byId("credit"), first.slice(0, MOST_CREDITED).map((entry) =>
    el(
      "li", { title: `${count(entry.positions)} microbatches through a stage, in ${count(entry.steps)} steps` },
      el("b", {}, entry.name),
      el("span", {}, `${((100 * entry.positions) / all).toFixed(1)} %, ${count(entry.positions)}`),
      el("div", { class: "bar", share: entry.positions / most }),
    )));
  const more = names - MOST_CREDITED;
  if (more > 0) byId("credit").append(el("li", { class: "more" }, el("b", { class: "quiet" }, `and ${count(more)} more`)));
  if (!names) fill(byId("credit"), el("li", {}, el("span", {}, "Nobody yet: credit is for committed steps.")));
}

// ---- peers

const rate = (row, what) => {
  const seconds = row.before ? row.heard_seconds - row.before.heard_seconds : 0;
  if (seconds > 0.2) row[`${what}_rate`] = Math.max(0, row[what] - row.before[what]) / seconds;
  else if (row[`${what}_rate`] === undefined) row[`${what}_rate`] = row.before?.[`${what}_rate`] ?? null;
  return row[`${what}_rate`];
};

const COLUMNS = [
  { name: "name", text: (row) => row.name, order: (a, b) => inOrder(a.name, b.name) },
  { name: "state", text: (row) => `${SIGNS[row.state] ?? "?"} ${row.state}`, order: (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) },
  { name: "stages", text: (row) => spans(row.stages), order: (a, b) => (a.stages[0] ?? 1e9) - (b.stages[0] ?? 1e9) },
  { name: "island", text: (row) => count(row.island), order: (a, b) => a.island - b.island, number: true, when: (run) => Object.keys(run.header.islands ?? {}).length > 1 },
  { name: "region", text: (row) => row.region || "–", order: (a, b) => inOrder(a.region, b.region), wordy: true, when: (run) => Object.values(run.peers).some((row) => row.region) },
  { name: "busy", draw: (row) => busy(row), order: (a, b) => (b.busy_share ?? -1) - (a.busy_share ?? -1) },
  { name: "up", text: (row) => bits(rate(row, "bytes_sent")), order: (a, b) => (b.bytes_sent_rate ?? 0) - (a.bytes_sent_rate ?? 0), number: true },
  { name: "down", text: (row) => bits(rate(row, "bytes_received")), order: (a, b) => (b.bytes_received_rate ?? 0) - (a.bytes_received_rate ?? 0), number: true },
  { name: "sent in all", text: (row) => bytes(row.bytes_sent), order: (a, b) => b.bytes_sent - a.bytes_sent, number: true, wordy: true },
  { name: "up a token", text: (row) => (row.sent_bytes_per_token === null ? "–" : bytes(row.sent_bytes_per_token)), order: (a, b) => (b.sent_bytes_per_token ?? 0) - (a.sent_bytes_per_token ?? 0), number: true, wordy: true },
  { name: "down a token", text: (row) => (row.received_bytes_per_token === null ? "–" : bytes(row.received_bytes_per_token)), order: (a, b) => (b.received_bytes_per_token ?? 0) - (a.received_bytes_per_token ?? 0), number: true, wordy: true },
  { name: "memory", text: (row) => (row.resident_bytes === null ? "–" : bytes(row.resident_bytes)), order: (a, b) => (b.resident_bytes ?? 0) - (a.resident_bytes ?? 0), number: true },
  { name: "reachable", text: (row) => (row.was_dialled ? "directly" : "not known"), order: (a, b) => b.was_dialled - a.was_dialled, wordy: true, title: "directly: another peer has dialled it; not known: none has needed to, or none can" },
  { name: "heard of", text: (row, now) => `${duration(now - row.heard_seconds)} ago`, order: (a, b) => b.heard_seconds - a.heard_seconds, number: true },
  { name: "machine", text: (row) => row.machine || "–", order: (a, b) => inOrder(a.machine, b.machine), wordy: true },
  { name: "why these stages", text: (row) => row.reason || "–", order: (a, b) => inOrder(a.reason, b.reason), wordy: true },
];
let sorted = "name";
let isReversed = false;
let showsAll = false;

export function drawPeers(run, again) {
  const columns = COLUMNS.filter((column) => column.when === undefined || column.when(run));
  const column = columns.find((c) => c.name === sorted) ?? columns[0];
  const rows = Object.values(run.peers).sort((a, b) => (isReversed ? -1 : 1) * column.order(a, b) || inOrder(a.name, b.name));
  const shown = showsAll ? rows : rows.slice(0, MOST_ROWS);
  const now = run.now();
  const focus = document.activeElement?.dataset?.column;
  fill(
    byId("peers"),
    el(
      "table", {},
      el("thead", {}, el("tr", {}, ...columns.map((c) => heading(c, again)))),
      el("tbody", {}, ...shown.map((row) => el(
        "tr", { class: row.state === "lost" || row.state === "left" ? "gone" : undefined },
        ...columns.map((c) => cell(c, row, now)),
      ))),
    ),
    rows.length > MOST_ROWS
      ? el("p", {}, el("button", { type: "button", onclick: () => { showsAll = !showsAll; again("peers"); } }, showsAll ? `show ${MOST_ROWS}` : `show all ${count(rows.length)}`))
      : null,
    rows.length ? null : el("p", { class: "empty" }, "No peer has joined yet."),
  );
  if (focus) document.querySelector(`[data-column="${CSS.escape(focus)}"]`)?.focus();
}

function heading(column, again) {
  const isSorted = column.name === sorted;
  const press = () => {
    isReversed = isSorted && !isReversed;
    sorted = column.name;
    again("peers");
  };
  return el(
    "th", { scope: "col", title: column.title, class: classes(column), "aria-sort": isSorted ? (isReversed ? "descending" : "ascending") : undefined },
    el("button", { type: "button", onclick: press, "data-column": column.name }, column.name, isSorted ? (isReversed ? " ▾" : " ▴") : ""),
  );
}

function cell(column, row, now) {
  if (column.draw) return el("td", { class: classes(column) }, ...column.draw(row));
  const text = column.text(row, now);
  if (column.name === "state") return el("td", { class: `state-${row.state}` }, el("span", { class: "sign" }, SIGNS[row.state] ?? "?"), ` ${row.state}`);
  return el("td", { class: `${classes(column)} text`, title: text.length > 30 ? text : undefined }, text);
}

const classes = (column) => [column.number ? "number" : "", column.wordy ? "wordy" : ""].filter(Boolean).join(" ");

function busy(row) {
  if (row.busy_share === null) return ["–"];
  return [el("span", { class: "meter", share: row.busy_share }), `${Math.round(100 * row.busy_share)} %`];
}

/** 0-2, 5. */
function spans(stages) {
  const found = [];
  for (const stage of stages) {
    const last = found.at(-1);
    if (last && stage === last[1] + 1) last[1] = stage;
    else found.push([stage, stage]);
  }
  return found.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ") || "–";
}
