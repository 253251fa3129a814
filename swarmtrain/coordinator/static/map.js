// Who hosts which stage, and how each of them is. Many peers become counts.

import { SIGNS, byId, count, el, fill, inOrder } from "./dom.js";

const MOST_CHIPS = 250;
export const STATES = ["serving", "joining", "leaving", "lost", "left"];

export function stageName(stage) {
  return stage === 0 ? "edge" : `stage ${stage}`;
}

export function drawMap(run) {
  const rows = Object.entries(run.peers);
  const stages = run.header.stages === undefined ? [] : [...Array(run.header.stages + 1).keys()];
  const hosted = rows.reduce((sum, [, row]) => sum + row.stages.length, 0);
  const line = hosted > MOST_CHIPS ? countsOf : chipsOf;
  const lost = new Set(run.header.lost_stages ?? []);
  const conductors = new Set(run.header.conductors ?? []);
  const idle = rows.filter(([, row]) => !row.stages.length && row.state !== "left");
  fill(
    byId("map"),
    stages.map((stage) => {
      const here = rows.filter(([, row]) => row.stages.includes(stage));
      const live = here.filter(([, row]) => row.state === "serving").length;
      const isBare = lost.has(stage) || (run.header.conductor && !live);
      return el(
        "div", { class: isBare ? "stage bare" : "stage" },
        el("b", {}, stageName(stage), el("small", {}, stage === 0 ? "embed, head" : `${count(live)} serving`)),
        line(here, conductors),
      );
    }),
    idle.length ? el("div", { class: "stage" }, el("b", {}, "no stage", el("small", {}, "yet")), line(idle, conductors)) : null,
    rows.length ? null : el("p", { class: "empty" }, "No peer has joined yet."),
  );
  const seen = new Set(rows.map(([, row]) => row.state));
  fill(
    byId("map-key"),
    STATES.filter((state) => seen.has(state)).map((state) =>
      el("li", { class: `state-${state}` }, el("span", { class: "sign" }, SIGNS[state]), state)),
    conductors.size ? el("li", {}, "★ conducts") : null,
  );
}

function chipsOf(here, conductors) {
  const order = [...here].sort(([, a], [, b]) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || inOrder(a.name, b.name));
  return el("div", { class: "chips" }, ...order.map(([id, row]) =>
    el(
      "div", { class: `chip state-${row.state}`, title: `${row.name}: ${row.state}. ${row.reason}`, "data-peer": id },
      el("span", { class: "sign" }, SIGNS[row.state] ?? "?"),
      el("span", {}, row.name),
      conductors.has(id) ? el("span", { class: "star", title: "conducts" }, "★") : null,
    )));
}

function countsOf(here) {
  const states = STATES.map((state) => [state, here.filter(([, row]) => row.state === state).length]).filter(([, n]) => n);
  return el("div", { class: "chips" }, ...states.map(([state, n]) =>
    el("div", { class: `chip state-${state}` }, el("span", { class: "sign" }, SIGNS[state]), el("span", {}, `${count(n)} ${state}`))));
}
