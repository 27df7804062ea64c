// The table of streams: search, reasons, and why a stream is judged so.

import { clock, learnClock, now } from "./clock.js";
import { listHistory } from "./history.js";
import { orderButton, ordersTaken } from "./orders.js";
import { read } from "./server.js";
import { status, trouble } from "./status.js";
import { $, arrange, count, el, known, many, mark, NARROW, plain, span, write } from "./text.js";

const PAGE = NARROW ? 50 : 200;

const WORDS = { kept: "kept", waiting: "waiting", would_drain: "zombie", unfixable: "unfixable", gone: "gone" };
const URGENCY = { unfixable: 0, would_drain: 1, waiting: 2, kept: 3 };
const COLUMNS = [
  { key: "stream", title: "Stream" },
  { key: "verdict", title: "Verdict", css: "mid" },
  { key: "reason", title: "Reason" },
  { key: "status", title: "Job's status", css: "mid" },
  { key: "age_s", title: "Age", css: "number mid" },
  { key: "terminal_at", title: "Job ended", css: "mid extra" },
  { key: "until", title: "Due", css: "number" },
  { key: "messages", title: "Messages", css: "number mid" },
  { key: "redelivered", title: "Redelivered", css: "number mid extra" },
];
const natural = new Intl.Collator("en", { numeric: true });
export const table = {
  all: [], at: 0, wanted: [], search: "", reasons: new Set(), sort: "verdict", down: false, limit: PAGE, rows: new Map(), read: false,
  error: null, fallen: new Map(), linked: null,
};
const inView = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    target.row.seen = isIntersecting;
    if (isIntersecting) tickRow(target.row);
  }
});

export function showStreams(answer) {
  learnClock(answer.at);
  table.at = Date.parse(answer.at) || now();
  table.read = true;
  table.error = answer.error ?? null;
  const there = new Set((answer.streams ?? []).map(({ stream }) => stream));
  for (const name of there) table.fallen.delete(name);
  for (const [name, row] of table.rows) {
    if (row.why && !there.has(name) && !table.fallen.has(name)) table.fallen.set(name, { ...row.one, verdict: "gone", until: null });
  }
  table.all = [...(answer.streams ?? []), ...table.fallen.values()].map((one) => ({
    ...one,
    ended: known(one.terminal_at) ? Date.parse(one.terminal_at) : null,
    due: known(one.until) ? Date.parse(one.until) : null,
    haystack: [one.stream, plain(one.stream), one.job_id, WORDS[one.verdict], one.verdict, one.reason, one.status, one.rule, one.detail]
      .filter(known).join("\n").toLowerCase(),
  })).sort((one, two) => natural.compare(one.stream, two.stream));
  table.all.forEach((one, rank) => { one.rank = rank; });
  showChips();
  showTable();
  followLink();
}

/** A stream that falls while its row is open stays there, and says so, until the row is closed. */
export function markDrained({ stream, at }) {
  const row = table.rows.get(stream);
  if (!row?.why) return;
  table.fallen.set(stream, { ...row.one, verdict: "drained", until: null, fell: at });
  const index = table.all.findIndex((one) => one.stream === stream);
  if (index >= 0) table.all[index] = { ...table.all[index], verdict: "drained", until: null, due: null, fell: at };
  showTable();
}

// Links: #stream=job_42 opens why it is judged so, or what became of it.

const linkTo = (stream) => `#stream=${encodeURIComponent(stream.toWellFormed?.() ?? stream)}`;

function linkedStream() {
  const match = /^#stream=(.+)$/u.exec(location.hash);
  try {
    return match ? decodeURIComponent(match[1]) : null;
  } catch {
    return null;
  }
}

async function followLink() {
  const name = linkedStream();
  if (name === null || name === table.linked || !table.read) return;
  table.linked = name;
  table.reasons.clear();
  search(name);
  $("search").value = name;
  const row = table.rows.get(name);
  if (row) {
    if (!row.why) openRow(row);
    row.open.scrollIntoView({ block: "center" });
    row.open.focus({ preventScroll: true });
    return;
  }
  try {
    await read(`api/streams/${encodeURIComponent(name)}`);
  } catch (error) {
    if (linkedStream() === name) $("streams-empty").replaceChildren(...(error.gone ? goneParts(error.gone) : [plain(error.message)]));
  }
}

function search(words) {
  table.search = words.trim();
  table.limit = PAGE;
  showTable();
  listHistory();
}

function showChips() {
  const counted = new Map();
  for (const { reason, verdict } of table.all) {
    const chip = counted.get(reason) ?? { verdict, number: 0 };
    chip.number += 1;
    counted.set(reason, chip);
  }
  for (const reason of table.reasons) if (!counted.has(reason)) counted.set(reason, { verdict: null, number: 0 });
  const ordered = [...counted].sort(([a, one], [b, two]) => (
    (URGENCY[one.verdict] ?? 9) - (URGENCY[two.verdict] ?? 9) || natural.compare(a, b)
  ));
  const box = $("reasons");
  const old = new Map([...box.children].map((chip) => [chip.reason, chip]));
  const chips = ordered.map(([reason, { verdict, number }]) => {
    const chip = old.get(reason) ?? newChip(reason);
    mark(chip, "data-verdict", verdict);
    mark(chip, "aria-pressed", String(table.reasons.has(reason)));
    write(chip.number, count(number));
    return chip;
  });
  arrange(box, chips);
}

function newChip(reason) {
  const number = el("b");
  const toggle = () => {
    if (!table.reasons.delete(reason)) table.reasons.add(reason);
    table.limit = PAGE;
    showChips();
    showTable();
  };
  const chip = el("button", { type: "button", "data-reason": reason, onclick: toggle },
    el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "data" }, reason), number);
  return Object.assign(chip, { reason, number });
}

function byColumn(one, two) {
  if (table.sort === "stream") return one.rank - two.rank;
  if (table.sort === "verdict") return (URGENCY[one.verdict] ?? 9) - (URGENCY[two.verdict] ?? 9);
  const [a, b] = { terminal_at: [one.ended, two.ended], until: [one.due, two.due] }[table.sort] ?? [one[table.sort], two[table.sort]];
  if (typeof a === "number" && typeof b === "number") return a - b;
  return natural.compare(String(a), String(b));
}

function unknownLast(one, two) {
  return table.sort === "verdict" ? 0 : Number(!known(one[table.sort])) - Number(!known(two[table.sort]));
}

function dueFirst(one, two) {
  const [a, b] = [one.due ?? Infinity, two.due ?? Infinity];
  return a === b ? 0 : a - b;
}

function showTable() {
  const needle = table.search.toLowerCase();
  const direction = table.down ? -1 : 1;
  table.wanted = table.all
    .filter((one) => (table.reasons.size === 0 || table.reasons.has(one.reason)) && one.haystack.includes(needle))
    .sort((one, two) => unknownLast(one, two) || direction * byColumn(one, two) || dueFirst(one, two) || one.rank - two.rank);
  for (const head of $("streams-table").tHead.rows[0].cells) {
    mark(head, "aria-sort", head.key === table.sort ? (table.down ? "descending" : "ascending") : null);
  }
  const shown = table.wanted.slice(0, table.limit);
  const rows = new Map();
  const nodes = [];
  for (const one of shown) {
    const row = table.rows.get(one.stream) ?? newRow(one.stream);
    fillRow(row, one);
    rows.set(one.stream, row);
    nodes.push(row.line);
    if (row.why) nodes.push(row.why);
  }
  for (const [name, row] of table.rows) if (!rows.has(name)) inView.unobserve(row.line);
  table.rows = rows;
  arrange($("streams-table").tBodies[0], nodes);
  showCount(shown.length);
}

export function showCount(shown) {
  const [found, all] = [table.wanted.length, table.all.length];
  const filtered = found === all ? "" : ` of ${count(all)}`;
  write($("streams-count"), table.read ? `${shown < found ? `${count(shown)} shown of ` : ""}${count(found)}${filtered}` : "reading …");
  $("streams-more").hidden = shown >= found;
  write($("streams-more"), `Show ${count(Math.min(PAGE, found - shown))} more`);
  $("streams-empty").hidden = found > 0 || !table.read;
  write($("streams-empty"), all > 0 ? "No stream fits the search and the reasons chosen." : nothingThere());
}

/** An empty list is no empty account where nobody could look. */
function nothingThere() {
  if (trouble !== null) return "Nothing can be read now.";
  if (known(table.error)) return `The last full pass failed, so nobody knows: ${table.error}`;
  if (status !== null && !known(status.job_streams)) return "Not known before the first full pass.";
  return "No job streams. Nothing to do.";
}

let rowsMade = 0;

function newRow(stream) {
  rowsMade += 1;
  const name = el("span", { class: "data" }, stream);
  const open = el("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": `why-${rowsMade}` }, name);
  const row = { stream, id: `why-${rowsMade}`, open, why: null, one: null, cells: {}, dot: el("span", { class: "dot", "aria-hidden": "true" }), told: "" };
  row.line = Object.assign(el("tr"), { row });
  // The button is for the keyboard; a click anywhere in the row does the same, unless it selects text.
  row.line.addEventListener("click", () => {
    if (String(getSelection())) return;
    if (row.why) closeRow(row);
    else openRow(row);
  });
  inView.observe(row.line);
  for (const { key, css } of COLUMNS) {
    const cell = el("td", { class: css });
    if (key === "stream") cell.append(open);
    else if (key === "verdict") {
      row.cells[key] = el("span");
      cell.append(el("span", { class: "tag" }, row.dot, row.cells[key]));
    } else if (key === "reason") {
      row.cells[key] = el("span", { class: "tag data" });
      cell.append(row.cells[key]);
    } else row.cells[key] = cell;
    if (key === "until") cell.classList.add("due");
    if (key === "status") cell.classList.add("data");
    row.line.append(cell);
  }
  return row;
}

function fillRow(row, one) {
  row.one = one;
  mark(row.line, "data-verdict", one.verdict);
  write(row.cells.verdict, known(one.fell) ? `drained at ${clock(one.fell)}` : WORDS[one.verdict] ?? one.verdict);
  write(row.cells.reason, one.exhausted ? `${one.reason}, exhausted` : one.reason);
  write(row.cells.status, one.status);
  write(row.cells.terminal_at, known(one.ended) ? clock(one.ended) : null);
  mark(row.cells.terminal_at, "title", known(one.terminal_at) ? plain(one.terminal_at) : null);
  write(row.cells.messages, count(one.messages));
  write(row.cells.redelivered, count(one.redelivered));
  row.cells.messages.classList.toggle("zero", !one.messages);
  row.cells.redelivered.classList.toggle("zero", !one.redelivered);
  tickRow(row);
  if (row.why && row.told !== verdictKey(one)) loadWhy(row);
}

const verdictKey = ({ verdict, reason, until, status: word }) => JSON.stringify([verdict, reason, until, word]);

export function tickRow(row) {
  const { one, cells } = row;
  write(cells.age_s, known(one.age_s) ? span(one.age_s + (now() - table.at) / 1000) : null);
  const left = known(one.due) ? (one.due - now()) / 1000 : null;
  const fallen = (left !== null && left <= 0) || (left === null && one.verdict === "would_drain");
  write(cells.until, table.fallen.has(one.stream) ? null : fallen ? "now" : left === null ? null : `in ${span(left)}`);
  mark(cells.until, "data-now", fallen);
  mark(cells.until, "title", known(one.until) ? plain(one.until) : null);
}

function closeRow(row) {
  row.why.remove();
  if (linkedStream() === row.stream) history.replaceState(null, "", location.pathname + location.search);
  if (table.fallen.delete(row.stream)) {
    table.all = table.all.filter((one) => one.stream !== row.stream);
    setTimeout(showTable);
  }
  row.why = null;
  row.told = "";
  mark(row.open, "aria-expanded", "false");
}

function openRow(row) {
  row.box = el("div", { class: "reasoning", "aria-live": "polite" }, el("p", { class: "muted" }, "Asking why …"));
  row.why = el("tr", { class: "why", id: row.id, "data-verdict": row.one.verdict }, el("td", { colspan: COLUMNS.length }, row.box));
  row.line.after(row.why);
  mark(row.open, "aria-expanded", "true");
  table.linked = row.stream;
  history.replaceState(null, "", linkTo(row.stream));
  loadWhy(row);
}

async function loadWhy(row) {
  const asked = verdictKey(row.one);
  row.told = asked;
  mark(row.why, "data-verdict", row.one.verdict);
  try {
    const why = await read(`api/streams/${encodeURIComponent(String(row.stream).toWellFormed?.() ?? row.stream)}`);
    if (row.why && row.told === asked) showWhy(row, why);
  } catch (error) {
    if (!row.why || row.told !== asked) return;
    if (error.gone) row.box.replaceChildren(...goneParts(error.gone));
    else row.box.replaceChildren(el("p", { class: "failed data" }, `Could not be told: ${error.message}`));
  }
}

/** What became of a stream that is not there. */
function goneParts({ stream, sentence, restorable, timeline: acts = [] }) {
  const left = el("div", {}, el("p", { class: "sentence data" }, sentence));
  if (known(restorable)) {
    const whole = restorable.lost > 0 ? `empty: ${many(restorable.lost, "message is", "messages are")} lost` : `with ${many(restorable.messages, "message", "messages")}`;
    left.append(el("h3", {}, "To bring it back"), el("p", { class: "data" }, `${restorable.command} (${whole})`));
    if (ordersTaken) left.append(el("div", { class: "orders" }, orderButton("restore", stream, undefined, restorable.lost > 0 ? { without_messages: true } : {})));
  }
  const lines = acts.map(({ at, what }) => el("li", {}, el("span", { class: "time" }, clock(at)), " ", el("span", { class: "data" }, what)));
  return [left, el("div", {}, el("h3", {}, "What happened"), el("ol", { class: "acts" }, ...lines))];
}

function showWhy(row, why) {
  const left = el("div", {}, el("p", { class: "sentence data" }, why.sentence));
  if (known(row.one.detail)) left.append(el("h3", {}, "Detail"), el("p", { class: "data" }, row.one.detail));
  if (known(why.changes)) left.append(el("h3", {}, "What would change it"), el("p", { class: "data" }, why.changes));
  const rule = known(why.rule) && why.rule !== "default" ? ` (rule: ${why.rule})` : "";
  if (why.guards?.length) left.append(el("h3", {}, `Guards${rule}`), el("ul", { class: "guards" }, ...why.guards.map(guardLine)));
  if (ordersTaken) {
    const kind = why.reason === "protected" ? "unprotect" : "protect";
    left.append(el("div", { class: "orders" }, orderButton(kind, row.stream, () => { row.told = ""; loadWhy(row); })));
  }
  left.append(el("p", {}, el("a", { class: "link", href: linkTo(row.stream) }, "Link to this stream")));
  const one = row.one;
  const figures = { verdict: WORDS[one.verdict] ?? one.verdict, status: one.status, age: span(one.age_s), "job ended": one.terminal_at,
    messages: one.messages, redelivered: one.redelivered };
  left.append(el("div", { class: "narrow" }, el("h3", {}, "Figures"), tree(figures)));
  const right = el("div", {}, el("h3", {}, "Evidence"), tree(why.evidence ?? {}));
  row.box.replaceChildren(left, right);
}

function guardLine({ guard, length_s: length, passes_at: at, passed }) {
  const instant = Date.parse(at);
  const when = el("span", { class: "time" });
  if (passed) write(when, known(at) ? `passed at ${clock(at)}` : "passed");
  else if (!known(at)) write(when, "not known when it passes");
  else if (Number.isFinite(instant)) Object.assign(when, { passesAt: instant, className: "time countdown" });
  else write(when, at);
  const line = el("li", { "data-passed": Boolean(passed) }, el("span", { class: "mark", "aria-hidden": "true" }, passed ? "✓" : "…"),
    el("span", { class: "data" }, `${String(guard).replaceAll("_", " ")} ${span(length)}`), when);
  tickGuard(when);
  return line;
}

export function tickGuard(when) {
  if (!when.passesAt) return;
  const left = (when.passesAt - now()) / 1000;
  write(when, left > 0 ? `passes at ${clock(when.passesAt)}, in ${span(left)}` : `passed at ${clock(when.passesAt)}`);
}

/** Any JSON as nested names and values; deep or long ones are cut. */
function tree(value, depth = 0) {
  const list = el("dl", { class: "tree" });
  const entries = Object.entries(value);
  for (const [name, one] of entries.slice(0, 60)) {
    const nested = one !== null && typeof one === "object";
    const flat = nested && (depth >= 5 || (Array.isArray(one) && one.every((item) => item === null || typeof item !== "object")));
    const text = flat ? (Array.isArray(one) && depth < 5 ? one.join(", ") || "none" : JSON.stringify(one)) : one;
    list.append(el("dt", { class: "data" }, name));
    if (nested && !flat) list.append(Object.keys(one).length ? el("dd", { class: "nested" }, tree(one, depth + 1)) : el("dd", {}, "none"));
    else list.append(el("dd", { class: "data" }, text));
  }
  if (entries.length > 60) list.append(el("dt", {}, "…"), el("dd", {}, `${entries.length - 60} more`));
  if (entries.length === 0) list.append(el("dt", {}, "none"), el("dd", {}));
  return list;
}

export function buildTable() {
  const heads = COLUMNS.map(({ key, title, css }) => {
    const head = el("th", { scope: "col", class: css }, el("button", { type: "button", onclick: () => sortBy(key) }, title));
    return Object.assign(head, { key });
  });
  $("streams-table").tHead.rows[0].append(...heads);
  $("search").addEventListener("input", (event) => search(event.target.value));
  $("streams-more").addEventListener("click", () => {
    table.limit += PAGE;
    showTable();
  });
  document.addEventListener("keydown", pressed);
  addEventListener("hashchange", followLink);
}

/** `/` searches, Esc leaves the search or closes the row, arrows go from stream to stream. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  if (key === "Escape") {
    if (target === $("search")) {
      target.value = "";
      search("");
      return;
    }
    const line = target.closest?.("#streams-table tbody tr");
    const row = [...table.rows.values()].find((one) => one.why && (one.line === line || one.why === line));
    if (!row) return;
    row.open.focus();
    closeRow(row);
  } else if (key === "/" && !target.matches("input, textarea")) {
    event.preventDefault();
    $("search").focus();
  } else if ((key === "ArrowDown" || key === "ArrowUp") && target.matches(".open")) {
    const opens = [...document.querySelectorAll("#streams-table .open")];
    const next = opens[opens.indexOf(target) + (key === "ArrowDown" ? 1 : -1)];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}

function sortBy(key) {
  table.down = table.sort === key && !table.down;
  table.sort = key;
  showTable();
}
