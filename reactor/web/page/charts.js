// The charts of verdicts and drains.

import { clock, day, now } from "./clock.js";
import { source } from "./sources.js";
import { state, watch } from "./state.js";
import { $, count, el, known, mark, span, write } from "./text.js";

const POINTS_KEPT = 1440;

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

/** Returns a colour mixed into another, both as #rrggbb. It is opaque, because areas are painted over each other. */
function mixed(hex, ground, share) {
  const part = (text, from) => Number.parseInt(text.slice(from, from + 2), 16);
  const channel = (from) => Math.round(part(hex, from) * share + part(ground, from) * (1 - share)).toString(16).padStart(2, "0");
  return `#${channel(1)}${channel(3)}${channel(5)}`;
}

/** A stacked chart with its legend (buttons that hide a series), its spoken summary and its table. */
class Chart {
  constructor(name, series, { bars, gather, summary, unit }) {
    this.unit = unit;
    this.series = series;
    this.bars = bars;
    this.gather = gather;
    this.summary = summary;
    this.box = $(`${name}-chart`);
    this.table = $(`${name}-table`);
    this.hidden = new Set();
    this.plot = null;
    this.rows = { times: [], values: [] };
    this.tip = el("div", { class: "tip", hidden: true });
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
    this.box.append(this.tip);
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
    if (this.plot && this.plot.data[0].length > 1 && this.plot.axes[1].label === this.unit(this.rows)) this.plot.setData(this.stacked());
    else this.build();
    this.legend();
    mark(this.box, "aria-label", this.summary(this.rows));
    this.tabulate();
  }

  get visible() {
    return this.series.filter(({ key }) => !this.hidden.has(key));
  }

  /** Returns times, then sums from the bottom up, highest first: the lower ones are painted over them. */
  stacked() {
    const { times, values } = this.rows;
    const sums = times.map(() => 0);
    const columns = this.visible.map(({ key }) => values.map((row, index) => {
      sums[index] += row?.[key] ?? 0;
      // No line is drawn along zero.
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
        { ...axis, size: 44, space: 28, label: this.unit(this.rows), labelSize: 16, labelFont: axis.font, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5], values: (_, ticks) => ticks.map(count) },
      ],
      hooks: { setCursor: [(plot) => this.point(plot.cursor)] },
    };
    this.plot = new uPlot(options, this.stacked(), this.box);
  }

  /** Returns the time from the first point to the last, at least so much that no tick repeats. */
  range() {
    const { times, width = 0 } = this.rows;
    return [Math.min(times[0], times.at(-1) - NARROWEST), times.at(-1) + width];
  }

  /** Shows figures in the legend: the newest, or for bars their sum. */
  legend() {
    const { values } = this.rows;
    for (const [key, figure] of this.figures) {
      const summed = this.bars && values.length > 0;
      write(figure, count(summed ? values.reduce((sum, row) => sum + row[key], 0) : values.at(-1)?.[key]));
    }
  }

  /** Shows the figures at the pointer, beside it. */
  point({ idx: index, left }) {
    const row = this.rows.values[index];
    this.tip.hidden = !known(index) || !known(row) || left < 0;
    if (this.tip.hidden) return;
    const lines = [...this.visible].reverse().map(({ key, label }) => el("div", {}, `${label} ${count(row[key] ?? 0)}`));
    this.tip.replaceChildren(el("div", { class: "time" }, clock(this.rows.times[index] * 1000)), ...lines);
    const start = this.plot.over.offsetLeft;
    const before = left > this.plot.over.clientWidth / 2;
    this.tip.style.left = before ? "" : `${start + left + 12}px`;
    this.tip.style.right = before ? `${this.box.clientWidth - start - left + 12}px` : "";
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

const RANGES = [[1, "1 h"], [6, "6 h"], [24, "24 h"]];
let hours = 24;

const inRange = (points) => points.filter(({ at }) => at > points.at(-1).at - hours * 3600);

export function buildRanges() {
  const buttons = RANGES.map(([range, label]) => el("button", { type: "button", "aria-pressed": String(range === hours), onclick: choose }, label));
  function choose({ currentTarget }) {
    hours = RANGES[buttons.indexOf(currentTarget)][0];
    for (const button of buttons) mark(button, "aria-pressed", String(button === currentTarget));
    charts.verdicts.update();
    charts.drains.update();
  }
  $("ranges").append(...buttons);
}

/** Returns the verdicts over time. A gap in the record is a gap in the chart. */
function gatherVerdicts() {
  const times = [];
  const values = [];
  const read = inRange(timeline.points).filter(({ verdicts }) => Object.keys(verdicts).length > 0);
  // The last point is as new as the tiles, so that both say the same.
  const { status } = state;
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

/** Returns the drains, added up to at most some hundred bars, with those since the last point. */
function gatherDrains() {
  const { points, step, fresh } = timeline;
  const all = inRange(points).map(({ at, drained }) => ({ at, drained }));
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

export const charts = {
  verdicts: new Chart("verdicts", VERDICTS, { bars: false, gather: gatherVerdicts, summary: summariseVerdicts, unit: () => "streams" }),
  drains: new Chart("drains", DRAINS, {
    bars: true, gather: gatherDrains, summary: summariseDrains, unit: ({ width }) => `drained per ${span(width ?? timeline.step)}`,
  }),
};

export const timelineSource = source("api/timeline", showTimeline, (message) => {
  for (const { box, plot } of Object.values(charts)) {
    if (plot) continue;
    box.dataset.empty = message;
    mark(box, "aria-label", message);
  }
});

watch(["status"], () => charts.verdicts.update());

const plotted = ({ at, verdicts, drained }) => ({ at: Date.parse(at) / 1000, verdicts: verdicts ?? {}, drained: drained ?? {} });

function showTimeline(answer) {
  timeline.step = answer.step_s || 60;
  timeline.points = (answer.points ?? []).map(plotted).filter(({ at }) => Number.isFinite(at)).slice(-POINTS_KEPT);
  timeline.fresh = { terminal: 0, missing: 0 };
  charts.verdicts.update();
  charts.drains.update();
}

/** Adds a drain that happened since the last point. */
export function countDrain({ reason }) {
  if (!(reason in timeline.fresh)) return;
  timeline.fresh[reason] += 1;
  charts.drains.update();
}
