// Lanes are peers (regions, when there are many), columns are stages in the order a microbatch visits them. Routes run from
// column to column; a line that is dashed leaves a stage out. Arcs on the right are links: the wider, the faster.

import { SIGNS, bits, byId, colour, count, el, fill, inOrder, milliseconds, svg } from "./dom.js";

const MOST_LANES = 40;
const MOST_ARCS = 40;
const LABELLED_ARCS = 10;
const LANES_HIGH = 300;
const TOP = 34;
const HUES = ["blue", "orange", "green", "purple", "red", "sky"];
const SECONDS_A_TRIP = 3.2;

export function drawTopology(run) {
  const host = byId("topology");
  const stages = run.header.stages;
  const all = Object.entries(run.peers).filter(([, row]) => row.state !== "left");
  if (stages === undefined || !all.length) {
    const hadPeers = Object.keys(run.peers).length > 0;
    fill(host, el("p", { class: "empty" }, hadPeers ? "All peers have left." : "No peer has joined yet."));
    return;
  }
  const byRegion = all.length > MOST_LANES;
  const lanes = byRegion ? regionLanes(all) : peerLanes(all);
  const hasRegions = !byRegion && lanes.some((lane) => lane.region || lane.island);
  const place = placement(host.clientWidth, lanes.length, stages, hasRegions);
  const laneOf = new Map(lanes.flatMap((lane, index) => lane.peers.map((id) => [id, index])));
  const arcs = arcsOf(run, lanes, laneOf, byRegion);
  const drawn = signature(run, lanes, place, arcs);
  if (host.dataset.drawn === drawn) return;
  host.dataset.drawn = drawn;
  fill(
    host,
    svg(
      "svg", { viewBox: `0 0 ${place.width} ${place.height}`, width: place.width, height: place.height, role: "img", "aria-label": describe(run, lanes) },
      bands(lanes, place), rails(stages, place), arcShapes(arcs, place), routeShapes(run, place, laneOf), ...lanes.flatMap((lane, index) => dots(lane, index, place, stages)),
    ),
  );
  key(run, byRegion, arcs);
}

/** What decides the drawing: it is left alone, and its movers moving, while this stays. */
function signature(run, lanes, place, arcs) {
  const shapes = lanes.map((lane) => [lane.name, lane.state, lane.region, [...lane.stages]]);
  const rough = arcs.map((arc) => [arc.from, arc.to, arc.seconds.toPrecision(1), Math.round(Math.log2(arc.rate || 1))]);
  return JSON.stringify([shapes, place, run.routes.step, rough, colour("ink"), run.header.conductors]);
}

function peerLanes(all) {
  const lanes = all.map(([id, row]) => ({
    name: row.name, region: row.region, state: row.state, island: row.island, peers: [id], stages: new Map(row.stages.map((s) => [s, 1])), first: row.stages[0] ?? 1e6,
  }));
  return lanes.sort((a, b) => a.island - b.island || inOrder(a.region, b.region) || a.first - b.first || inOrder(a.name, b.name));
}

function regionLanes(all) {
  const lanes = new Map();
  for (const [id, row] of all) {
    const lane = lanes.get(row.region) ?? { name: row.region || "no region said", region: "", state: "serving", peers: [], stages: new Map() };
    lane.peers.push(id);
    for (const stage of row.stages) if (row.state === "serving") lane.stages.set(stage, (lane.stages.get(stage) ?? 0) + 1);
    lanes.set(row.region, lane);
  }
  return [...lanes.values()].sort((a, b) => inOrder(a.name, b.name)).slice(0, MOST_LANES);
}

function placement(available, lanes, stages, hasRegions) {
  const isNarrow = available < 520;
  const [left, arcs] = isNarrow ? [76, 66] : [148, 132];
  const margin = hasRegions && !isNarrow ? 104 : 0;
  const right = arcs + margin;
  const width = Math.max(available, left + right + (isNarrow ? 34 : 46) * (stages + 1));
  const step = (width - left - right) / (stages + 1);
  // Few lanes share the room that more would take; many are as narrow as a line of text.
  const lane = Math.round(Math.max(26, Math.min(54, LANES_HIGH / lanes)));
  return { width, left, right, margin, step, lane, height: TOP + lanes * lane + 10, x: (column) => left + column * step, y: (index) => TOP + (index + 0.5) * lane };
}

function bands(lanes, place) {
  const shapes = [];
  lanes.forEach((lane, index) => {
    const before = lanes[index - 1];
    if (index % 2 === 0) shapes.push(svg("rect", { class: "band", x: 0, y: TOP + index * place.lane, width: place.width, height: place.lane, rx: 5 }));
    const label = svg("text", { x: 8, y: place.y(index) + 4 }, clipped(lane.name, place.left < 100 ? 9 : 17));
    label.append(svg("title", {}, lane.name));
    shapes.push(label);
    const where = [lane.island ? `island ${lane.island}` : "", lane.region].filter(Boolean).join(", ");
    const was = before && [before.island ? `island ${before.island}` : "", before.region].filter(Boolean).join(", ");
    if (place.margin && where !== was) shapes.push(svg("text", { class: "faint", x: place.width - place.margin + 4, y: place.y(index) + 4 }, clipped(where, 15)));
  });
  return svg("g", {}, ...shapes);
}

function rails(stages, place) {
  const columns = [...Array(stages + 2).keys()];
  const name = (column) => (column === 0 ? "embed" : column === stages + 1 ? "head" : place.step < 52 ? `${column}` : `stage ${column}`);
  return svg("g", {}, ...columns.flatMap((column) => [
    svg("line", { class: "rail", x1: place.x(column), x2: place.x(column), y1: TOP - 6, y2: place.height - 6 }),
    svg("text", { class: "faint", x: place.x(column), y: TOP - 13, "text-anchor": "middle" }, name(column)),
  ]));
}

function dots(lane, index, place, stages) {
  const shapes = [];
  for (const [stage, n] of lane.stages) {
    for (const column of stage === 0 ? [0, stages + 1] : [stage]) {
      const x = place.x(column);
      const y = place.y(index);
      const radius = lane.peers.length > 1 ? Math.min(11, 5 + Math.sqrt(n)) : 6;
      shapes.push(svg("circle", { class: `dot state-${lane.state}`, cx: x, cy: y, r: radius }, svg("title", {}, `${lane.name}, ${stage === 0 ? "edge" : `stage ${stage}`}: ${lane.state}`)));
      if (lane.state === "lost") shapes.push(svg("path", { class: "cross", d: `M${x - 4} ${y - 4}l8 8m0-8l-8 8` }));
      if (lane.peers.length > 1) shapes.push(svg("text", { x, y: y + 4, "text-anchor": "middle", class: "count" }, n > 99 ? "99+" : String(n)));
    }
  }
  return shapes;
}

// ---- routes

function routeShapes(run, place, laneOf) {
  const stages = run.header.stages;
  const shapes = [];
  const routes = run.routes.routes;
  routes.forEach(({ key: microbatch, visits }, index) => {
    const hue = colour(HUES[index % HUES.length]);
    const points = visits.map(([stage, peer], i) => ({
      column: stage === 0 ? (i === 0 ? 0 : stages + 1) : stage,
      lane: laneOf.get(peer),
    })).filter((point) => point.lane !== undefined);
    const spread = (index - (routes.length - 1) / 2) * Math.min(1.6, 10 / routes.length);
    const whole = [];
    for (let i = 1; i < points.length; i += 1) {
      const d = segment(points[i - 1], points[i], place, spread);
      whole.push(i === 1 ? d : d.replace(/^M\S+ \S+ /, ""));
      const skips = points[i].column > points[i - 1].column + 1;
      shapes.push(svg("path", { class: skips ? "route skips" : "route", d, stroke: hue }, svg("title", {}, `microbatch ${microbatch}`)));
    }
    if (points.length > 1) shapes.push(mover(whole.join(" "), hue, index, routes.length));
  });
  return svg("g", { class: "routes" }, ...shapes);
}

function segment(a, b, place, spread) {
  const [x1, y1, x2, y2] = [place.x(a.column), place.y(a.lane) + spread, place.x(b.column), place.y(b.lane) + spread];
  const bend = Math.max(18, Math.abs(x2 - x1) / 2);
  return `M${x1.toFixed(1)} ${y1.toFixed(1)} C${(x1 + bend).toFixed(1)} ${y1.toFixed(1)} ${(x2 - bend).toFixed(1)} ${y2.toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`;
}

function mover(path, hue, index, total) {
  const begin = `${((-SECONDS_A_TRIP * index) / total).toFixed(2)}s`;
  return svg("circle", { class: "mover", r: 4, fill: hue }, svg("animateMotion", { path, dur: `${SECONDS_A_TRIP}s`, begin, repeatCount: "indefinite" }));
}

// ---- links

function arcsOf(run, lanes, laneOf, byRegion) {
  const rows = byRegion ? run.links.regions : run.links.peers;
  const regionLane = new Map(lanes.map((lane, index) => [lane.name, index]));
  const pairs = new Map();
  for (const [from, to, seconds, rate] of rows) {
    const ends = (byRegion ? [from || "no region said", to || "no region said"].map((r) => regionLane.get(r)) : [laneOf.get(from), laneOf.get(to)]);
    if (ends.includes(undefined) || ends[0] === ends[1]) continue;
    const [low, high] = ends[0] < ends[1] ? ends : [ends[1], ends[0]];
    const pair = pairs.get(`${low} ${high}`) ?? { from: low, to: high, seconds: 0, rate: 0, ways: 0 };
    pair.seconds += seconds;
    pair.rate = Math.max(pair.rate, rate);
    pair.ways += 1;
    pairs.set(`${low} ${high}`, pair);
  }
  return [...pairs.values()].sort((a, b) => b.rate - a.rate).slice(0, MOST_ARCS);
}

/** A round trip is both ways; of a link that only one end measured, twice the one. */
const roundTrip = (arc) => (2 * arc.seconds) / arc.ways;

function arcShapes(arcs, place) {
  const x = place.width - place.right + 18;
  const room = place.right - place.margin - 38;
  // Many arcs cross: each is fainter then.
  const opacity = Math.max(0.16, Math.min(0.6, 7 / arcs.length));
  const far = Math.max(1, ...arcs.map((arc) => arc.to - arc.from));
  const shapes = arcs.map((arc, index) => {
    const [y1, y2] = [place.y(arc.from), place.y(arc.to)];
    const out = 10 + (room * (arc.to - arc.from)) / far;
    const width = arc.rate ? Math.max(0.8, Math.min(6, 0.55 * Math.log2(arc.rate / 1e5))) : 0.8;
    const text = `round trip ${milliseconds(roundTrip(arc))}, ${bits(arc.rate)}`;
    const path = svg("path", { class: "arc", d: `M${x} ${y1}C${x + out} ${y1} ${x + out} ${y2} ${x} ${y2}`, "stroke-width": width.toFixed(1), "stroke-opacity": opacity.toFixed(2), tabindex: index < LABELLED_ARCS ? 0 : undefined, "aria-label": text }, svg("title", {}, text));
    return path;
  });
  return svg("g", {}, ...shapes);
}

export function drawLinks(run) {
  const regions = [...new Set(run.links.regions.flatMap(([from, to]) => [from, to]))].sort(inOrder);
  byId("links-details").hidden = !regions.length;
  const shown = (region) => region || (regions.length > 1 ? "(not said)" : "all peers");
  const found = new Map(run.links.regions.map(([from, to, seconds, rate, n]) => [`${from}>${to}`, { seconds, rate, n }]));
  const cell = (from, to) => {
    const row = found.get(`${from}>${to}`);
    return el("td", { class: "number", title: row ? `${row.n} links` : undefined }, row ? `${milliseconds(2 * row.seconds)}, ${bits(row.rate)}` : "–");
  };
  fill(byId("links"), el(
    "table", {},
    el("caption", { class: "quiet" }, "Median round trip and rate, measured by the sender (row) to the receiver (column)"),
    el("thead", {}, el("tr", {}, el("th", {}, ""), ...regions.map((region) => el("th", { class: "number", scope: "col" }, shown(region))))),
    el("tbody", {}, ...regions.map((from) => el("tr", {}, el("th", { scope: "row" }, shown(from)), ...regions.map((to) => cell(from, to))))),
  ));
}

// ---- words

function key(run, byRegion, arcs) {
  const line = (dashed) => svg("svg", { width: 26, height: 8 }, svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour("blue"), "stroke-width": 2, "stroke-dasharray": dashed ? "5 5" : undefined }));
  const routes = run.routes.routes;
  const trips = arcs.map(roundTrip).sort((a, b) => a - b);
  byId("route-step").textContent = run.routes.step === null ? "" : `routes of step ${run.routes.step}`;
  fill(
    byId("topology-key"),
    routes.length ? el("li", {}, line(false), `route of a microbatch (${routes.length} shown)`) : el("li", {}, "no step was told in detail yet"),
    routes.length ? el("li", {}, line(true), "leaves stages out") : null,
    arcs.length ? el("li", {}, `links at the right: round trips ${milliseconds(trips[0])} to ${milliseconds(trips.at(-1))}, up to ${bits(arcs[0].rate)}`) : null,
    byRegion ? el("li", {}, "a dot is all serving peers of a region") : null,
    [...new Set(Object.values(run.peers).map((row) => row.state))].includes("lost") ? el("li", { class: "state-lost" }, el("span", { class: "sign" }, SIGNS.lost), "lost") : null,
  );
}

function describe(run, lanes) {
  const routes = run.routes.routes.map(({ key: k, visits }) => `microbatch ${k} by ${visits.map(([stage]) => stage).join(" ")}`);
  return `${count(lanes.length)} lanes; ${routes.join("; ")}`;
}

const clipped = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
