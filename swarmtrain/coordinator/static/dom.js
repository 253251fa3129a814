// Elements and figures. What peers say of themselves only ever becomes text: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; strings become text. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "onclick") element.addEventListener("click", value);
    else if (name === "share") element.style.setProperty("--share", `${100 * value}%`);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Put `children` in place of what `element` has. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

const DASH = "–";

export function count(value) {
  return value === null || value === undefined ? DASH : Math.round(value).toLocaleString("en");
}

/** Three digits and a unit: 12.3 M. */
export function short(value, units = ["", "k", "M", "G", "T"], base = 1000) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  let unit = 0;
  while (Math.abs(value) >= base && unit < units.length - 1) {
    value /= base;
    unit += 1;
  }
  const digits = Math.abs(value) >= 100 || (unit === 0 && Number.isInteger(value)) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  const text = value.toFixed(digits);
  return units[unit] ? `${text} ${units[unit]}` : text;
}

export const bytes = (value) => short(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024);
export const bits = (bytesPerSecond) => (bytesPerSecond ? short(8 * bytesPerSecond, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]) : DASH);

export function milliseconds(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  const value = 1000 * seconds;
  if (value < 0.1) return `${(1000 * value).toFixed(0)} µs`;
  return value >= 100 ? `${value.toFixed(0)} ms` : `${value.toFixed(1)} ms`;
}

/** 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return DASH;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** Losses that JSON cannot hold come as text. */
export function loss(value) {
  const number = typeof value === "string" ? Number.parseFloat(value) : value;
  return typeof number === "number" && Number.isFinite(number) ? number.toFixed(4) : value === null ? DASH : String(value);
}

export const SIGNS = { serving: "●", joining: "◌", leaving: "◐", lost: "✕", left: "–" };

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Names that sort as people count: peer-2 before peer-10. */
export const inOrder = new Intl.Collator("en", { numeric: true }).compare;
