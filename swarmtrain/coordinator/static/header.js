// The figures at the top, and one line for what everybody should know.

import { byId, bytes, count, duration, el, fill, loss, short } from "./dom.js";

export function drawHeader(run) {
  const h = run.header;
  document.title = `${h.run}: step ${h.step} of ${h.steps}`;
  byId("run").textContent = h.run;
  byId("hash").textContent = (h.run_hash ?? "").slice(0, 12);
  byId("progress").value = h.steps ? h.step / h.steps : 0;
  byId("steps").textContent = `step ${count(h.step)} of ${count(h.steps)}`;
  const islands = Object.keys(h.islands ?? {}).length;
  const tiles = [
    ["Loss, nats a token", loss(h.loss_last), ""],
    ["Tokens a second", short(h.tokens_per_second), ""],
    ["Peers", count(h.peers), islands > 1 ? `in ${islands} islands` : ""],
    ["Tokens", short(h.tokens), ""],
    ["Step time", duration2(h.step_seconds), ""],
    ["Bytes a token", h.bytes_per_token === null ? "–" : bytes(h.bytes_per_token), ""],
    h.inner_steps ? ["Outer round", count(h.round), `every ${h.inner_steps} steps`] : null,
    ["Peers lost", count(h.faults), `${count(h.recoveries)} recoveries`],
    ["Time left", h.stopped ? "–" : duration(h.eta_seconds), ""],
  ];
  fill(byId("tiles"), tiles.filter(Boolean).map(([name, value, unit]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, " ", el("small", {}, unit)))));
  drawBanner(h);
}

const duration2 = (seconds) => (seconds && seconds < 10 ? `${seconds.toFixed(2)} s` : duration(seconds));

function drawBanner(h) {
  const [text, tone] = words(h);
  const banner = byId("banner");
  banner.hidden = !text;
  banner.className = `banner ${tone}`;
  if (banner.textContent !== text) banner.textContent = text;
}

function words(h) {
  if (h.stopped && h.finished) return [`The run is done: ${h.stop_reason}`, "good"];
  if (h.stopped) return [`The run stopped after step ${h.step}: ${h.stop_reason}`, "bad"];
  if (h.lost_stages?.length) return [`Nobody hosts stage ${h.lost_stages.join(", ")} any more; it is being restored.`, "bad"];
  if (h.waiting_for) return [`Waiting: ${h.waiting_for}`, ""];
  if (h.flagged_recoveries) return [`A stage came back from something else than its own state: this is another model than without the loss.`, ""];
  return ["", ""];
}
