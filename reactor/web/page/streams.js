// The table of streams: search, filters by reason, and the explanation of each verdict.

import { clock, learnClock, now } from "./clock.js";
import { orderButton } from "./orders.js";
import { read } from "./server.js";
import { showFailureIn, source } from "./sources.js";
import { set, state, watch } from "./state.js";
import { $, arrange, count, el, known, many, mark, NARROW, plain, span, write } from "./text.js";

const PAGE = NARROW ? 50 : 200;

const LABELS = { kept: "kept", waiting: "waiting", would_drain: "zombie", unfixable: "unfixable", gone: "gone" };
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
const table = {
  all: [],
  matching: [],
  rows: new Map(),
  /** Streams that are gone while their row is open. The row stays until it is closed. */
  gone: new Map(),
  at: 0,
  isRead: false,
  error: null,
  reasons: new Set(),
  sort: "verdict",
  down: false,
  limit: PAGE,
  linked: null,
};
const visibility = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    target.row.isVisible = isIntersecting;
    if (isIntersecting) tickRow(target.row);
  }
});

export const streamsSource = source("api/streams", showStreams, (message) => {
  showFailureIn("streams-empty")(message);
  if (!table.isRead) write($("streams-count"), "");
});
watch(["status", "trouble"], () => { if (table.isRead) showCount(table.rows.size); });

function showStreams(answer) {
  learnClock(answer.at);
  table.at = Date.parse(answer.at) || now();
  table.isRead = true;
  table.error = answer.error ?? null;
  const there = new Set((answer.streams ?? []).map(({ stream }) => stream));
  for (const name of there) table.gone.delete(name);
  for (const [name, row] of table.rows) {
    if (row.why && !there.has(name) && !table.gone.has(name)) table.gone.set(name, { ...row.item, verdict: "gone", until: null });
  }
  table.all = [...(answer.streams ?? []), ...table.gone.values()].map((item) => ({
    ...item,
    ended: known(item.terminal_at) ? Date.parse(item.terminal_at) : null,
    due: known(item.until) ? Date.parse(item.until) : null,
    haystack: [item.stream, plain(item.stream), item.job_id, LABELS[item.verdict], item.verdict, item.reason, item.status, item.rule, item.detail]
      .filter(known).join("\n").toLowerCase(),
  })).sort((item, other) => natural.compare(item.stream, other.stream));
  table.all.forEach((item, rank) => { item.rank = rank; });
  showChips();
  showTable();
  followLink();
}

/** Marks a stream as drained. If its row is open, it stays until the row is closed. */
export function markDrained({ stream, at }) {
  const row = table.rows.get(stream);
  if (!row?.why) return;
  table.gone.set(stream, { ...row.item, verdict: "drained", until: null, drainedAt: at });
  const index = table.all.findIndex((item) => item.stream === stream);
  if (index >= 0) table.all[index] = { ...table.all[index], verdict: "drained", until: null, due: null, drainedAt: at };
  showTable();
}

// Links: #stream=job_42 opens the explanation of that stream, also if it is gone.

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
  if (name === null || name === table.linked || !table.isRead) return;
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

function search(text) {
  table.limit = PAGE;
  set("search", text.trim());
  showTable();
}

function showChips() {
  const counted = new Map();
  for (const { reason, verdict } of table.all) {
    const chip = counted.get(reason) ?? { verdict, number: 0 };
    chip.number += 1;
    counted.set(reason, chip);
  }
  for (const reason of table.reasons) if (!counted.has(reason)) counted.set(reason, { verdict: null, number: 0 });
  const ordered = [...counted].sort(([a, item], [b, other]) => (
    (URGENCY[item.verdict] ?? 9) - (URGENCY[other.verdict] ?? 9) || natural.compare(a, b)
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

function byColumn(item, other) {
  if (table.sort === "stream") return item.rank - other.rank;
  if (table.sort === "verdict") return (URGENCY[item.verdict] ?? 9) - (URGENCY[other.verdict] ?? 9);
  const [a, b] = { terminal_at: [item.ended, other.ended], until: [item.due, other.due] }[table.sort] ?? [item[table.sort], other[table.sort]];
  if (typeof a === "number" && typeof b === "number") return a - b;
  return natural.compare(String(a), String(b));
}

function unknownLast(item, other) {
  return table.sort === "verdict" ? 0 : Number(!known(item[table.sort])) - Number(!known(other[table.sort]));
}

function dueFirst(item, other) {
  const [a, b] = [item.due ?? Infinity, other.due ?? Infinity];
  return a === b ? 0 : a - b;
}

function showTable() {
  const needle = state.search.toLowerCase();
  const direction = table.down ? -1 : 1;
  table.matching = table.all
    .filter((item) => (table.reasons.size === 0 || table.reasons.has(item.reason)) && item.haystack.includes(needle))
    .sort((item, other) => unknownLast(item, other) || direction * byColumn(item, other) || dueFirst(item, other) || item.rank - other.rank);
  for (const head of $("streams-table").tHead.rows[0].cells) {
    mark(head, "aria-sort", head.key === table.sort ? (table.down ? "descending" : "ascending") : null);
  }
  const shown = table.matching.slice(0, table.limit);
  const rows = new Map();
  const nodes = [];
  for (const item of shown) {
    const row = table.rows.get(item.stream) ?? newRow(item.stream);
    fillRow(row, item);
    rows.set(item.stream, row);
    nodes.push(row.line);
    if (row.why) nodes.push(row.why);
  }
  for (const [name, row] of table.rows) if (!rows.has(name)) visibility.unobserve(row.line);
  table.rows = rows;
  arrange($("streams-table").tBodies[0], nodes);
  showCount(shown.length);
}

function showCount(shown) {
  const [found, all] = [table.matching.length, table.all.length];
  const filtered = found === all ? "" : ` of ${count(all)}`;
  write($("streams-count"), table.isRead ? `${shown < found ? `${count(shown)} shown of ` : ""}${count(found)}${filtered}` : "reading …");
  $("streams-more").hidden = shown >= found;
  write($("streams-more"), `Show ${count(Math.min(PAGE, found - shown))} more`);
  $("streams-empty").hidden = found > 0 || !table.isRead;
  write($("streams-empty"), all > 0 ? "No stream matches the search and the chosen reasons." : emptyText());
}

/** Returns why the table is empty. If NATS could not be read, it is unknown whether the account is empty. */
function emptyText() {
  const { status, trouble } = state;
  if (trouble !== null) return "Nothing can be read now.";
  if (known(table.error)) return `Not known, because the last full pass failed: ${table.error}`;
  if (status !== null && !known(status.job_streams)) return "Not known before the first full pass.";
  return "No job streams. Nothing to do.";
}

let rowsMade = 0;

function newRow(stream) {
  rowsMade += 1;
  const name = el("span", { class: "data" }, stream);
  const open = el("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": `why-${rowsMade}` }, name);
  const row = { stream, id: `why-${rowsMade}`, open, why: null, item: null, cells: {}, dot: el("span", { class: "dot", "aria-hidden": "true" }), explained: "" };
  row.line = Object.assign(el("tr"), { row });
  // A click anywhere in the row does what the button does, unless it selects text.
  row.line.addEventListener("click", () => {
    if (String(getSelection())) return;
    if (row.why) closeRow(row);
    else openRow(row);
  });
  visibility.observe(row.line);
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

function fillRow(row, item) {
  row.item = item;
  mark(row.line, "data-verdict", item.verdict);
  write(row.cells.verdict, known(item.drainedAt) ? `drained at ${clock(item.drainedAt)}` : LABELS[item.verdict] ?? item.verdict);
  write(row.cells.reason, item.exhausted ? `${item.reason}, exhausted` : item.reason);
  write(row.cells.status, item.status);
  write(row.cells.terminal_at, known(item.ended) ? clock(item.ended) : null);
  mark(row.cells.terminal_at, "title", known(item.terminal_at) ? plain(item.terminal_at) : null);
  write(row.cells.messages, count(item.messages));
  write(row.cells.redelivered, count(item.redelivered));
  row.cells.messages.classList.toggle("zero", !item.messages);
  row.cells.redelivered.classList.toggle("zero", !item.redelivered);
  tickRow(row);
  if (row.why && row.explained !== verdictKey(item)) loadWhy(row);
}

const verdictKey = ({ verdict, reason, until, status }) => JSON.stringify([verdict, reason, until, status]);

export function tickRows() {
  for (const row of table.rows.values()) if (row.isVisible) tickRow(row);
}

function tickRow(row) {
  const { item, cells } = row;
  write(cells.age_s, known(item.age_s) ? span(item.age_s + (now() - table.at) / 1000) : null);
  const left = known(item.due) ? (item.due - now()) / 1000 : null;
  const isDue = (left !== null && left <= 0) || (left === null && item.verdict === "would_drain");
  write(cells.until, table.gone.has(item.stream) ? null : isDue ? "now" : left === null ? null : `in ${span(left)}`);
  mark(cells.until, "data-now", isDue);
  mark(cells.until, "title", known(item.until) ? plain(item.until) : null);
}

function closeRow(row) {
  row.why.remove();
  if (linkedStream() === row.stream) history.replaceState(null, "", location.pathname + location.search);
  if (table.gone.delete(row.stream)) {
    table.all = table.all.filter((item) => item.stream !== row.stream);
    setTimeout(showTable);
  }
  row.why = null;
  row.explained = "";
  mark(row.open, "aria-expanded", "false");
}

function openRow(row) {
  row.box = el("div", { class: "reasoning", "aria-live": "polite" }, el("p", { class: "muted" }, "Reading …"));
  row.why = el("tr", { class: "why", id: row.id, "data-verdict": row.item.verdict }, el("td", { colspan: COLUMNS.length }, row.box));
  row.line.after(row.why);
  mark(row.open, "aria-expanded", "true");
  table.linked = row.stream;
  history.replaceState(null, "", linkTo(row.stream));
  loadWhy(row);
}

async function loadWhy(row) {
  const key = verdictKey(row.item);
  row.explained = key;
  mark(row.why, "data-verdict", row.item.verdict);
  try {
    const why = await read(`api/streams/${encodeURIComponent(String(row.stream).toWellFormed?.() ?? row.stream)}`);
    if (row.why && row.explained === key) showWhy(row, why);
  } catch (error) {
    if (!row.why || row.explained !== key) return;
    if (error.gone) row.box.replaceChildren(...goneParts(error.gone));
    else row.box.replaceChildren(el("p", { class: "failed data" }, `Could not be read: ${error.message}`));
  }
}

/** Returns what is shown of a stream that is gone. */
function goneParts({ stream, sentence, restorable, timeline = [] }) {
  const left = el("div", {}, el("p", { class: "sentence data" }, sentence));
  if (known(restorable)) {
    const whole = restorable.lost > 0 ? `empty: ${many(restorable.lost, "message is", "messages are")} lost` : `with ${many(restorable.messages, "message", "messages")}`;
    left.append(el("h3", {}, "To bring it back"), el("p", { class: "data" }, `${restorable.command} (${whole})`));
    if (state.ordersAccepted) left.append(el("div", { class: "orders" }, orderButton("restore", stream, undefined, restorable.lost > 0 ? { without_messages: true } : {})));
  }
  const lines = timeline.map(({ at, what }) => el("li", {}, el("span", { class: "time" }, clock(at)), " ", el("span", { class: "data" }, what)));
  return [left, el("div", {}, el("h3", {}, "What happened"), el("ol", { class: "acts" }, ...lines))];
}

function showWhy(row, why) {
  const left = el("div", {}, el("p", { class: "sentence data" }, why.sentence));
  if (known(row.item.detail)) left.append(el("h3", {}, "Detail"), el("p", { class: "data" }, row.item.detail));
  if (known(why.changes)) left.append(el("h3", {}, "What would change it"), el("p", { class: "data" }, why.changes));
  const rule = known(why.rule) && why.rule !== "default" ? ` (rule: ${why.rule})` : "";
  if (why.guards?.length) left.append(el("h3", {}, `Guards${rule}`), el("ul", { class: "guards" }, ...why.guards.map(guardLine)));
  if (state.ordersAccepted) {
    const kind = why.reason === "protected" ? "unprotect" : "protect";
    left.append(el("div", { class: "orders" }, orderButton(kind, row.stream, () => { row.explained = ""; loadWhy(row); })));
  }
  left.append(el("p", {}, el("a", { class: "link", href: linkTo(row.stream) }, "Link to this stream")));
  const item = row.item;
  const figures = { verdict: LABELS[item.verdict] ?? item.verdict, status: item.status, age: span(item.age_s), "job ended": item.terminal_at,
    messages: item.messages, redelivered: item.redelivered };
  left.append(el("div", { class: "narrow" }, el("h3", {}, "Figures"), tree(figures)));
  const right = el("div", {}, el("h3", {}, "Evidence"), tree(why.evidence ?? {}));
  row.box.replaceChildren(left, right);
}

function guardLine({ guard, length_s: length, passes_at: at, passed }) {
  const instant = Date.parse(at);
  const when = el("span", { class: "time" });
  if (passed) write(when, known(at) ? `passed at ${clock(at)}` : "passed");
  else if (!known(at)) write(when, "time not known");
  else if (Number.isFinite(instant)) Object.assign(when, { passesAt: instant, className: "time countdown" });
  else write(when, at);
  const line = el("li", { "data-passed": Boolean(passed) }, el("span", { class: "mark", "aria-hidden": "true" }, passed ? "✓" : "…"),
    el("span", { class: "data" }, `${String(guard).replaceAll("_", " ")} ${span(length)}`), when);
  tickGuard(when);
  return line;
}

export function tickGuards() {
  for (const when of document.querySelectorAll(".countdown")) tickGuard(when);
}

function tickGuard(when) {
  if (!when.passesAt) return;
  const left = (when.passesAt - now()) / 1000;
  write(when, left > 0 ? `passes at ${clock(when.passesAt)}, in ${span(left)}` : `passed at ${clock(when.passesAt)}`);
}

/** Returns any JSON as nested names and values. What is too deep or too long is cut. */
function tree(value, depth = 0) {
  const list = el("dl", { class: "tree" });
  const entries = Object.entries(value);
  for (const [name, child] of entries.slice(0, 60)) {
    const nested = child !== null && typeof child === "object";
    const flat = nested && (depth >= 5 || (Array.isArray(child) && child.every((element) => element === null || typeof element !== "object")));
    const text = flat ? (Array.isArray(child) && depth < 5 ? child.join(", ") || "none" : JSON.stringify(child)) : child;
    list.append(el("dt", { class: "data" }, name));
    if (nested && !flat) list.append(Object.keys(child).length ? el("dd", { class: "nested" }, tree(child, depth + 1)) : el("dd", {}, "none"));
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
  document.addEventListener("keydown", handleKey);
  addEventListener("hashchange", followLink);
  showCount(0);
}

/** Handles keys: `/` searches, Esc ends the search or closes the row, arrows go from stream to stream. */
function handleKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  if (key === "Escape") {
    if (target === $("search")) {
      target.value = "";
      search("");
      return;
    }
    const line = target.closest?.("#streams-table tbody tr");
    const row = [...table.rows.values()].find((item) => item.why && (item.line === line || item.why === line));
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
