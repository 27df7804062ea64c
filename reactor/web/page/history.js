// The history, and which endings leak.

import { charts, timeline } from "./charts.js";
import { clock, now } from "./clock.js";
import { HISTORY_KEPT } from "./sources.js";
import { markDrained, table } from "./streams.js";
import { $, arrange, count, el, known, NARROW, plain, write } from "./text.js";

export const HISTORY_PAGE = NARROW ? 15 : 50;

const OUTCOMES = {
  drained: "drained", already_gone: "already gone", kept: "kept", waiting: "waiting", unfixable: "unfixable", would_drain: "would drain",
};
/** What an entry tells that is no outcome of a deletion. */
const outcomeOf = ({ phase, outcome }) => {
  if (phase === "afterwards") return `would drain, now ${outcome}`;
  const word = outcome ?? phase;
  return OUTCOMES[word] ?? word;
};
export const trail = { entries: [], limit: HISTORY_PAGE, rows: new Map() };
const entryKey = (entry) => JSON.stringify([entry.phase, entry.stream, entry.at, entry.outcome]);

export function showHistory(answer) {
  trail.entries = answer.entries ?? [];
  listHistory();
}

export function listHistory(arrived = null) {
  const { limit } = trail;
  const needle = table.search.toLowerCase();
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
  write($("history-more"), `Show ${count(Math.min(HISTORY_PAGE, entries.length - limit))} more`);
}

function historyRow(entry, arrived) {
  const outcome = outcomeOf(entry);
  return el("tr", { "data-verdict": entry.outcome ?? entry.phase, class: arrived ? "arrived" : null },
    el("td", { class: "time", title: known(entry.at) ? plain(entry.at) : null }, clock(entry.at)),
    el("td", {}, el("span", { class: "tag" }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "data" }, outcome))),
    el("td", { class: "name" }, el("span", { class: "data" }, entry.stream)),
    el("td", { class: "data cause" }, [entry.reason, entry.status, known(entry.rule) && entry.rule !== "default" ? `rule ${entry.rule}` : ""].filter((word) => known(word) && word !== "").join(", ") || null),
    el("td", { class: "number mid" }, count(entry.messages)),
    el("td", { class: "data detail mid" }, entry.detail ?? ""),
    el("td", { class: "data by mid", title: known(entry.by) ? plain(entry.by) : null }, entry.by));
}

export function settled(entry) {
  const key = entryKey(entry);
  if (trail.entries.some((one) => entryKey(one) === key)) return;
  trail.entries = [entry, ...trail.entries].slice(0, HISTORY_KEPT);
  listHistory(key);
  if (entry.outcome !== "drained") return;
  markDrained(entry);
  if (entry.reason in timeline.fresh) {
    timeline.fresh[entry.reason] += 1;
    charts.drains.update();
  }
  countLeak(entry);
}

let leaks = { total: 0, statuses: [] };

function countLeak({ status: word, at }) {
  const seen = leaks.statuses.find((one) => (one.status ?? "") === (word ?? ""));
  const one = seen ?? { status: word, drained: 0, hours: Array(24).fill(0) };
  if (!seen) leaks.statuses.push(one);
  leaks.total += 1;
  one.drained += 1;
  const hour = new Date(Date.parse(at) || now()).getUTCHours();
  if (one.hours) one.hours[hour] = (one.hours[hour] ?? 0) + 1;
  listLeaks();
}

export function showLeaks(answer) {
  leaks = { total: answer.total ?? 0, statuses: answer.statuses ?? [] };
  listLeaks();
}

function listLeaks() {
  const ordered = leaks.statuses.filter(({ drained }) => drained > 0).sort((one, two) => two.drained - one.drained);
  const together = Array(24).fill(0);
  for (const { hours = [] } of ordered) hours.forEach((number, hour) => { if (hour < 24) together[hour] += number; });
  const rows = ordered.slice(0, 12).map(({ status: word, drained, hours }) => leakRow(word || "no record", drained, hours ?? []));
  if (ordered.length > 1) rows.push(leakRow("all", leaks.total, together, "total"));
  if (ordered.length > 0) {
    const ticks = el("div", { class: "ticks", "aria-hidden": "true" }, ...["00", "06", "12", "18", "24"].map((hour) => el("span", {}, hour)));
    rows.push(el("tr", {}, el("td", { colspan: 3, class: "muted" }, ordered.length > 12 ? `and ${count(ordered.length - 12)} more` : ""), el("td", {}, ticks)));
  }
  $("leaks-table").tBodies[0].replaceChildren(...rows);
  $("leaks-table").tHead.hidden = ordered.length === 0;
  write($("leaks-count"), ordered.length ? `${count(leaks.total)} drained in all` : "");
  $("leaks-empty").hidden = ordered.length > 0;
  write($("leaks-empty"), "No leak seen yet.");
}

function leakRow(word, drained, hours, css = null) {
  const most = Math.max(1, ...hours);
  const bars = Array.from({ length: 24 }, (_, hour) => {
    const number = hours[hour] ?? 0;
    const bar = el("i", { "data-any": number > 0, title: `${String(hour).padStart(2, "0")}:00 UTC: ${count(number)}` });
    bar.style.height = `${(100 * number) / most}%`;
    return bar;
  });
  const peak = hours.indexOf(Math.max(...hours, 0));
  const spoken = drained > 0 && peak >= 0 ? `most at ${String(peak).padStart(2, "0")} UTC, ${count(hours[peak])}` : "none";
  return el("tr", { class: css },
    el("td", { class: "data" }, word),
    el("td", { class: "number" }, count(drained)),
    el("td", { class: "number" }, leaks.total > 0 ? `${Math.round((100 * drained) / leaks.total)} %` : "–"),
    el("td", {}, el("div", { class: "hours", role: "img", "aria-label": `By hour: ${spoken}` }, ...bars)));
}
