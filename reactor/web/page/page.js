/* The page of the worker: reads the JSON beside it, listens to its events, and shows both.
 *
 * Laws of these files:
 * - Every text from outside is hostile. It reaches the document through `write`, as text, with its invisible
 *   characters spelled out. Nothing is ever parsed as HTML.
 * - Countdowns and ages use the server's clock (the `at` of its answers), not this machine's.
 * - Nothing polls. Events say when to read again. A failed request is repeated, after growing pauses.
 * - Imports form no circle: parts share values through state.js.
 */

import { buildRanges, charts } from "./charts.js";
import { checkConnection, connect } from "./connection.js";
import { showMoreHistory } from "./history.js";
import { confirmOrder } from "./orders.js";
import { refreshAll } from "./sources.js";
import { state } from "./state.js";
import { buildTiles } from "./status.js";
import { buildTable, tickGuards, tickRows } from "./streams.js";
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
    // Storage is forbidden here, so the choice is not remembered.
  }
  showTheme();
}

function everySecond() {
  checkConnection();
  if (document.hidden) return;
  tickRows();
  tickGuards();
}

buildTiles();
buildTable();
buildRanges();
showTheme();
$("theme").addEventListener("click", switchTheme);
$("pause").addEventListener("click", () => confirmOrder(known(state.status?.pause) ? "resume" : "pause"));
prefersDark.addEventListener("change", showTheme);
$("history-more").addEventListener("click", showMoreHistory);
refreshAll();
connect();
setInterval(everySecond, 1000);
