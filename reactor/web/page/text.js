// Show text from outside, and figures.

export const $ = (id) => document.getElementById(id);
export const NARROW = matchMedia("(max-width: 62rem)").matches;
const TEXT_KEPT = 2000;

// Controls, formats (bidi, zero width, tags), lone surrogates, line and paragraph separators, and other invisible characters.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0\u034f\u180b-\u180f\ufe00-\ufe0f]/gu;

function spelled(character) {
  const code = character.codePointAt(0);
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

export function plain(value) {
  return String(value).replace(INVISIBLE, spelled);
}

/** Shows a text from outside in a node, instead of what was there. An unchanged text changes nothing. */
export function write(node, value) {
  let text = value === null || value === undefined ? "–" : String(value);
  if (text.length > TEXT_KEPT) text = `${text.slice(0, TEXT_KEPT)} …`;
  if (node.shown === text) return node;
  node.shown = text;
  const parts = [];
  let last = 0;
  for (const match of text.matchAll(INVISIBLE)) {
    if (match.index > last) parts.push(text.slice(last, match.index));
    parts.push(Object.assign(document.createElement("span"), { className: "escape", textContent: spelled(match[0]) }));
    last = match.index + match[0].length;
  }
  if (last < text.length || parts.length === 0) parts.push(text.slice(last));
  node.replaceChildren(...parts);
  return node;
}

/** Returns an element with attributes. Children are nodes or texts; texts may come from outside. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  if (children.length === 1 && !(children[0] instanceof Node)) return write(node, children[0]);
  node.append(...children.map((child) => (child instanceof Node ? child : plain(child))));
  return node;
}

export function mark(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

const whole = new Intl.NumberFormat("en");
export const known = (value) => value !== null && value !== undefined;
export const count = (value) => (Number.isFinite(value) ? whole.format(value) : "–");

export function span(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s < 1 && s > 0) return `${Math.ceil(s * 1000)}ms`;
  if (s < 60) return `${Math.floor(s)}s`;
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)}m ${two(s % 60)}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${two((s % 3600) / 60)}m`;
  return `${Math.floor(s / 86_400)}d ${Math.floor((s % 86_400) / 3600)}h`;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return ["–", ""];
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) [value, power] = [value / 1024, power + 1];
  return [power === 0 || value >= 100 ? String(Math.round(value)) : value.toFixed(1), units[power]];
}

export const toned = (value, tone) => (value > 0 ? tone : "none");
export const many = (number, singular, plural) => `${count(number)} ${number === 1 ? singular : plural}`;

/** Makes the nodes the children of a box, in order. It moves only what must move, so that focus is kept. */
export function arrange(box, nodes) {
  const focused = document.activeElement;
  const wanted = new Set(nodes);
  for (const child of [...box.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (box.children[index] !== node) box.insertBefore(node, box.children[index] ?? null);
  });
  if (focused !== document.activeElement && box.contains(focused)) focused.focus({ preventScroll: true });
}
