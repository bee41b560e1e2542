// The statistics as a person reads them: small charts with their numbers, and a table of counters.
import { SAMPLES_MAX } from "./statistics.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 32;

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** Field of a sample, what it is called, its unit, how it is written, and the least height of the scale. */
const BOTH = [["loss", "Loss", "%", tenth, 5], ["roundTrip", "Round trip", "ms", whole, 50]];
const CHARTS = {
  audio: [["received", "Receiving", "kbit/s", whole, 20], ["sent", "Sending", "kbit/s", whole, 20], ...BOTH],
  video: [
    ["received", "Receiving", "kbit/s", whole, 200],
    ["sent", "Sending", "kbit/s", whole, 200],
    ["framesReceived", "Receiving", "frames/s", whole, 15],
    ["framesSent", "Sending", "frames/s", whole, 15],
    ...BOTH,
  ],
};

const NOTHING = "–";

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** One chart: the number now, and its last minute as a line. */
class Chart {
  constructor([field, name, unit, format, least]) {
    Object.assign(this, { field, name, unit, format, least });
    this.value = element("span", { class: "value" }, NOTHING);
    this.area = shape("path", { class: "area" });
    this.line = shape("path", { class: "line" });
    this.picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.picture.append(this.area, this.line);
    this.figure = element(
      "figure",
      { class: "chart", "data-chart": field },
      element("figcaption", {}, name),
      element("p", { class: "now" }, this.value, element("span", { class: "unit" }, unit)),
      this.picture,
    );
    this.show([]);
  }

  show(samples) {
    const values = samples.map((sample) => sample[this.field]);
    const known = values.filter((value) => value !== null);
    const last = known.length ? known[known.length - 1] : null;
    this.value.textContent = last === null ? NOTHING : this.format.format(last);
    const top = Math.max(this.least, ...known) * 1.1;
    const step = WIDTH / (SAMPLES_MAX - 1);
    // The newest is at the right edge; what is not known is a gap.
    const points = values
      .map((value, at) => (value === null ? null : [WIDTH - (values.length - 1 - at) * step, HEIGHT - 1 - (value / top) * (HEIGHT - 2)]))
      .filter(Boolean)
      .map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`);
    this.line.setAttribute("d", points.length ? `M${points.join("L")}` : "");
    const first = points.length ? points[0].split(" ")[0] : 0;
    this.area.setAttribute("d", points.length ? `M${points.join("L")}L${WIDTH} ${HEIGHT}L${first} ${HEIGHT}Z` : "");
    const words = known.length
      ? `${this.format.format(last)} ${this.unit} now, ${this.format.format(Math.min(...known))} to ${this.format.format(Math.max(...known))} in the last minute`
      : "no numbers yet";
    this.picture.setAttribute("aria-label", `${this.name}: ${words}`);
  }
}

/** Bytes in a unit that people read. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${tenth.format(bytes / 1000)} kB` : `${tenth.format(bytes / 1e6)} MB`;
}

/** A row of the table: its name and what a direction's counters say. */
const COUNTERS = [
  ["codec", "Codec", (side) => side.codec || NOTHING],
  ["packets", "Packets", (side) => whole.format(side.packets)],
  ["bytes", "Data", (side) => size(side.bytes)],
  ["lost", "Lost", (side) => (side.lost === null ? NOTHING : whole.format(side.lost))],
  ["jitter", "Jitter", (side) => (side.jitter === null ? NOTHING : `${whole.format(side.jitter)} ms`)],
];

/** And those of pictures alone. */
const PICTURE_COUNTERS = [
  ["size", "Size", (side) => (side.size ? `${side.size.width} × ${side.size.height}` : NOTHING)],
  ["frames", "Frames", (side) => whole.format(side.frames)],
];

/** Charts and table in their places. */
export class StatisticsPanel {
  /**
   * @param {"audio"|"video"} kind
   * @param {HTMLElement} charts where the charts go
   * @param {HTMLTableElement} table whose body gets the counters, beside columns "Received" and "Sent"
   */
  constructor(kind, charts, table) {
    this.charts = CHARTS[kind].map((row) => new Chart(row));
    charts.replaceChildren(...this.charts.map(({ figure }) => figure));
    const [first, ...rest] = COUNTERS;
    const counters = kind === "video" ? [first, ...PICTURE_COUNTERS, ...rest] : COUNTERS;
    this.rows = counters.map(([field, name, words]) => {
      const cells = [element("td", { "data-counter": `received-${field}` }), element("td", { "data-counter": `sent-${field}` })];
      return { words, cells, line: element("tr", {}, element("th", { scope: "row" }, name), ...cells) };
    });
    table.tBodies[0].replaceChildren(...this.rows.map(({ line }) => line));
    this.clear();
  }

  clear() {
    for (const chart of this.charts) chart.show([]);
    for (const { cells } of this.rows) for (const cell of cells) cell.textContent = NOTHING;
  }

  /** @param sample what a `Sampler` tells */
  show({ reading, samples }) {
    for (const chart of this.charts) chart.show(samples);
    for (const { words, cells: [received, sent] } of this.rows) {
      received.textContent = words(reading.received);
      sent.textContent = words(reading.sent);
    }
  }
}
