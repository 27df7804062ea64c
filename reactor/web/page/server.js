// Requests to the server, with the token.

import { set } from "./state.js";

const token = new URLSearchParams(location.search).get("token");

export function address(path) {
  const url = new URL(path, document.baseURI);
  if (token !== null) url.searchParams.set("token", token);
  return url;
}

export class Refused extends Error {}

export async function read(path) {
  const response = await fetch(address(path), { cache: "no-store", signal: AbortSignal.timeout(20_000) });
  if (response.status === 401 || response.status === 403) {
    set("connection", "refused");
    throw new Refused("the token was refused");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw Object.assign(new Error(body?.error ?? `the server answered ${response.status}`), { gone: body?.known ? body : null });
  if (body === null) throw new Error("the server's answer is not JSON");
  return body;
}

export async function post(path, order) {
  const url = new URL(path, document.baseURI);
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(order), signal: AbortSignal.timeout(90_000) });
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.error ?? `the server answered ${response.status}`);
}
