// The event stream, and whether it is alive.

import { countDrain, timelineSource } from "./charts.js";
import { clock, skew } from "./clock.js";
import { addEntry } from "./history.js";
import { countLeak } from "./leaks.js";
import { address } from "./server.js";
import { refreshAll } from "./sources.js";
import { set, state, watch } from "./state.js";
import { setTrouble, showStatus } from "./status.js";
import { markDrained, streamsSource } from "./streams.js";
import { $, mark, write } from "./text.js";

const STALE_AFTER = 20_000;
const DEAD_AFTER = 60_000;

let events = null;
let lastEventAt = null;
let failures = 0;
let retryTimer = null;
let missedEvents = false;

function showConnection() {
  const silent = lastEventAt === null ? 0 : Date.now() - lastEventAt;
  const stale = silent > STALE_AFTER ? `stale since ${clock(lastEventAt + skew)}` : null;
  const { connection } = state;
  let [shown, text] = [connection, connection];
  if (connection === "refused") text = "token refused";
  else if (connection === "reconnecting") text = stale === null ? "reconnecting" : `reconnecting, ${stale}`;
  else if (stale !== null) [shown, text] = ["stale", stale];
  // A live event stream does not mean that NATS and Redis answer, so it alone must not look healthy.
  if (shown === "live" && state.trouble !== null) [shown, text] = ["trouble", "a server is away"];
  mark($("connection"), "data-state", shown);
  write($("connection-text"), text);
  mark(document.body, "data-stale", stale !== null || connection === "refused");
}

watch(["connection", "trouble"], showConnection);

function showDeletion(entry) {
  if (!addEntry(entry) || entry.outcome !== "drained") return;
  markDrained(entry);
  countDrain(entry);
  countLeak(entry);
}

export function connect() {
  clearTimeout(retryTimer);
  retryTimer = null;
  events?.close();
  const opened = new EventSource(address("events"));
  events = opened;
  const noteEvent = () => {
    lastEventAt = Date.now();
    set("connection", "live");
  };
  const on = (name, show) => opened.addEventListener(name, (event) => {
    noteEvent();
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return;
    }
    show(data);
  });
  opened.addEventListener("open", () => {
    noteEvent();
    if (missedEvents) refreshAll();
    [failures, missedEvents] = [0, false];
  });
  opened.addEventListener("error", () => {
    if (events !== opened) return;
    missedEvents = true;
    if (state.connection !== "refused") set("connection", "reconnecting");
    if (opened.readyState === EventSource.CLOSED) reconnectLater();
  });
  on("status", showStatus);
  on("trouble", ({ error, since }) => setTrouble(error, since));
  on("streams", () => streamsSource.refreshLater(1000));
  on("settled", showDeletion);
  on("point", () => timelineSource.refreshLater(0));
}

function reconnectLater() {
  failures += 1;
  const delay = state.connection === "refused" ? 30_000 : Math.min(30_000, 1000 * 2 ** (failures - 1));
  retryTimer ??= setTimeout(connect, delay);
}

/** Reconnects if the server has been silent for too long. A browser does not notice a connection that is open but dead. */
export function checkConnection() {
  showConnection();
  if (state.connection === "live" && Date.now() - lastEventAt > DEAD_AFTER) {
    set("connection", "reconnecting");
    missedEvents = true;
    connect();
  }
}
