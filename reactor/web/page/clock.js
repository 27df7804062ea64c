// The server's clock. Countdowns and ages use it, not this machine's.

export let skew = 0;
export const now = () => Date.now() + skew;

export function learnClock(at) {
  const server = Date.parse(at);
  if (Number.isFinite(server)) skew = server - Date.now();
}

/** Returns a time in UTC: 14:03:22 today, 23 Nov 14:03 on another day. */
export function clock(time) {
  const at = typeof time === "number" ? time : Date.parse(time);
  if (!Number.isFinite(at)) return "–";
  const iso = new Date(at).toISOString();
  if (iso.slice(0, 10) === new Date(now()).toISOString().slice(0, 10)) return iso.slice(11, 19);
  return `${day(at)} ${iso.slice(11, 16)}`;
}

export function day(at) {
  return new Date(at).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}
