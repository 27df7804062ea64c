// The event stream, and whether it is alive.

import { clock, skew } from "./clock.js";
import { settled } from "./history.js";
import { address } from "./server.js";
import { lookAtEverything, streamsSource, timelineSource } from "./sources.js";
import { setTrouble, showBanners, showStatus, trouble } from "./status.js";
import { $, mark, write } from "./text.js";

const STALE_AFTER = 20_000;
const DEAD_AFTER = 60_000;

export const connection = { state: "connecting", heard: null, events: null, failures: 0, timer: null, missed: false };

export function setConnection(state) {
  if (state === connection.state) return;
  connection.state = state;
  showConnection();
  showBanners();
}

export function showConnection() {
  const silent = connection.heard === null ? 0 : Date.now() - connection.heard;
  const stale = silent > STALE_AFTER ? `stale since ${clock(connection.heard + skew)}` : null;
  const { state } = connection;
  let [shown, text] = [state, state];
  if (state === "refused") text = "token refused";
  else if (state === "reconnecting") text = stale === null ? "reconnecting" : `reconnecting, ${stale}`;
  else if (stale !== null) [shown, text] = ["stale", stale];
  // A live event stream says nothing of the system: with NATS or Redis away the pill must not be green.
  if (shown === "live" && trouble !== null) [shown, text] = ["trouble", "a server is away"];
  mark($("connection"), "data-state", shown);
  write($("connection-text"), text);
  mark(document.body, "data-stale", stale !== null || state === "refused");
}

export function connect() {
  clearTimeout(connection.timer);
  connection.timer = null;
  connection.events?.close();
  const events = new EventSource(address("events"));
  connection.events = events;
  const heard = () => {
    connection.heard = Date.now();
    if (connection.state !== "live") setConnection("live");
  };
  const on = (name, apply) => events.addEventListener(name, (event) => {
    heard();
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return;
    }
    apply(data);
  });
  events.addEventListener("open", () => {
    heard();
    // What happened while nobody listened is told by no event.
    if (connection.missed) lookAtEverything();
    [connection.failures, connection.missed] = [0, false];
  });
  events.addEventListener("error", () => {
    if (connection.events !== events) return;
    connection.missed = true;
    if (connection.state !== "refused") setConnection("reconnecting");
    if (events.readyState === EventSource.CLOSED) reconnectLater();
  });
  on("status", showStatus);
  on("trouble", ({ error, since }) => setTrouble(error, since));
  on("streams", () => streamsSource.later(1000));
  on("settled", settled);
  on("point", () => timelineSource.later(0));
}

function reconnectLater() {
  connection.failures += 1;
  const delay = connection.state === "refused" ? 30_000 : Math.min(30_000, 1000 * 2 ** (connection.failures - 1));
  connection.timer ??= setTimeout(connect, delay);
}

export function watchConnection() {
  showConnection();
  // A connection that is open but dead is not noticed by the browser: the server speaks every few seconds.
  if (connection.state === "live" && Date.now() - connection.heard > DEAD_AFTER) {
    setConnection("reconnecting");
    connection.missed = true;
    connect();
  }
}
