// What is read from the server, and read again when an event says so.

import { read, Refused } from "./server.js";
import { $, write } from "./text.js";

const sources = [];

/** Reads a path when asked to. Requests are merged, a second apart, and repeated after a failure. */
export function source(path, show, showFailure) {
  let timer = null;
  let busy = false;
  let requested = false;
  let failures = 0;
  const refreshLater = (delay) => {
    timer ??= setTimeout(() => { timer = null; refresh(); }, delay);
  };
  async function refresh() {
    if (busy || document.hidden) {
      requested = true;
      return;
    }
    [busy, requested] = [true, false];
    try {
      show(await read(path));
      failures = 0;
    } catch (error) {
      failures += 1;
      if (error instanceof Refused) return; // the banner says it
      showFailure(`Could not be read: ${error.message.replace(/\.$/u, "")}.`);
      refreshLater(Math.min(30_000, 1000 * 2 ** failures));
    } finally {
      busy = false;
      if (requested) refreshLater(1000);
    }
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden && requested) refresh(); });
  const made = { refresh, refreshLater };
  sources.push(made);
  return made;
}

export function refreshAll() {
  for (const { refresh } of sources) refresh();
}

/** Returns a function that shows a failure in the element with this id. */
export const showFailureIn = (id) => (message) => {
  $(id).hidden = false;
  write($(id), message);
};
