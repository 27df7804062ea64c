/* The page of the worker: reads the JSON beside it, listens to its events, and shows both.
 *
 * Laws of these files:
 * - Every text from outside is hostile. It reaches the document through `write`, as text, with its invisible
 *   characters spelled out; nothing is ever parsed as HTML.
 * - The server's clock counts: countdowns and ages use the `at` of its answers, not this machine's time.
 * - Nothing polls. Events say when to look again; a failed look is repeated, ever more slowly.
 */

import { buildRanges, charts } from "./charts.js";
import { connect, watchConnection } from "./connection.js";
import { HISTORY_PAGE, listHistory, trail } from "./history.js";
import { confirmOrder } from "./orders.js";
import { lookAtEverything } from "./sources.js";
import { buildTiles, status } from "./status.js";
import { buildTable, showCount, table, tickGuard, tickRow } from "./streams.js";
import { $, known, mark, write } from "./text.js";

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const dark = () => document.documentElement.dataset.theme === "dark";

function showTheme() {
  write($("theme"), dark() ? "Light" : "Dark");
  mark($("theme"), "aria-label", `Switch to the ${dark() ? "light" : "dark"} theme`);
  charts.verdicts.build();
  charts.drains.build();
}

function switchTheme() {
  const theme = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("reactor-theme", theme);
  } catch {
    // Not remembered, then.
  }
  showTheme();
}

function everySecond() {
  watchConnection();
  if (document.hidden) return;
  for (const row of table.rows.values()) if (row.seen) tickRow(row);
  for (const when of document.querySelectorAll(".countdown")) tickGuard(when);
}

buildTiles();
buildTable();
buildRanges();
showCount(0);
showTheme();
$("theme").addEventListener("click", switchTheme);
$("pause").addEventListener("click", () => confirmOrder(known(status?.pause) ? "resume" : "pause"));
prefersDark.addEventListener("change", showTheme);
$("history-more").addEventListener("click", () => {
  trail.limit += HISTORY_PAGE;
  listHistory();
});
lookAtEverything();
connect();
setInterval(everySecond, 1000);
