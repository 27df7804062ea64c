// Status: banners, tiles and facts.

import { clock, learnClock, now } from "./clock.js";
import { showFailureIn, source } from "./sources.js";
import { set, state, watch } from "./state.js";
import { $, bytes, count, el, known, many, mark, plain, span, toned, write } from "./text.js";

source("api/status", showStatus, (message) => setTrouble(message));
source("api/workers", showWorkers, showFailureIn("workers-empty"));

export function showStatus(answer) {
  learnClock(answer.at);
  state.ordersAccepted = answer.orders ?? state.ordersAccepted;
  set("status", answer);
  setTrouble(known(answer.nats_error) ? `NATS: ${answer.nats_error}` : null, answer.nats_away_since);
  write($("version"), answer.version ?? "");
  showTiles(answer);
  showFacts(answer);
  const zombies = answer.zombies ?? 0;
  document.title = zombies > 0 ? `${zombies} ${zombies === 1 ? "zombie" : "zombies"} · Reactor` : "Reactor";
}

let bannersShown = "";

/** Sets what cannot be read; null if everything can. What was read before stays, and is marked as stale. */
export function setTrouble(message, since = null) {
  set("trouble", message === null ? null : { message, since: since ?? state.trouble?.since ?? new Date(now()).toISOString() });
  mark(document.body, "data-trouble", state.trouble !== null);
}

function pausedBy({ by, since, until, reason }) {
  return `By ${by} since ${clock(since)}${known(until) ? `, until ${clock(until)}` : ""}: ${reason}. To resume: reactor resume.`;
}

function wouldDrain({ total, afterwards }) {
  const outcomes = Object.entries(afterwards).map(([outcome, number]) => `${count(number)} ${outcome}`).join(", ");
  return `${many(total, "stream", "streams")} would have been drained${outcomes ? `: ${outcomes}` : ""}. To list them: reactor history --would-drain.`;
}

watch(["status", "connection", "trouble"], showBanners);

function showBanners() {
  const { status, trouble } = state;
  const pass = status?.last_reconcile ?? {};
  const coverage = status?.coverage ?? {};
  const banners = [];
  $("token").hidden = state.connection !== "refused";
  if (trouble !== null) banners.push(["bad", `Since ${clock(trouble.since)} not everything can be read, so what is shown may be old.`, trouble.message]);
  if (known(status?.pause)) banners.push(["warn", "Deleting is paused.", pausedBy(status.pause)]);
  if (status?.action === "report") banners.push(["warn", "Report mode: nothing is deleted.", known(status.would_drain) ? wouldDrain(status.would_drain) : ""]);
  if (known(status?.deletes_paused)) banners.push(["bad", "A permission is missing, so nothing is deleted.", status.deletes_paused]);
  const breaker = status?.breaker ?? pass.breaker;
  if (known(breaker)) banners.push(["bad", "The breaker tripped, so nothing was deleted.", breaker]);
  if (known(pass.error)) banners.push(["bad", "The last full pass failed.", pass.error]);
  if (coverage.complete === false) {
    banners.push(["warn", "The ledger does not cover everything, so absence proves nothing.", coverage.gap ?? ""]);
  }
  if (status?.workers === 0) banners.push(["bad", "No worker is alive.", "Nothing is deleted without one. To start one: reactor worker."]);
  if (differences.length > 0) banners.push(["warn", "The workers differ.", `In ${differences.join(", ")}: give all the same settings and version.`]);
  const shown = JSON.stringify(banners);
  if (shown === bannersShown) return;
  bannersShown = shown;
  $("banners").replaceChildren(...banners.map(([level, title, text]) => (
    el("p", { class: "banner", "data-level": level }, el("strong", {}, title), " ", el("span", { class: "data" }, text))
  )));
}

const TILES = ["job streams", "live", "waiting", "zombies now", "drained today", "reclaimed", "oldest zombie", "deletes"];
const tiles = new Map();

export function buildTiles() {
  for (const title of TILES) {
    const figure = el("span", { class: "figure" }, "–");
    const under = el("span", { class: "under" }, " ");
    const tile = el("div", { class: "tile" }, el("dt", {}, title), el("dd", {}, figure, under));
    tiles.set(title, { tile, figure, under });
    $("tiles").append(tile);
  }
}

function setTile(title, tone, value, unit, note = "", noteTone = null) {
  const { tile, figure, under } = tiles.get(title);
  mark(tile, "data-tone", tone);
  const text = `${value} ${unit}`;
  if (figure.shown !== text) {
    figure.shown = text;
    figure.replaceChildren(plain(value), ...(unit ? [el("span", { class: "unit" }, unit)] : []));
  }
  write(under, note);
  mark(under, "data-tone", noteTone);
}

function showTiles(status) {
  const { verdicts = {}, reasons = {} } = status;
  const paused = known(status.deletes_paused) || known(status.pause);
  const counted = known(status.job_streams);
  const { unfixable } = verdicts;
  const oldest = known(status.oldest_zombie_s);
  setTile("job streams", null, count(status.job_streams), "", counted ? `${count(verdicts.kept)} kept` : "no full pass yet");
  setTile("live", toned(status.live, "live"), count(status.live), "", counted ? `${count(reasons.running ?? 0)} running` : "");
  setTile("waiting", toned(status.waiting, "wait"), count(status.waiting), "", "guards not passed");
  setTile("zombies now", toned(status.zombies, "zombie"), count(status.zombies), "",
    unfixable > 0 ? `${count(unfixable)} unfixable, see the table` : counted ? "none unfixable" : "", unfixable > 0 ? "bad" : null);
  setTile("drained today", toned(status.drained_today, null), count(status.drained_today), "", "since 00:00 UTC");
  setTile("reclaimed", toned(status.bytes_reclaimed, null), ...bytes(status.bytes_reclaimed), "of storage");
  setTile("oldest zombie", oldest ? "zombie" : "none", oldest ? span(status.oldest_zombie_s) : counted ? "none" : "–", "", oldest ? "since it was due" : "");
  const reports = status.action === "report";
  const [deletes, why] = paused ? ["paused", "see above"] : reports ? ["off", "report mode"]
    : state.trouble !== null ? ["unknown", "a server is away"] : status.deletes ? ["on", workersText(status.workers)] : ["off", "no worker may delete"];
  setTile("deletes", deletes === "on" || reports ? null : "bad", deletes, "", why);
}

const facts = new Map();

function setFact(name, text, tone = null) {
  if (!facts.has(name)) {
    const value = el("dd", { class: "data" });
    facts.set(name, value);
    $("facts").append(el("div", {}, el("dt", {}, name), value));
  }
  mark(write(facts.get(name), text), "data-tone", tone);
}

function showFacts(status) {
  const { coverage = {}, last_reconcile: pass } = status;
  const due = status.due > 0 && known(status.next_due_s) ? `, next in ${span(status.next_due_s)}` : "";
  setFact("due", `${count(status.due)}${due}`);
  setFact("lag", known(status.lag) ? many(status.lag, "event", "events") : "unknown", status.lag > 1000 ? "zombie" : null);
  setFact("dead letters", count(status.dead_letters), status.dead_letters > 0 ? "zombie" : null);
  const since = known(coverage.since) ? `since ${clock(coverage.since)}` : "nothing";
  setFact("ledger covers", since, coverage.complete === false ? "zombie" : null);
  setFact("last full pass", pass ? passText(pass) : "none yet", pass?.error || pass?.breaker ? "bad" : null);
  setFact("workers", workersText(status.workers), status.workers > 0 ? null : "bad");
  setFact("up since", clock(status.started_at));
}

function passText(pass) {
  const took = Number.isFinite(pass.duration_s) ? ` in ${span(pass.duration_s)}` : "";
  const found = `${count(pass.checked)} checked, ${count(pass.fixed)} fixed, ${count(pass.unfixable)} unfixable`;
  return `${clock(pass.started_at)}${took}: ${found}${known(pass.error) ? "; failed" : ""}`;
}

const workersText = (number) => `${many(number, "worker", "workers")} alive`;

/** The settings in which live workers differ. */
let differences = [];

function showWorkers({ workers = [], differ = [], versions = [] }) {
  differences = [...differ, ...(versions.length > 1 ? [`version (${versions.join(", ")})`] : [])];
  showBanners();
  $("workers-empty").hidden = workers.length > 0;
  write($("workers-empty"), "No worker is alive.");
  $("workers-table").tBodies[0].replaceChildren(...workers.map((worker) => el("tr", {},
    el("td", { class: "data" }, worker.instance),
    el("td", { class: "data" }, worker.version),
    el("td", { class: "time" }, clock(worker.since)),
    el("td", { class: "data" }, worker.deletes ? "deletes" : worker.deletes_paused ?? (worker.policy?.action === "report" ? "report mode" : "does not delete")))));
}
