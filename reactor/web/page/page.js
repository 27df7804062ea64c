/* The page of the worker: reads the JSON beside it, listens to its events, and shows both.
 *
 * Laws of this file:
 * - Every text from outside is hostile. It reaches the document through `write`, as text, with its invisible
 *   characters spelled out; nothing is ever parsed as HTML.
 * - The server's clock counts: countdowns and ages use the `at` of its answers, not this machine's time.
 * - Nothing polls. Events say when to look again; a failed look is repeated, ever more slowly.
 */

const STALE_AFTER = 20_000;
const DEAD_AFTER = 60_000;
const NARROW = matchMedia("(max-width: 62rem)").matches;
const PAGE = NARROW ? 50 : 200;
const HISTORY_PAGE = NARROW ? 15 : 50;
const HISTORY_KEPT = 200;
const POINTS_KEPT = 1440;
const TEXT_KEPT = 2000;

const $ = (id) => document.getElementById(id);

// Text

// Controls, formats (bidi, zero width, tags), lone surrogates, line and paragraph separators; and what looks like nothing.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0\u034f\u180b-\u180f\ufe00-\ufe0f]/gu;

function spelled(character) {
  const code = character.codePointAt(0);
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

function plain(value) {
  return String(value).replace(INVISIBLE, spelled);
}

/** Shows a text from outside in a node, replacing what was there. Unchanged text leaves the node alone. */
function write(node, value) {
  let text = value === null || value === undefined ? "–" : String(value);
  if (text.length > TEXT_KEPT) text = `${text.slice(0, TEXT_KEPT)} …`;
  if (node.shown === text) return node;
  node.shown = text;
  const parts = [];
  let last = 0;
  for (const match of text.matchAll(INVISIBLE)) {
    if (match.index > last) parts.push(text.slice(last, match.index));
    parts.push(Object.assign(document.createElement("span"), { className: "escape", textContent: spelled(match[0]) }));
    last = match.index + match[0].length;
  }
  if (last < text.length || parts.length === 0) parts.push(text.slice(last));
  node.replaceChildren(...parts);
  return node;
}

/** An element with its attributes; children are nodes, or texts from anywhere. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  if (children.length === 1 && !(children[0] instanceof Node)) return write(node, children[0]);
  node.append(...children.map((child) => (child instanceof Node ? child : plain(child))));
  return node;
}

function mark(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

const whole = new Intl.NumberFormat("en");
const known = (value) => value !== null && value !== undefined;
const count = (value) => (Number.isFinite(value) ? whole.format(value) : "–");

function span(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s < 1 && s > 0) return `${Math.ceil(s * 1000)}ms`;
  if (s < 60) return `${Math.floor(s)}s`;
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)}m ${two(s % 60)}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${two((s % 3600) / 60)}m`;
  return `${Math.floor(s / 86_400)}d ${Math.floor((s % 86_400) / 3600)}h`;
}

function bytes(value) {
  if (!Number.isFinite(value)) return ["–", ""];
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) [value, power] = [value / 1024, power + 1];
  return [power === 0 || value >= 100 ? String(Math.round(value)) : value.toFixed(1), units[power]];
}

// Time

let skew = 0;
const now = () => Date.now() + skew;

function learnClock(at) {
  const server = Date.parse(at);
  if (Number.isFinite(server)) skew = server - Date.now();
}

/** 14:03:22 today, 23 Nov 14:03 on another day; UTC. */
function clock(time) {
  const at = typeof time === "number" ? time : Date.parse(time);
  if (!Number.isFinite(at)) return "–";
  const iso = new Date(at).toISOString();
  if (iso.slice(0, 10) === new Date(now()).toISOString().slice(0, 10)) return iso.slice(11, 19);
  return `${day(at)} ${iso.slice(11, 16)}`;
}

function day(at) {
  return new Date(at).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

// Requests

const token = new URLSearchParams(location.search).get("token");

function address(path) {
  const url = new URL(path, document.baseURI);
  if (token !== null) url.searchParams.set("token", token);
  return url;
}

class Refused extends Error {}

async function read(path) {
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
function source(path, apply, failed) {
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
      failed(`Could not be read: ${error.message.replace(/\.$/u, "")}.`);
      if (!(error instanceof Refused)) later(Math.min(30_000, 1000 * 2 ** failures));
    } finally {
      busy = false;
      if (wanted) later(1000);
    }
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden && wanted) look(); });
  return { look, later };
}

// Connection

const connection = { state: "connecting", heard: null, events: null, failures: 0, timer: null, missed: false };

function setConnection(state) {
  if (state === connection.state) return;
  connection.state = state;
  tellConnection();
  showBanners();
}

function tellConnection() {
  const silent = connection.heard === null ? 0 : Date.now() - connection.heard;
  const stale = silent > STALE_AFTER ? `stale since ${clock(connection.heard + skew)}` : null;
  const { state } = connection;
  let [shown, text] = [state, state];
  if (state === "refused") text = "token refused";
  else if (state === "reconnecting") text = stale === null ? "reconnecting" : `reconnecting, ${stale}`;
  else if (stale !== null) [shown, text] = ["stale", stale];
  mark($("connection"), "data-state", shown);
  write($("connection-text"), text);
  mark(document.body, "data-stale", stale !== null || state === "refused");
}

function connect() {
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
  on("point", point);
}

function reconnectLater() {
  connection.failures += 1;
  const delay = connection.state === "refused" ? 30_000 : Math.min(30_000, 1000 * 2 ** (connection.failures - 1));
  connection.timer ??= setTimeout(connect, delay);
}

function watchConnection() {
  tellConnection();
  // A connection that is open but dead is not noticed by the browser: the server speaks every few seconds.
  if (connection.state === "live" && Date.now() - connection.heard > DEAD_AFTER) {
    setConnection("reconnecting");
    connection.missed = true;
    connect();
  }
}

// Status: banners, tiles, facts

let status = null;

function showStatus(answer) {
  status = answer;
  ordersTaken = answer.orders ?? ordersTaken;
  setTrouble(null);
  showOrders();
  learnClock(answer.at);
  write($("version"), answer.version ?? "");
  showBanners();
  showTiles();
  showFacts();
  charts.verdicts.update();
  const zombies = answer.zombies ?? 0;
  document.title = zombies > 0 ? `${zombies} ${zombies === 1 ? "zombie" : "zombies"} · Reactor` : "Reactor";
}

let bannersShown = "";
let trouble = null;

/** What is away, since when; null where all answers. What was read before stays, and is marked as stale. */
function setTrouble(words, since = null) {
  trouble = words === null ? null : { words, since: since ?? trouble?.since ?? new Date(now()).toISOString() };
  mark(document.body, "data-trouble", trouble !== null);
  showBanners();
  if (table.read) tellTable(table.rows.size);
}

/** Who paused deleting and why, in a line. */
function pausedBy({ by, since, until, reason }) {
  return `By ${by} since ${clock(since)}${known(until) ? `, until ${clock(until)}` : ""}: ${reason}. reactor resume lets it go on.`;
}

function reported({ total, afterwards }) {
  const ends = Object.entries(afterwards).map(([what, number]) => `${count(number)} ${what}`).join(", ");
  return `${many(total, "stream", "streams")} would have been${ends ? `: ${ends}` : ""}. reactor history --would-drain lists them.`;
}

function showBanners() {
  const pass = status?.last_reconcile ?? {};
  const coverage = status?.coverage ?? {};
  const banners = [];
  if (connection.state === "refused") banners.push(["bad", "The token was refused.", "Open this page with ?token=… in its address."]);
  if (trouble !== null) banners.push(["bad", `Not everything can be read since ${clock(trouble.since)}; what is shown may be older.`, trouble.words]);
  if (known(status?.pause)) banners.push(["warn", "Deleting is paused.", pausedBy(status.pause)]);
  if (status?.action === "report") banners.push(["warn", "Report mode: nothing is deleted.", known(status.would_drain) ? reported(status.would_drain) : ""]);
  if (known(status?.deletes_paused)) banners.push(["bad", "A right is missing, so nothing is deleted.", status.deletes_paused]);
  const breaker = status?.breaker ?? pass.breaker;
  if (known(breaker)) banners.push(["bad", "The breaker tripped; nothing was deleted.", breaker]);
  if (known(pass.error)) banners.push(["bad", "The last full pass failed.", pass.error]);
  if (coverage.complete === false) {
    banners.push(["warn", "The ledger does not cover everything, so absence proves nothing.", coverage.gap ?? ""]);
  }
  const shown = JSON.stringify(banners);
  if (shown === bannersShown) return;
  bannersShown = shown;
  $("banners").replaceChildren(...banners.map(([level, title, words]) => (
    el("p", { class: "banner", "data-level": level }, el("strong", {}, title), " ", el("span", { class: "data" }, words))
  )));
}

const TILES = ["job streams", "live", "waiting", "zombies now", "drained today", "given back", "oldest zombie", "deletes"];
const tiles = new Map();

function buildTiles() {
  for (const title of TILES) {
    const figure = el("span", { class: "figure" }, "–");
    const under = el("span", { class: "under" }, " ");
    const tile = el("div", { class: "tile" }, el("dt", {}, title), el("dd", {}, figure, under));
    tiles.set(title, { tile, figure, under });
    $("tiles").append(tile);
  }
}

function setTile(title, tone, value, unit, words = "", wordsTone = null) {
  const { tile, figure, under } = tiles.get(title);
  mark(tile, "data-tone", tone);
  const text = `${value} ${unit}`;
  if (figure.shown !== text) {
    figure.shown = text;
    figure.replaceChildren(plain(value), ...(unit ? [el("span", { class: "unit" }, unit)] : []));
  }
  write(under, words);
  mark(under, "data-tone", wordsTone);
}

const toned = (value, tone) => (value > 0 ? tone : "none");
const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more}`;

function showTiles() {
  const { verdicts = {}, reasons = {} } = status;
  const paused = known(status.deletes_paused) || known(status.pause);
  const counted = known(status.job_streams);
  const { unfixable } = verdicts;
  const oldest = known(status.oldest_zombie_s);
  setTile("job streams", null, count(status.job_streams), "", counted ? `${count(verdicts.kept)} kept` : "no full pass yet");
  setTile("live", toned(status.live, "live"), count(status.live), "", counted ? `${count(reasons.running ?? 0)} running` : "");
  setTile("waiting", toned(status.waiting, "wait"), count(status.waiting), "", "guards not passed");
  setTile("zombies now", toned(status.zombies, "zombie"), count(status.zombies), "",
    unfixable > 0 ? `${count(unfixable)} unfixable: look` : counted ? "none unfixable" : "", unfixable > 0 ? "bad" : null);
  setTile("drained today", toned(status.drained_today, null), count(status.drained_today), "", "since 00:00 UTC");
  setTile("given back", toned(status.bytes_reclaimed, null), ...bytes(status.bytes_reclaimed), "of storage");
  setTile("oldest zombie", oldest ? "zombie" : "none", oldest ? span(status.oldest_zombie_s) : counted ? "none" : "–", "", oldest ? "since it fell due" : "");
  const reports = status.action === "report";
  setTile("deletes", paused ? "bad" : null, paused ? "paused" : reports ? "off" : "on", "", paused || reports ? "see above" : "nothing holds them");
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

function showFacts() {
  const { coverage = {}, last_reconcile: pass } = status;
  const due = status.due > 0 && known(status.next_due_s) ? `, next in ${span(status.next_due_s)}` : "";
  setFact("due", `${count(status.due)}${due}`);
  setFact("lag", many(status.lag, "event", "events"), status.lag > 1000 ? "zombie" : null);
  setFact("dead letters", count(status.dead_letters), status.dead_letters > 0 ? "zombie" : null);
  const since = known(coverage.since) ? `since ${clock(coverage.since)}` : "nothing";
  setFact("ledger covers", since, coverage.complete === false ? "zombie" : null);
  setFact("last full pass", pass ? told(pass) : "none yet", pass?.error || pass?.breaker ? "bad" : null);
  setFact("up since", clock(status.started_at));
}

function told(pass) {
  const took = Number.isFinite(pass.duration_s) ? ` in ${span(pass.duration_s)}` : "";
  const found = `${count(pass.checked)} checked, ${count(pass.fixed)} fixed, ${count(pass.unfixable)} unfixable`;
  return `${clock(pass.started_at)}${took}: ${found}${known(pass.error) ? "; failed" : ""}`;
}

// Orders: only where the server takes them, with the token, and each is confirmed.

let ordersTaken = false;

const ORDERS = {
  pause: { title: "Pause all deleting?", what: "Every replica stops before its next fence, until somebody resumes. Zombies stay meanwhile." },
  resume: { title: "Let deleting go on?", what: "What is due falls at once." },
  protect: { title: "Protect this stream?", what: "Nothing drains it, whatever is said of its job, until the protection is taken away." },
  unprotect: { title: "Take the protection away?", what: "It is judged like any other: where its job is over, it falls at once." },
  restore: { title: "Restore this stream?", what: "From its newest backup on the worker's machine, or empty where there is none. It is protected then." },
};

function showOrders() {
  const paused = known(status?.pause);
  $("pause").hidden = !ordersTaken;
  write($("pause"), paused ? "Resume deleting" : "Pause deleting");
}

/** Asks who and why, and then gives the order; what comes of it is in the answer's words. */
function confirmOrder(kind, name = "", after = () => {}) {
  const { title, what } = ORDERS[kind];
  const dialog = $("order");
  write($("order-title"), name ? `${title.slice(0, -1)}: ${name}?` : title);
  write($("order-what"), what);
  write($("order-failed"), "");
  write($("order-go"), title.split(" ")[0]);
  $("order-reason").value = "";
  dialog.returnValue = "no";
  const go = async (event) => {
    event.preventDefault();
    if (!$("order-by").reportValidity()) return;
    $("order-go").disabled = true;
    try {
      await give(`api/orders/${kind}${name ? `/${encodeURIComponent(name)}` : ""}`, { by: $("order-by").value, reason: $("order-reason").value });
      dialog.close("yes");
      lookAtEverything();
      after();
    } catch (error) {
      write($("order-failed"), error.message);
    } finally {
      $("order-go").disabled = false;
    }
  };
  $("order-go").onclick = go;
  dialog.showModal();
}

async function give(path, order) {
  const url = new URL(path, document.baseURI);
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(order), signal: AbortSignal.timeout(90_000) });
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body?.error ?? `the server answered ${answer.status}`);
}

function orderButton(kind, name, after) {
  return el("button", { type: "button", onclick: () => confirmOrder(kind, name, after) }, kind[0].toUpperCase() + kind.slice(1));
}

// Charts

const VERDICTS = [
  { key: "unfixable", label: "unfixable", colour: "--bad", weight: 0.75 },
  { key: "zombie", label: "zombie", colour: "--amber", weight: 0.75 },
  { key: "waiting", label: "waiting", colour: "--wait" },
  { key: "kept", label: "kept", colour: "--live" },
];
const DRAINS = [
  { key: "terminal", label: "terminal", colour: "--amber" },
  { key: "missing", label: "missing", colour: "--amber-2" },
];
const NARROWEST = 300;
const timeline = { step: 60, points: [], fresh: { terminal: 0, missing: 0 } };

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A colour mixed into another, opaque: areas are painted over each other. Both are written #rrggbb. */
function mixed(hex, ground, share) {
  const part = (text, from) => Number.parseInt(text.slice(from, from + 2), 16);
  const channel = (from) => Math.round(part(hex, from) * share + part(ground, from) * (1 - share)).toString(16).padStart(2, "0");
  return `#${channel(1)}${channel(3)}${channel(5)}`;
}

/** A stacked chart with its legend (buttons that hide a series), its spoken summary and its table. */
class Chart {
  constructor(name, series, { bars, gather, summary }) {
    this.series = series;
    this.bars = bars;
    this.gather = gather;
    this.summary = summary;
    this.box = $(`${name}-chart`);
    this.table = $(`${name}-table`);
    this.hidden = new Set();
    this.plot = null;
    this.rows = { times: [], values: [] };
    this.when = el("span", { class: "when" });
    this.figures = new Map();
    const buttons = (bars ? series : [...series].reverse()).map(({ key, label, colour: name }) => {
      const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = `var(${name})`;
      const figure = el("b", {}, "–");
      this.figures.set(key, figure);
      return el("button", { type: "button", "aria-pressed": "true", onclick: (event) => this.toggle(key, event.currentTarget) },
        swatch, label, figure);
    });
    $(`${name}-legend`).append(...buttons);
    this.box.append(this.when);
    this.table.parentElement.addEventListener("toggle", () => this.tabulate());
    new ResizeObserver(() => this.resize()).observe(this.box);
  }

  toggle(key, button) {
    if (!this.hidden.delete(key)) this.hidden.add(key);
    mark(button, "aria-pressed", String(!this.hidden.has(key)));
    this.build();
  }

  resize() {
    const [width, height] = [this.box.clientWidth, this.box.clientHeight];
    if (this.plot && width > 0 && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
  }

  update() {
    this.rows = this.gather();
    this.box.dataset.empty = "No points yet.";
    if (this.plot && this.plot.data[0].length > 1) this.plot.setData(this.stacked());
    else this.build();
    this.legend(null);
    mark(this.box, "aria-label", this.summary(this.rows));
    this.tabulate();
  }

  get visible() {
    return this.series.filter(({ key }) => !this.hidden.has(key));
  }

  /** Times, then sums from the bottom up, highest first: the lower ones are painted over them. */
  stacked() {
    const { times, values } = this.rows;
    const sums = times.map(() => 0);
    const columns = this.visible.map(({ key }) => values.map((row, index) => {
      sums[index] += row?.[key] ?? 0;
      // Where there is nothing before, here and after, there is no line on the ground either.
      const any = [index - 1, index, index + 1].some((near) => values[near]?.[key] > 0);
      return row === null || !any ? null : sums[index];
    }));
    return [times, ...columns.reverse()];
  }

  build() {
    this.plot?.destroy();
    this.plot = null;
    const width = this.box.clientWidth;
    if (width === 0 || this.rows.times.length === 0) return;
    const series = [...this.visible].reverse().map(({ colour: name, weight = 0.25 }) => {
      const line = colour(name);
      return this.bars
        ? { stroke: line, fill: line, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.8, 14], align: 1 }) }
        : { stroke: line, fill: mixed(line, colour("--surface"), weight), width: 1.25, points: { show: this.rows.times.length === 1 } };
    });
    const axis = {
      stroke: colour("--muted"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
    };
    const options = {
      width,
      height: this.box.clientHeight,
      ms: 1e-3,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      padding: [8, 18, 0, 0],
      scales: { x: { range: () => this.range() }, y: { range: (_, __, top) => [0, Math.max(4, top * 1.08)] } },
      series: [{}, ...series],
      axes: [
        { ...axis, size: 24, space: 64, grid: { show: false }, values: (_, ticks) => ticks.map(tick) },
        { ...axis, size: 44, space: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5], values: (_, ticks) => ticks.map(count) },
      ],
      hooks: { setCursor: [(plot) => this.legend(plot.cursor.idx)] },
    };
    this.plot = new uPlot(options, this.stacked(), this.box);
  }

  /** From the first point to the last, and never so little that ticks repeat. */
  range() {
    const { times, width = 0 } = this.rows;
    return [Math.min(times[0], times.at(-1) - NARROWEST), times.at(-1) + width];
  }

  legend(index) {
    const { times, values } = this.rows;
    const at = index ?? values.length - 1;
    write(this.when, known(index) && known(times[index]) ? clock(times[index] * 1000) : "");
    for (const [key, figure] of this.figures) {
      const summed = this.bars && !known(index) && values.length > 0;
      write(figure, count(summed ? values.reduce((sum, row) => sum + row[key], 0) : values[at]?.[key]));
    }
  }

  tabulate() {
    if (!this.table.parentElement.open) return;
    const { times, values } = this.rows;
    const stride = Math.max(1, Math.ceil(times.length / 24));
    const rows = [];
    for (let index = times.length - 1; index >= 0; index -= stride) {
      if (values[index] === null) continue;
      const cells = this.series.map(({ key }) => el("td", { class: "number" }, count(values[index][key])));
      rows.push(el("tr", {}, el("td", { class: "time" }, clock(times[index] * 1000)), ...cells));
    }
    const heads = this.series.map(({ label }) => el("th", { scope: "col", class: "number" }, label));
    this.table.replaceChildren(el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "At"), ...heads)), el("tbody", {}, ...rows)));
  }
}

function tick(seconds) {
  const iso = new Date(seconds * 1000).toISOString();
  return iso.slice(11, 16) === "00:00" ? day(seconds * 1000) : iso.slice(11, 16);
}

/** The verdicts as they come; a hole in the record is a hole in the chart. */
function gatherVerdicts() {
  const times = [];
  const values = [];
  const read = timeline.points.filter(({ verdicts }) => Object.keys(verdicts).length > 0);
  // The last point is as new as the tiles, so that both say the same.
  const latest = status === null ? Number.NaN : Date.parse(status.at) / 1000;
  if (known(status?.job_streams) && latest > (read.at(-1)?.at ?? 0)) read.push({ at: latest, verdicts: status.verdicts });
  for (const { at, verdicts } of read) {
    if (times.length > 0 && at - times.at(-1) > timeline.step * 2.5) {
      times.push(times.at(-1) + timeline.step);
      values.push(null);
    }
    times.push(at);
    values.push(verdicts);
  }
  return { times, values };
}

/** The drains, added up so that at most some hundred bars are shown; those since the last point come on top. */
function gatherDrains() {
  const { points, step, fresh } = timeline;
  const all = points.map(({ at, drained }) => ({ at, drained }));
  if (fresh.terminal + fresh.missing > 0) all.push({ at: now() / 1000, drained: fresh });
  if (all.length === 0) return { times: [], values: [] };
  const minutes = [1, 2, 5, 10, 15, 30, 60, 120, 360, 1440].map((value) => value * 60);
  const width = Math.max(step, minutes.find((value) => (all.at(-1).at - all[0].at) / value <= 100) ?? 86_400);
  const buckets = new Map();
  for (let at = Math.floor(all[0].at / width); at <= Math.floor(all.at(-1).at / width); at += 1) {
    buckets.set(at, { terminal: 0, missing: 0 });
  }
  for (const { at, drained } of all) {
    const bucket = buckets.get(Math.floor(at / width));
    for (const { key } of DRAINS) bucket[key] += drained[key] ?? 0;
  }
  return { times: [...buckets.keys()].map((at) => at * width), values: [...buckets.values()], width };
}

function summariseVerdicts({ times, values }) {
  const last = values.at(-1);
  if (!last) return "Streams by verdict over time: no points yet.";
  const most = Math.max(...values.map((row) => row?.zombie ?? 0));
  const figures = VERDICTS.map(({ key, label }) => `${count(last[key])} ${label}`).reverse().join(", ");
  return `Streams by verdict, ${clock(times[0] * 1000)} to ${clock(times.at(-1) * 1000)}. Now ${figures}. At most ${count(most)} zombies.`;
}

function summariseDrains({ times, values }) {
  if (values.length === 0) return "Drained streams over time: no points yet.";
  const sum = (key) => values.reduce((total, row) => total + row[key], 0);
  return `Drained streams, ${clock(times[0] * 1000)} to now: ${count(sum("terminal"))} terminal, ${count(sum("missing"))} missing.`;
}

const charts = {
  verdicts: new Chart("verdicts", VERDICTS, { bars: false, gather: gatherVerdicts, summary: summariseVerdicts }),
  drains: new Chart("drains", DRAINS, { bars: true, gather: gatherDrains, summary: summariseDrains }),
};

const plotted = ({ at, verdicts, drained, live }) => ({ at: Date.parse(at) / 1000, verdicts: verdicts ?? {}, drained: drained ?? {}, live });

function showTimeline(answer) {
  timeline.step = answer.step_s || 60;
  timeline.points = (answer.points ?? []).map(plotted).filter(({ at }) => Number.isFinite(at)).slice(-POINTS_KEPT);
  timeline.fresh = { terminal: 0, missing: 0 };
  charts.verdicts.update();
  charts.drains.update();
}

function point(data) {
  const one = plotted(data);
  timeline.points = timeline.points.filter(({ live }) => !live);  // it was a part of this one
  const last = timeline.points.at(-1);
  if (!Number.isFinite(one.at) || (last && one.at < last.at)) return;
  if (last?.at === one.at) timeline.points.pop();
  timeline.points.push(one);
  if (timeline.points.length > POINTS_KEPT) timeline.points.shift();
  timeline.fresh = { terminal: 0, missing: 0 };
  charts.verdicts.update();
  charts.drains.update();
}

// Streams

const WORDS = { kept: "kept", waiting: "waiting", would_drain: "zombie", unfixable: "unfixable", gone: "gone" };
const URGENCY = { unfixable: 0, would_drain: 1, waiting: 2, kept: 3 };
const COLUMNS = [
  { key: "stream", title: "Stream" },
  { key: "verdict", title: "Verdict", css: "mid" },
  { key: "reason", title: "Reason" },
  { key: "status", title: "Job's status", css: "mid" },
  { key: "age_s", title: "Age", css: "number mid" },
  { key: "terminal_at", title: "Job ended", css: "mid extra" },
  { key: "until", title: "Due", css: "number" },
  { key: "messages", title: "Messages", css: "number mid" },
  { key: "redelivered", title: "Redelivered", css: "number mid extra" },
];
const natural = new Intl.Collator("en", { numeric: true });
const table = {
  all: [], at: 0, wanted: [], search: "", reasons: new Set(), sort: "verdict", down: false, limit: PAGE, rows: new Map(), read: false,
  error: null, fallen: new Map(), linked: null,
};
const inView = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    target.row.seen = isIntersecting;
    if (isIntersecting) tickRow(target.row);
  }
});

function showStreams(answer) {
  learnClock(answer.at);
  table.at = Date.parse(answer.at) || now();
  table.read = true;
  table.error = answer.error ?? null;
  const there = new Set((answer.streams ?? []).map(({ stream }) => stream));
  for (const name of there) table.fallen.delete(name);
  for (const [name, row] of table.rows) {
    if (row.why && !there.has(name) && !table.fallen.has(name)) table.fallen.set(name, { ...row.one, verdict: "gone", until: null });
  }
  table.all = [...(answer.streams ?? []), ...table.fallen.values()].map((one) => ({
    ...one,
    ended: known(one.terminal_at) ? Date.parse(one.terminal_at) : null,
    due: known(one.until) ? Date.parse(one.until) : null,
    haystack: [one.stream, plain(one.stream), one.job_id, WORDS[one.verdict], one.verdict, one.reason, one.status, one.detail]
      .filter(known).join("\n").toLowerCase(),
  })).sort((one, two) => natural.compare(one.stream, two.stream));
  table.all.forEach((one, rank) => { one.rank = rank; });
  showChips();
  showTable();
  followLink();
}

/** A stream that falls while its row is open stays there, and says so, until the row is closed. */
function fell({ stream, at }) {
  const row = table.rows.get(stream);
  if (!row?.why) return;
  table.fallen.set(stream, { ...row.one, verdict: "drained", until: null, fell: at });
  const index = table.all.findIndex((one) => one.stream === stream);
  if (index >= 0) table.all[index] = { ...table.all[index], verdict: "drained", until: null, due: null, fell: at };
  showTable();
}

// Links: #stream=job_42 opens why it is judged so, or what became of it.

const linkTo = (stream) => `#stream=${encodeURIComponent(stream.toWellFormed?.() ?? stream)}`;

function linkedStream() {
  const match = /^#stream=(.+)$/u.exec(location.hash);
  try {
    return match ? decodeURIComponent(match[1]) : null;
  } catch {
    return null;
  }
}

async function followLink() {
  const name = linkedStream();
  if (name === null || name === table.linked || !table.read) return;
  table.linked = name;
  table.reasons.clear();
  search(name);
  $("search").value = name;
  const row = table.rows.get(name);
  if (row) {
    if (!row.why) openRow(row);
    row.open.scrollIntoView({ block: "center" });
    row.open.focus({ preventScroll: true });
    return;
  }
  try {
    await read(`api/streams/${encodeURIComponent(name)}`);
  } catch (error) {
    if (linkedStream() === name) $("streams-empty").replaceChildren(...(error.gone ? goneParts(error.gone) : [plain(error.message)]));
  }
}

function search(words) {
  table.search = words.trim();
  table.limit = PAGE;
  showTable();
  listHistory();
}

function showChips() {
  const counted = new Map();
  for (const { reason, verdict } of table.all) {
    const chip = counted.get(reason) ?? { verdict, number: 0 };
    chip.number += 1;
    counted.set(reason, chip);
  }
  for (const reason of table.reasons) if (!counted.has(reason)) counted.set(reason, { verdict: null, number: 0 });
  const ordered = [...counted].sort(([a, one], [b, two]) => (
    (URGENCY[one.verdict] ?? 9) - (URGENCY[two.verdict] ?? 9) || natural.compare(a, b)
  ));
  const box = $("reasons");
  const old = new Map([...box.children].map((chip) => [chip.reason, chip]));
  const chips = ordered.map(([reason, { verdict, number }]) => {
    const chip = old.get(reason) ?? newChip(reason);
    mark(chip, "data-verdict", verdict);
    mark(chip, "aria-pressed", String(table.reasons.has(reason)));
    write(chip.number, count(number));
    return chip;
  });
  arrange(box, chips);
}

function newChip(reason) {
  const number = el("b");
  const toggle = () => {
    if (!table.reasons.delete(reason)) table.reasons.add(reason);
    table.limit = PAGE;
    showChips();
    showTable();
  };
  const chip = el("button", { type: "button", "data-reason": reason, onclick: toggle },
    el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "data" }, reason), number);
  return Object.assign(chip, { reason, number });
}

/** Makes the nodes a box's children, in order, touching only what moved, so that focus stays where it is. */
function arrange(box, nodes) {
  const focused = document.activeElement;
  const wanted = new Set(nodes);
  for (const child of [...box.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (box.children[index] !== node) box.insertBefore(node, box.children[index] ?? null);
  });
  if (focused !== document.activeElement && box.contains(focused)) focused.focus({ preventScroll: true });
}

function byColumn(one, two) {
  if (table.sort === "stream") return one.rank - two.rank;
  if (table.sort === "verdict") return (URGENCY[one.verdict] ?? 9) - (URGENCY[two.verdict] ?? 9);
  const [a, b] = { terminal_at: [one.ended, two.ended], until: [one.due, two.due] }[table.sort] ?? [one[table.sort], two[table.sort]];
  if (typeof a === "number" && typeof b === "number") return a - b;
  return natural.compare(String(a), String(b));
}

function unknownLast(one, two) {
  return table.sort === "verdict" ? 0 : Number(!known(one[table.sort])) - Number(!known(two[table.sort]));
}

function dueFirst(one, two) {
  const [a, b] = [one.due ?? Infinity, two.due ?? Infinity];
  return a === b ? 0 : a - b;
}

function showTable() {
  const needle = table.search.toLowerCase();
  const direction = table.down ? -1 : 1;
  table.wanted = table.all
    .filter((one) => (table.reasons.size === 0 || table.reasons.has(one.reason)) && one.haystack.includes(needle))
    .sort((one, two) => unknownLast(one, two) || direction * byColumn(one, two) || dueFirst(one, two) || one.rank - two.rank);
  for (const head of $("streams-table").tHead.rows[0].cells) {
    mark(head, "aria-sort", head.key === table.sort ? (table.down ? "descending" : "ascending") : null);
  }
  const shown = table.wanted.slice(0, table.limit);
  const rows = new Map();
  const nodes = [];
  for (const one of shown) {
    const row = table.rows.get(one.stream) ?? newRow(one.stream);
    fillRow(row, one);
    rows.set(one.stream, row);
    nodes.push(row.line);
    if (row.why) nodes.push(row.why);
  }
  for (const [name, row] of table.rows) if (!rows.has(name)) inView.unobserve(row.line);
  table.rows = rows;
  arrange($("streams-table").tBodies[0], nodes);
  tellTable(shown.length);
}

function tellTable(shown) {
  const [found, all] = [table.wanted.length, table.all.length];
  const filtered = found === all ? "" : ` of ${count(all)}`;
  write($("streams-count"), table.read ? `${shown < found ? `${count(shown)} shown of ` : ""}${count(found)}${filtered}` : "reading …");
  $("streams-more").hidden = shown >= found;
  write($("streams-more"), `Show ${count(Math.min(PAGE, found - shown))} more`);
  $("streams-empty").hidden = found > 0 || !table.read;
  write($("streams-empty"), all > 0 ? "No stream fits the search and the reasons chosen." : nothingThere());
}

/** An empty list is no empty account where nobody could look. */
function nothingThere() {
  if (trouble !== null) return "Nothing can be read now.";
  if (known(table.error)) return `The last full pass failed, so nobody knows: ${table.error}`;
  if (status !== null && !known(status.job_streams)) return "Not known before the first full pass.";
  return "No job streams. Nothing to do.";
}

let rowsMade = 0;

function newRow(stream) {
  rowsMade += 1;
  const name = el("span", { class: "data" }, stream);
  const open = el("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": `why-${rowsMade}` }, name);
  const row = { stream, id: `why-${rowsMade}`, open, why: null, one: null, cells: {}, dot: el("span", { class: "dot", "aria-hidden": "true" }), told: "" };
  open.addEventListener("click", () => (row.why ? closeRow(row) : openRow(row)));
  row.line = Object.assign(el("tr"), { row });
  inView.observe(row.line);
  for (const { key, css } of COLUMNS) {
    const cell = el("td", { class: css });
    if (key === "stream") cell.append(open);
    else if (key === "verdict") {
      row.cells[key] = el("span");
      cell.append(el("span", { class: "tag" }, row.dot, row.cells[key]));
    } else if (key === "reason") {
      row.cells[key] = el("span", { class: "tag data" });
      cell.append(row.cells[key]);
    } else row.cells[key] = cell;
    if (key === "until") cell.classList.add("due");
    if (key === "status") cell.classList.add("data");
    row.line.append(cell);
  }
  return row;
}

function fillRow(row, one) {
  row.one = one;
  mark(row.line, "data-verdict", one.verdict);
  write(row.cells.verdict, known(one.fell) ? `drained at ${clock(one.fell)}` : WORDS[one.verdict] ?? one.verdict);
  write(row.cells.reason, one.reason);
  write(row.cells.status, one.status);
  write(row.cells.terminal_at, known(one.ended) ? clock(one.ended) : null);
  mark(row.cells.terminal_at, "title", known(one.terminal_at) ? plain(one.terminal_at) : null);
  write(row.cells.messages, count(one.messages));
  write(row.cells.redelivered, count(one.redelivered));
  row.cells.messages.classList.toggle("zero", !one.messages);
  row.cells.redelivered.classList.toggle("zero", !one.redelivered);
  tickRow(row);
  if (row.why && row.told !== said(one)) tellWhy(row);
}

const said = ({ verdict, reason, until, status: word }) => JSON.stringify([verdict, reason, until, word]);

function tickRow(row) {
  const { one, cells } = row;
  write(cells.age_s, known(one.age_s) ? span(one.age_s + (now() - table.at) / 1000) : null);
  const left = known(one.due) ? (one.due - now()) / 1000 : null;
  const fallen = (left !== null && left <= 0) || (left === null && one.verdict === "would_drain");
  write(cells.until, table.fallen.has(one.stream) ? null : fallen ? "now" : left === null ? null : `in ${span(left)}`);
  mark(cells.until, "data-now", fallen);
  mark(cells.until, "title", known(one.until) ? plain(one.until) : null);
}

function closeRow(row) {
  row.why.remove();
  if (linkedStream() === row.stream) history.replaceState(null, "", location.pathname + location.search);
  if (table.fallen.delete(row.stream)) {
    table.all = table.all.filter((one) => one.stream !== row.stream);
    setTimeout(showTable);
  }
  row.why = null;
  row.told = "";
  mark(row.open, "aria-expanded", "false");
}

function openRow(row) {
  row.box = el("div", { class: "reasoning", "aria-live": "polite" }, el("p", { class: "muted" }, "Asking why …"));
  row.why = el("tr", { class: "why", id: row.id, "data-verdict": row.one.verdict }, el("td", { colspan: COLUMNS.length }, row.box));
  row.line.after(row.why);
  mark(row.open, "aria-expanded", "true");
  table.linked = row.stream;
  history.replaceState(null, "", linkTo(row.stream));
  tellWhy(row);
}

async function tellWhy(row) {
  const asked = said(row.one);
  row.told = asked;
  mark(row.why, "data-verdict", row.one.verdict);
  try {
    const why = await read(`api/streams/${encodeURIComponent(String(row.stream).toWellFormed?.() ?? row.stream)}`);
    if (row.why && row.told === asked) showWhy(row, why);
  } catch (error) {
    if (!row.why || row.told !== asked) return;
    if (error.gone) row.box.replaceChildren(...goneParts(error.gone));
    else row.box.replaceChildren(el("p", { class: "failed data" }, `Could not be told: ${error.message}`));
  }
}

/** What became of a stream that is not there. */
function goneParts({ stream, sentence, restorable, timeline: acts = [] }) {
  const left = el("div", {}, el("p", { class: "sentence data" }, sentence));
  if (known(restorable)) {
    const whole = restorable.lost > 0 ? `empty: ${many(restorable.lost, "message is", "messages are")} lost` : `with ${many(restorable.messages, "message", "messages")}`;
    left.append(el("h3", {}, "To bring it back"), el("p", { class: "data" }, `${restorable.command} (${whole})`));
    if (ordersTaken) left.append(el("div", { class: "orders" }, orderButton("restore", stream)));
  }
  const lines = acts.map(({ at, what }) => el("li", {}, el("span", { class: "time" }, clock(at)), " ", el("span", { class: "data" }, what)));
  return [left, el("div", {}, el("h3", {}, "What happened"), el("ol", { class: "acts" }, ...lines))];
}

function showWhy(row, why) {
  const left = el("div", {}, el("p", { class: "sentence data" }, why.sentence));
  if (known(row.one.detail)) left.append(el("h3", {}, "Detail"), el("p", { class: "data" }, row.one.detail));
  if (known(why.changes)) left.append(el("h3", {}, "What would change it"), el("p", { class: "data" }, why.changes));
  if (why.guards?.length) left.append(el("h3", {}, "Guards"), el("ul", { class: "guards" }, ...why.guards.map(guardLine)));
  if (ordersTaken) {
    const kind = why.reason === "protected" ? "unprotect" : "protect";
    left.append(el("div", { class: "orders" }, orderButton(kind, row.stream, () => { row.told = ""; tellWhy(row); })));
  }
  left.append(el("p", {}, el("a", { class: "link", href: linkTo(row.stream) }, "Link to this stream")));
  const one = row.one;
  const figures = { verdict: WORDS[one.verdict] ?? one.verdict, status: one.status, age: span(one.age_s), "job ended": one.terminal_at,
    messages: one.messages, redelivered: one.redelivered };
  left.append(el("div", { class: "narrow" }, el("h3", {}, "Figures"), tree(figures)));
  const right = el("div", {}, el("h3", {}, "Evidence"), tree(why.evidence ?? {}));
  row.box.replaceChildren(left, right);
}

function guardLine({ guard, passes_at: at, passed }) {
  const instant = Date.parse(at);
  const when = el("span", { class: "time" });
  if (passed) write(when, known(at) ? `passed at ${clock(at)}` : "passed");
  else if (!known(at)) write(when, "not known when it passes");
  else if (Number.isFinite(instant)) Object.assign(when, { passesAt: instant, className: "time countdown" });
  else write(when, at);
  const line = el("li", { "data-passed": Boolean(passed) }, el("span", { class: "mark", "aria-hidden": "true" }, passed ? "✓" : "…"),
    el("span", { class: "data" }, String(guard).replaceAll("_", " ")), when);
  tickGuard(when);
  return line;
}

function tickGuard(when) {
  if (!when.passesAt) return;
  const left = (when.passesAt - now()) / 1000;
  write(when, left > 0 ? `passes at ${clock(when.passesAt)}, in ${span(left)}` : `passed at ${clock(when.passesAt)}`);
}

/** Any JSON as nested names and values; deep or long ones are cut. */
function tree(value, depth = 0) {
  const list = el("dl", { class: "tree" });
  const entries = Object.entries(value);
  for (const [name, one] of entries.slice(0, 60)) {
    const nested = one !== null && typeof one === "object";
    const flat = nested && (depth >= 5 || (Array.isArray(one) && one.every((item) => item === null || typeof item !== "object")));
    const text = flat ? (Array.isArray(one) && depth < 5 ? one.join(", ") || "none" : JSON.stringify(one)) : one;
    list.append(el("dt", { class: "data" }, name));
    if (nested && !flat) list.append(Object.keys(one).length ? el("dd", { class: "nested" }, tree(one, depth + 1)) : el("dd", {}, "none"));
    else list.append(el("dd", { class: "data" }, text));
  }
  if (entries.length > 60) list.append(el("dt", {}, "…"), el("dd", {}, `${entries.length - 60} more`));
  if (entries.length === 0) list.append(el("dt", {}, "none"), el("dd", {}));
  return list;
}

function buildTable() {
  const heads = COLUMNS.map(({ key, title, css }) => {
    const head = el("th", { scope: "col", class: css }, el("button", { type: "button", onclick: () => sortBy(key) }, title));
    return Object.assign(head, { key });
  });
  $("streams-table").tHead.rows[0].append(...heads);
  $("search").addEventListener("input", (event) => search(event.target.value));
  $("streams-more").addEventListener("click", () => {
    table.limit += PAGE;
    showTable();
  });
  document.addEventListener("keydown", pressed);
  addEventListener("hashchange", followLink);
}

/** `/` searches, Esc leaves the search or closes the row, arrows go from stream to stream. */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  if (key === "Escape") {
    if (target === $("search")) {
      target.value = "";
      search("");
      return;
    }
    const line = target.closest?.("#streams-table tbody tr");
    const row = [...table.rows.values()].find((one) => one.why && (one.line === line || one.why === line));
    if (!row) return;
    row.open.focus();
    closeRow(row);
  } else if (key === "/" && !target.matches("input, textarea")) {
    event.preventDefault();
    $("search").focus();
  } else if ((key === "ArrowDown" || key === "ArrowUp") && target.matches(".open")) {
    const opens = [...document.querySelectorAll("#streams-table .open")];
    const next = opens[opens.indexOf(target) + (key === "ArrowDown" ? 1 : -1)];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}

function sortBy(key) {
  table.down = table.sort === key && !table.down;
  table.sort = key;
  showTable();
}

// History and leaks

const OUTCOMES = {
  drained: "drained", already_gone: "already gone", kept: "kept", waiting: "waiting", unfixable: "unfixable", would_drain: "would drain",
};
/** What an entry tells that is no outcome of a deletion. */
const outcomeOf = ({ phase, outcome }) => {
  if (phase === "afterwards") return `would drain, now ${outcome}`;
  const word = outcome ?? phase;
  return OUTCOMES[word] ?? word;
};
const ledgerOfDeeds = { entries: [], limit: HISTORY_PAGE, rows: new Map() };
const deed = (entry) => JSON.stringify([entry.phase, entry.stream, entry.at, entry.outcome]);

function showHistory(answer) {
  ledgerOfDeeds.entries = answer.entries ?? [];
  listHistory();
}

function listHistory(arrived = null) {
  const { limit } = ledgerOfDeeds;
  const needle = table.search.toLowerCase();
  const entries = ledgerOfDeeds.entries.filter((entry) => needle === "" || JSON.stringify(Object.values(entry)).toLowerCase().includes(needle));
  const rows = new Map();
  for (const entry of entries.slice(0, limit)) {
    const key = deed(entry);
    rows.set(key, ledgerOfDeeds.rows.get(key) ?? historyRow(entry, key === arrived));
  }
  ledgerOfDeeds.rows = rows;
  arrange($("history-table").tBodies[0], [...rows.values()]);
  write($("history-count"), entries.length === 0 ? "" : `newest ${count(Math.min(limit, entries.length))}`);
  $("history-empty").hidden = entries.length > 0;
  write($("history-empty"), needle === "" ? "Nothing was drained yet." : "Nothing in the history fits the search.");
  $("history-more").hidden = entries.length <= limit;
  write($("history-more"), `Show ${count(Math.min(HISTORY_PAGE, entries.length - limit))} more`);
}

function historyRow(entry, arrived) {
  const outcome = outcomeOf(entry);
  return el("tr", { "data-verdict": entry.outcome ?? entry.phase, class: arrived ? "arrived" : null },
    el("td", { class: "time", title: known(entry.at) ? plain(entry.at) : null }, clock(entry.at)),
    el("td", {}, el("span", { class: "tag" }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "data" }, outcome))),
    el("td", { class: "name" }, el("span", { class: "data" }, entry.stream)),
    el("td", { class: "data cause" }, [entry.reason, entry.status].filter((word) => known(word) && word !== "").join(", ") || null),
    el("td", { class: "number mid" }, count(entry.messages)),
    el("td", { class: "data detail mid" }, entry.detail ?? ""),
    el("td", { class: "data by mid", title: known(entry.by) ? plain(entry.by) : null }, entry.by));
}

function settled(entry) {
  const key = deed(entry);
  if (ledgerOfDeeds.entries.some((one) => deed(one) === key)) return;
  ledgerOfDeeds.entries = [entry, ...ledgerOfDeeds.entries].slice(0, HISTORY_KEPT);
  listHistory(key);
  if (entry.outcome !== "drained") return;
  fell(entry);
  if (entry.reason in timeline.fresh) {
    timeline.fresh[entry.reason] += 1;
    charts.drains.update();
  }
  countLeak(entry);
}

let leaks = { total: 0, statuses: [] };

function countLeak({ status: word, at }) {
  const seen = leaks.statuses.find((one) => (one.status ?? "") === (word ?? ""));
  const one = seen ?? { status: word, drained: 0, hours: Array(24).fill(0) };
  if (!seen) leaks.statuses.push(one);
  leaks.total += 1;
  one.drained += 1;
  const hour = new Date(Date.parse(at) || now()).getUTCHours();
  if (one.hours) one.hours[hour] = (one.hours[hour] ?? 0) + 1;
  listLeaks();
}

function showLeaks(answer) {
  leaks = { total: answer.total ?? 0, statuses: answer.statuses ?? [] };
  listLeaks();
}

function listLeaks() {
  const ordered = leaks.statuses.filter(({ drained }) => drained > 0).sort((one, two) => two.drained - one.drained);
  const together = Array(24).fill(0);
  for (const { hours = [] } of ordered) hours.forEach((number, hour) => { if (hour < 24) together[hour] += number; });
  const rows = ordered.slice(0, 12).map(({ status: word, drained, hours }) => leakRow(word || "no record", drained, hours ?? []));
  if (ordered.length > 1) rows.push(leakRow("all", leaks.total, together, "total"));
  if (ordered.length > 0) {
    const ticks = el("div", { class: "ticks", "aria-hidden": "true" }, ...["00", "06", "12", "18", "24"].map((hour) => el("span", {}, hour)));
    rows.push(el("tr", {}, el("td", { colspan: 3, class: "muted" }, ordered.length > 12 ? `and ${count(ordered.length - 12)} more` : ""), el("td", {}, ticks)));
  }
  $("leaks-table").tBodies[0].replaceChildren(...rows);
  $("leaks-table").tHead.hidden = ordered.length === 0;
  write($("leaks-count"), ordered.length ? `${count(leaks.total)} drained in all` : "");
  $("leaks-empty").hidden = ordered.length > 0;
  write($("leaks-empty"), "No leak seen yet.");
}

function leakRow(word, drained, hours, css = null) {
  const most = Math.max(1, ...hours);
  const bars = Array.from({ length: 24 }, (_, hour) => {
    const number = hours[hour] ?? 0;
    const bar = el("i", { "data-any": number > 0, title: `${String(hour).padStart(2, "0")}:00 UTC: ${count(number)}` });
    bar.style.height = `${(100 * number) / most}%`;
    return bar;
  });
  const peak = hours.indexOf(Math.max(...hours, 0));
  const spoken = drained > 0 && peak >= 0 ? `most at ${String(peak).padStart(2, "0")} UTC, ${count(hours[peak])}` : "none";
  return el("tr", { class: css },
    el("td", { class: "data" }, word),
    el("td", { class: "number" }, count(drained)),
    el("td", { class: "number" }, leaks.total > 0 ? `${Math.round((100 * drained) / leaks.total)} %` : "–"),
    el("td", {}, el("div", { class: "hours", role: "img", "aria-label": `By hour: ${spoken}` }, ...bars)));
}

// Theme

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";

function tellTheme() {
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
    // Not remembered, then.
  }
  tellTheme();
}

// Beginning

const failedIn = (id) => (words) => {
  $(id).hidden = false;
  write($(id), words);
};
const statusSource = source("api/status", showStatus, (words) => setTrouble(words));
const streamsSource = source("api/streams", showStreams, (words) => {
  failedIn("streams-empty")(words);
  if (!table.read) write($("streams-count"), "");
});
const historySource = source(`api/history?limit=${HISTORY_KEPT}`, showHistory, failedIn("history-empty"));
const timelineSource = source("api/timeline", showTimeline, (words) => {
  for (const { box, plot } of Object.values(charts)) {
    if (plot) continue;
    box.dataset.empty = words;
    mark(box, "aria-label", words);
  }
});
const leaksSource = source("api/leaks", showLeaks, failedIn("leaks-empty"));

function lookAtEverything() {
  for (const one of [statusSource, streamsSource, historySource, timelineSource, leaksSource]) one.look();
}

function everySecond() {
  watchConnection();
  if (document.hidden) return;
  for (const row of table.rows.values()) if (row.seen) tickRow(row);
  for (const when of document.querySelectorAll(".countdown")) tickGuard(when);
}

buildTiles();
buildTable();
tellTable(0);
tellTheme();
$("theme").addEventListener("click", switchTheme);
$("pause").addEventListener("click", () => confirmOrder(known(status?.pause) ? "resume" : "pause"));
prefersDark.addEventListener("change", tellTheme);
$("history-more").addEventListener("click", () => {
  ledgerOfDeeds.limit += HISTORY_PAGE;
  listHistory();
});
lookAtEverything();
connect();
setInterval(everySecond, 1000);
