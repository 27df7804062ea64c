// What is read from the server, and read again when an event says so.

import { charts, showTimeline } from "./charts.js";
import { showHistory, showLeaks } from "./history.js";
import { source } from "./server.js";
import { setTrouble, showStatus, showWorkers } from "./status.js";
import { showStreams, table } from "./streams.js";
import { $, mark, write } from "./text.js";

export const HISTORY_KEPT = 200;

const failedIn = (id) => (words) => {
  $(id).hidden = false;
  write($(id), words);
};
const statusSource = source("api/status", showStatus, (words) => setTrouble(words));
export const streamsSource = source("api/streams", showStreams, (words) => {
  failedIn("streams-empty")(words);
  if (!table.read) write($("streams-count"), "");
});
const historySource = source(`api/history?limit=${HISTORY_KEPT}`, showHistory, failedIn("history-empty"));
export const timelineSource = source("api/timeline", showTimeline, (words) => {
  for (const { box, plot } of Object.values(charts)) {
    if (plot) continue;
    box.dataset.empty = words;
    mark(box, "aria-label", words);
  }
});
const leaksSource = source("api/leaks", showLeaks, failedIn("leaks-empty"));
const workersSource = source("api/workers", showWorkers, failedIn("workers-empty"));

export function lookAtEverything() {
  for (const one of [statusSource, streamsSource, historySource, timelineSource, leaksSource, workersSource]) one.look();
}
