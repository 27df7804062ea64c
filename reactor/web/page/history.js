// The history of deletions and orders.

import { clock } from "./clock.js";
import { showFailureIn, source } from "./sources.js";
import { state, watch } from "./state.js";
import { $, arrange, count, el, known, NARROW, plain, write } from "./text.js";

const PAGE = NARROW ? 15 : 50;
const KEPT = 200;

const OUTCOMES = {
  drained: "drained", already_gone: "already gone", kept: "kept", waiting: "waiting", unfixable: "unfixable", would_drain: "would drain",
};
const outcomeOf = ({ phase, outcome }) => {
  if (phase === "afterwards") return `would drain, now ${outcome}`;
  const happened = outcome ?? phase;
  return OUTCOMES[happened] ?? happened;
};
const trail = { entries: [], limit: PAGE, rows: new Map() };
const entryKey = (entry) => JSON.stringify([entry.phase, entry.stream, entry.at, entry.outcome]);

source(`api/history?limit=${KEPT}`, showHistory, showFailureIn("history-empty"));
watch(["search"], () => listHistory());

function showHistory(answer) {
  trail.entries = answer.entries ?? [];
  listHistory();
}

export function showMoreHistory() {
  trail.limit += PAGE;
  listHistory();
}

function listHistory(arrived = null) {
  const { limit } = trail;
  const needle = state.search.toLowerCase();
  const entries = trail.entries.filter((entry) => needle === "" || JSON.stringify(Object.values(entry)).toLowerCase().includes(needle));
  const rows = new Map();
  for (const entry of entries.slice(0, limit)) {
    const key = entryKey(entry);
    rows.set(key, trail.rows.get(key) ?? historyRow(entry, key === arrived));
  }
  trail.rows = rows;
  arrange($("history-table").tBodies[0], [...rows.values()]);
  write($("history-count"), entries.length === 0 ? "" : `newest ${count(Math.min(limit, entries.length))}`);
  $("history-empty").hidden = entries.length > 0;
  write($("history-empty"), needle === "" ? "Nothing was drained yet." : "Nothing in the history fits the search.");
  $("history-more").hidden = entries.length <= limit;
  write($("history-more"), `Show ${count(Math.min(PAGE, entries.length - limit))} more`);
}

function historyRow(entry, arrived) {
  const outcome = outcomeOf(entry);
  return el("tr", { "data-verdict": entry.outcome ?? entry.phase, class: arrived ? "arrived" : null },
    el("td", { class: "time", title: known(entry.at) ? plain(entry.at) : null }, clock(entry.at)),
    el("td", {}, el("span", { class: "tag" }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "data" }, outcome))),
    el("td", { class: "name" }, el("span", { class: "data" }, entry.stream)),
    el("td", { class: "data cause" }, [entry.reason, entry.status, known(entry.rule) && entry.rule !== "default" ? `rule ${entry.rule}` : ""].filter((part) => known(part) && part !== "").join(", ") || null),
    el("td", { class: "number mid" }, count(entry.messages)),
    el("td", { class: "data detail mid" }, entry.detail ?? ""),
    el("td", { class: "data by mid", title: known(entry.by) ? plain(entry.by) : null }, entry.by));
}

/** Adds an entry that an event announced. Returns whether it is new. */
export function addEntry(entry) {
  const key = entryKey(entry);
  if (trail.entries.some((other) => entryKey(other) === key)) return false;
  trail.entries = [entry, ...trail.entries].slice(0, KEPT);
  listHistory(key);
  return true;
}
