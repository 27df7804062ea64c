// Requests to the server, with the token.

import { setConnection } from "./connection.js";

const token = new URLSearchParams(location.search).get("token");

export function address(path) {
  const url = new URL(path, document.baseURI);
  if (token !== null) url.searchParams.set("token", token);
  return url;
}

class Refused extends Error {}

export async function read(path) {
  const answer = await fetch(address(path), { cache: "no-store", signal: AbortSignal.timeout(20_000) });
  if (answer.status === 401 || answer.status === 403) {
    setConnection("refused");
    throw new Refused("the token was refused");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw Object.assign(new Error(body?.error ?? `the server answered ${answer.status}`), { gone: body?.known ? body : null });
  if (body === null) throw new Error("the server's answer is not JSON");
  return body;
}

/** Something to look at when told to: looks are merged, spaced by a second, and repeated after a failure. */
export function source(path, apply, failed) {
  let timer = null;
  let busy = false;
  let wanted = false;
  let failures = 0;
  const later = (delay) => {
    timer ??= setTimeout(() => { timer = null; look(); }, delay);
  };
  async function look() {
    if (busy || document.hidden) {
      wanted = true;
      return;
    }
    [busy, wanted] = [true, false];
    try {
      apply(await read(path));
      failures = 0;
    } catch (error) {
      failures += 1;
      if (error instanceof Refused) return; // the banner says it once
      failed(`Could not be read: ${error.message.replace(/\.$/u, "")}.`);
      later(Math.min(30_000, 1000 * 2 ** failures));
    } finally {
      busy = false;
      if (wanted) later(1000);
    }
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden && wanted) look(); });
  return { look, later };
}

export async function give(path, order) {
  const url = new URL(path, document.baseURI);
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(order), signal: AbortSignal.timeout(90_000) });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error ?? `the server answered ${answer.status}`);
}
