// Keeps the run's state as the coordinator streams it, and lets each panel draw what changed, at most a few times a second.

import { byId, duration, el } from "./dom.js";
import { drawHeader } from "./header.js";
import { drawCurve } from "./curve.js";
import { drawMap } from "./map.js";
import { drawLinks, drawTopology } from "./topology.js";
import { drawGantt } from "./gantt.js";
import { drawCredit, drawLog, drawPeers } from "./lists.js";

const LOG_LINES = 300;
const MARKS = 200;
const TRACES = 4;
const DRAW_MILLISECONDS = 150;
const SILENCE_SECONDS = 6;

const run = {
  header: {}, peers: {}, links: { peers: [], regions: [] }, curve: { points: [] }, marks: [], log: [],
  contributors: { names: 0, positions: 0, first: [] }, traces: [], routes: { step: null, routes: [] }, updated: {},
};
let heard = { now: 0, at: 0, any: false };

/** The coordinator's clock, as far as it can be told from here. */
run.now = () => heard.now + (performance.now() - heard.at) / 1000;

const PANELS = [
  [["header"], drawHeader],
  [["curve", "marks"], drawCurve],
  [["peers", "header"], drawMap],
  [["peers", "routes", "links", "header"], drawTopology],
  [["links"], drawLinks],
  [["traces", "peers"], drawGantt],
  [["log"], drawLog],
  [["contributors"], drawCredit],
  [["peers", "header"], drawPeers],
];
const dirty = new Set();
let drawing = 0;

function draw() {
  drawing = 0;
  const parts = new Set(dirty);
  dirty.clear();
  for (const [needs, panel] of PANELS) {
    if (!needs.some((part) => parts.has(part))) continue;
    try {
      panel(run, draw.again);
    } catch (error) {
      console.error(panel.name, error); // one panel's failure is not the others'
    }
  }
  age();
}
draw.again = (...parts) => {
  for (const part of parts) dirty.add(part);
  // Not requestAnimationFrame: a page in the background is up to date when it is looked at.
  if (!drawing) drawing = setTimeout(draw, DRAW_MILLISECONDS);
};

function take(changes, isWhole) {
  heard = { now: changes.now_seconds, at: performance.now(), any: true };
  for (const [part, value] of Object.entries(changes)) {
    if (part === "now_seconds") continue;
    MERGE[part]?.(value, isWhole);
    draw.again(part);
  }
}

const MERGE = {
  header: (value) => { run.header = value; },
  links: (value) => { run.links = value; },
  routes: (value) => { run.routes = value; },
  contributors: (value) => { run.contributors = value; },
  updated: (value) => { run.updated = value; },
  peers(value, isWhole) {
    if (isWhole) run.peers = {};
    for (const [id, row] of Object.entries(value)) {
      row.before = run.peers[id];
      if (row.before) delete row.before.before;
      run.peers[id] = row;
    }
    const gone = run.header.gone_seconds ?? 120;
    for (const [id, row] of Object.entries(run.peers)) {
      if ((row.state === "lost" || row.state === "left") && run.now() > row.since_seconds + gone) delete run.peers[id];
    }
  },
  curve(value, isWhole) {
    const first = value.points[0]?.[0];
    const isNew = isWhole || value.generation !== run.curve.generation;
    const kept = isNew || first === undefined ? [] : run.curve.points.filter((point) => point[0] < first);
    if (!isNew && first === undefined) return;
    run.curve = { ...value, points: [...kept, ...value.points] };
  },
  marks(value, isWhole) { run.marks = [...(isWhole ? [] : run.marks), ...value].slice(-MARKS); },
  log(value, isWhole) {
    const lines = new Map((isWhole ? [] : run.log).map((line) => [line.number, line]));
    for (const line of value) lines.set(line.number, line);
    run.log = [...lines.values()].slice(-LOG_LINES);
  },
  traces(value, isWhole) {
    const traces = new Map((isWhole ? [] : run.traces).map((trace) => [trace.step, trace]));
    for (const { step, peers } of value) {
      const known = traces.get(step)?.peers ?? {};
      traces.set(step, { step, peers: { ...known, ...peers } });
    }
    // A run that was restored counts on from an earlier step.
    const last = run.header.step ?? Infinity;
    run.traces = [...traces.values()].filter((trace) => trace.step <= last + 1).sort((a, b) => a.step - b.step).slice(-TRACES);
  },
};

/** Every panel says how old it is, and is grey once it is older than it should be. */
function age() {
  const { header, updated } = run;
  const stepSeconds = header.step_seconds ?? 5;
  const limits = { steps: 15 + 4 * stepSeconds, peers: 20, trace: 20 + 8 * stepSeconds, log: Infinity, credit: 15 + 4 * stepSeconds };
  const crowd = 1 + (header.peers ?? 0) / 60;
  for (const panel of document.querySelectorAll("section[data-part]")) {
    const part = panel.dataset.part;
    const seconds = updated[part] === undefined ? null : run.now() - updated[part];
    const text = panel.querySelector(".age");
    const isOver = header.stopped === true;
    const isStale = !isOver && seconds !== null && (seconds > limits[part] * crowd || isSilent());
    text.textContent = seconds === null ? "no data yet" : isOver ? "final" : `${isStale ? "stale: " : ""}updated ${duration(seconds)} ago`;
    panel.classList.toggle("stale", isStale);
  }
  const live = byId("live");
  live.classList.toggle("on", !isSilent() && !header.stopped);
  live.classList.toggle("done", header.stopped === true);
  const silence = duration((performance.now() - heard.at) / 1000);
  live.textContent = header.stopped ? "ended" : !heard.any ? "connecting" : isSilent() ? `no word from the coordinator for ${silence}` : "live";
}

const isSilent = () => !heard.any || performance.now() - heard.at > 1000 * SILENCE_SECONDS;

let stream = null;
function listen() {
  stream?.close();
  stream = new EventSource("/api/v1/events");
  stream.addEventListener("state", (event) => take(JSON.parse(event.data), true));
  stream.addEventListener("changes", (event) => take(JSON.parse(event.data), false));
  stream.addEventListener("end", () => stream.close());
}

listen();
setInterval(() => {
  age();
  // A browser gives up on a stream that was refused once; the coordinator may only have been started again.
  if (stream.readyState === EventSource.CLOSED && !run.header.stopped) listen();
}, 1000);
const all = ["header", "curve", "peers", "routes", "links", "traces", "log", "contributors"];
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw.again(...all));
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  draw.again(...all);
});
byId("log-filter").addEventListener("change", () => draw.again("log"));
document.body.append(el("span", { id: "ready", hidden: true }));
