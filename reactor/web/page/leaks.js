// Leaks: drained streams by the final status of their jobs, and by the hour of the day.

import { now } from "./clock.js";
import { showFailureIn, source } from "./sources.js";
import { $, count, el, write } from "./text.js";

source("api/leaks", showLeaks, showFailureIn("leaks-empty"));

let leaks = { total: 0, statuses: [] };

export function countLeak({ status, at }) {
  const seen = leaks.statuses.find((leak) => (leak.status ?? "") === (status ?? ""));
  const leak = seen ?? { status, drained: 0, hours: Array(24).fill(0) };
  if (!seen) leaks.statuses.push(leak);
  leaks.total += 1;
  leak.drained += 1;
  const hour = new Date(Date.parse(at) || now()).getUTCHours();
  if (leak.hours) leak.hours[hour] = (leak.hours[hour] ?? 0) + 1;
  listLeaks();
}

function showLeaks(answer) {
  leaks = { total: answer.total ?? 0, statuses: answer.statuses ?? [] };
  listLeaks();
}

function listLeaks() {
  const ordered = leaks.statuses.filter(({ drained }) => drained > 0).sort((a, b) => b.drained - a.drained);
  const allHours = Array(24).fill(0);
  for (const { hours = [] } of ordered) hours.forEach((number, hour) => { if (hour < 24) allHours[hour] += number; });
  const rows = ordered.slice(0, 12).map(({ status, drained, hours }) => leakRow(status || "no record", drained, hours ?? []));
  if (ordered.length > 1) rows.push(leakRow("all", leaks.total, allHours, "total"));
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

function leakRow(status, drained, hours, css = null) {
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
    el("td", { class: "data" }, status),
    el("td", { class: "number" }, count(drained)),
    el("td", { class: "number" }, leaks.total > 0 ? `${Math.round((100 * drained) / leaks.total)} %` : "–"),
    el("td", {}, el("div", { class: "hours", role: "img", "aria-label": `By hour: ${spoken}` }, ...bars)));
}
