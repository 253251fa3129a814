// Loss and tokens a second over steps, with marks for what happened: who joined, was lost, came back; rounds; checkpoints.

import { byId, colour, el, fill, short } from "./dom.js";

const SIGNS = {
  J: ["joined", "green"], X: ["lost", "red"], L: ["left", "quiet"], R: ["recovered", "blue"],
  O: ["outer round", "purple"], C: ["checkpoint", "orange"],
};
const CLOSE_PIXELS = 15;

let chart = null;
let drawnFor = "";
let marks = [];

export function drawCurve(run) {
  const host = byId("curve");
  const points = run.curve.points;
  marks = run.marks;
  drawKey();
  if (!points.length) {
    chart?.destroy();
    chart = null;
    fill(host, el("p", { class: "empty" }, "The first step is not committed yet."));
    return;
  }
  const data = [points.map((p) => p[0] + p[1]), points.map((p) => p[2]), points.map((p) => p[3])];
  const look = `${host.clientWidth} ${colour("ink")}`;
  if (chart && look === drawnFor) {
    chart.setData(data);
    return;
  }
  chart?.destroy();
  fill(host);
  drawnFor = look;
  chart = new uPlot(options(host.clientWidth), data, host);
}

function options(width) {
  const axis = (scale, side, name, value) => ({
    scale, side, stroke: colour("quiet"), size: 52, font: "12px system-ui", label: width > 520 ? name : undefined,
    labelFont: "12px system-ui", labelSize: 18, grid: { show: side === 3, stroke: colour("line"), width: 1 },
    ticks: { show: false }, values: (_, ticks) => ticks.map(value),
  });
  return {
    width,
    height: width < 520 ? 240 : 290,
    cursor: { y: false, points: { size: 6 } },
    legend: { live: true },
    scales: { x: { time: false }, loss: { range: padded }, rate: { range: (_, low, high) => [0, 1.15 * (high || 1)] } },
    axes: [
      { stroke: colour("quiet"), font: "12px system-ui", grid: { show: false }, ticks: { show: false }, size: 30 },
      axis("loss", 3, "loss, nats a token", (v) => v.toFixed(v < 10 ? 2 : 1)),
      axis("rate", 1, "tokens a second", (v) => short(v)),
    ],
    series: [
      { label: "steps", value: (_, v) => (v === null ? "–" : String(v)) },
      { label: "loss", scale: "loss", stroke: colour("blue"), width: 2, points: { show: false }, value: (_, v) => (v === null ? "–" : v.toFixed(4)) },
      { label: "tokens a second", scale: "rate", stroke: colour("orange"), width: 1.2, dash: [5, 3], points: { show: false }, value: (_, v) => short(v) },
    ],
    hooks: { draw: [drawMarks] },
    padding: [20, null, 0, null],
  };
}

function padded(_, low, high) {
  const room = 0.06 * (high - low || 1);
  return [low - room, high + room];
}

/** Lines with a letter above the plot; what is too close together shares one, with its number. */
function drawMarks(plot) {
  const context = plot.ctx;
  const ratio = devicePixelRatio;
  const { left, top, width, height } = plot.bbox;
  const shown = [];
  for (const mark of marks) {
    const x = plot.valToPos(mark.step, "x", true);
    if (x < left - 1 || x > left + width + 1) continue;
    const last = shown.find((other) => other.sign === mark.sign && x - other.x < CLOSE_PIXELS * ratio);
    if (last) last.count += 1;
    else shown.push({ sign: mark.sign, x, count: 1 });
  }
  context.save();
  context.font = `700 ${11 * ratio}px system-ui`;
  context.textAlign = "center";
  const taken = [];
  for (const { sign, x, count } of shown) {
    const row = taken.filter((other) => Math.abs(other - x) < CLOSE_PIXELS * ratio).length;
    taken.push(x);
    context.strokeStyle = context.fillStyle = colour(SIGNS[sign]?.[1] ?? "quiet");
    context.lineWidth = ratio;
    context.globalAlpha = 0.55;
    context.setLineDash([3 * ratio, 3 * ratio]);
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x, top + height);
    context.stroke();
    context.globalAlpha = 1;
    context.fillText(count > 1 ? `${sign}${count}` : sign, x, top - 5 * ratio + row * 13 * ratio);
  }
  context.restore();
}

function drawKey() {
  const seen = new Set(marks.map((mark) => mark.sign));
  fill(byId("curve-key"), Object.entries(SIGNS).filter(([sign]) => seen.has(sign)).map(([sign, [name, hue]]) => {
    const letter = el("b", {}, sign);
    letter.style.color = colour(hue);
    const last = marks.findLast((mark) => mark.sign === sign);
    return el("li", { title: last.text }, letter, `${name} (last at step ${last.step})`);
  }));
}
