// What the parts of the page share. A part that shows a value watches it, so that no part imports those above it.

export const state = {
  /** The last answer of api/status. */
  status: null,
  /** What cannot be read, and since when; null if everything can. */
  trouble: null,
  /** connecting, live, reconnecting or refused. */
  connection: "connecting",
  /** Whether the server accepts orders. */
  ordersAccepted: false,
  /** The text in the search field. */
  search: "",
};
const watchers = new EventTarget();

/** Calls `show` each time one of the values is set. */
export function watch(names, show) {
  for (const name of names) watchers.addEventListener(name, () => show());
}

/** Sets a value. One that stays the same is shown no second time. */
export function set(name, value) {
  if (state[name] === value) return;
  state[name] = value;
  watchers.dispatchEvent(new Event(name));
}
