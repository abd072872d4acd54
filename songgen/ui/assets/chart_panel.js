// One panel of curves, drawn by plotly (global, from its own file, which may arrive later). Names are escaped: plotly
// reads texts as a kind of HTML.

import { el, formatNumber, request, t } from "./page.js";
import { smoothed } from "./curve_data.js";

const BAND = 0.18; // opacity of the range between lowest and highest values
const MAX_BANDS = 4; // lines with a range; those of more would hide each other
const FEW = 40; // points that are marked one by one
const MILESTONE_PANELS = { loss: "loss", accuracy: "accuracy" };

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

/** Returns a colour with an opacity; lighter where the page is dark. */
function shade(color, opacity) {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const parts = [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
  const shown = isDark ? parts.map((part) => Math.round(part + (255 - part) * 0.45)) : parts;
  return `rgba(${shown.join(",")},${opacity})`;
}

export class ChartPanel {
  constructor(key, view) {
    Object.assign(this, { key, view, panel: null, fine: null, isShown: false, asked: 0 });
    this.title = el("h4", {});
    this.plot = el("div", { class: "plot", role: "img" });
    this.legend = el("div", { class: "legend" });
    this.element = el("div", { class: "panel" }, this.title, this.plot, this.legend);
    this.observer = new IntersectionObserver((entries) => {
      this.isShown = entries.at(-1).isIntersecting;
      if (this.isShown && this.isOutdated) this.draw();
    }, { rootMargin: "200px" });
    this.observer.observe(this.element);
  }

  /** Takes what the panel has; it is drawn when it is on the screen, and has its title before. */
  show(panel) {
    this.panel = panel;
    this.title.textContent = panel.title;
  }

  remove() {
    this.observer.disconnect();
    if (globalThis.Plotly) globalThis.Plotly.purge(this.plot);
  }

  reset() {
    this.fine = null;
    if (this.plot.data) globalThis.Plotly.relayout(this.plot, { "xaxis.autorange": true, "yaxis.autorange": true });
  }

  /** Draws the panel if it is on the screen and the library is there; else when it is. */
  draw() {
    this.isOutdated = true;
    if (!globalThis.Plotly || !this.isShown || !this.panel) return;
    this.isOutdated = false;
    const isNew = !this.plot.data;
    globalThis.Plotly.react(this.plot, this.traces(), this.layout(), { displayModeBar: false, responsive: true });
    if (isNew) this.plot.on("plotly_relayout", (change) => this.onZoom(change));
    this.describe();
  }

  lines() {
    return this.panel.lines.filter((line) => !this.view.hidden.has(line.run));
  }

  traces() {
    const traces = [];
    const hasSeveral = this.view.runs.size > 1;
    const hasBands = this.lines().length <= MAX_BANDS;
    for (const line of this.lines()) {
      const run = this.view.runs.get(line.run);
      const curve = this.fine?.[line.run]?.[line.metric] ?? run?.curves.get(line.metric);
      if (!curve) continue;
      const x = run.places(curve.steps, this.view.axis);
      const color = shade(line.color, line.opacity);
      const name = escaped([hasSeveral ? line.run : "", line.name].filter(Boolean).join(", "));
      if (curve.low && hasBands) {
        const edge = { type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
        traces.push({ ...edge, x, y: curve.low }, { ...edge, x, y: curve.high, fill: "tonexty", fillcolor: shade(line.color, BAND * line.opacity) });
      }
      traces.push({
        type: "scatter", x, y: line.has_markers ? curve.values : smoothed(curve.values, this.view.smoothing),
        mode: line.has_markers || curve.steps.length < FEW ? "lines+markers" : "lines",
        line: { color, width: 1.6, dash: line.has_markers ? "dot" : "solid" }, marker: { size: 5, color },
        name, hovertemplate: `%{y:.5g}<extra>${name}</extra>`, showlegend: false,
      });
    }
    return traces;
  }

  layout() {
    const style = getComputedStyle(this.element);
    const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
    const isLog = this.view.isLog || this.panel.is_logarithmic;
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: soft, size: 11 }, automargin: true, exponentformat: "e" };
    const guides = [...this.panel.guides.map((guide) => ({ ...guide, dash: "dash" })), ...this.milestones()];
    const { range } = this.view;
    const names = { step: t("step"), epoch: t("epoch"), time: t("hours") };
    const highest = this.highest();
    const isFixed = this.panel.top !== null && !isLog;
    // A guide far above the curves would squeeze them together; on an axis with a fixed end it changes nothing.
    const isFar = (guide) => (isFixed ? guide.value > this.panel.top : guide.value > 3 * highest) || guide.value <= 0;
    const shown = guides.filter((guide) => !isFar(guide));
    return {
      uirevision: `${this.view.axis} ${range}`, height: 270, margin: { l: 50, r: 12, t: 8, b: 40 },
      paper_bgcolor: card, plot_bgcolor: card, font: { color: ink, family: style.fontFamily, size: 12 },
      hovermode: "x unified", dragmode: "zoom", showlegend: false,
      hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink } },
      xaxis: { ...axis, title: { text: names[this.view.axis], font: { size: 11, color: soft }, standoff: 6 }, ...(range ? { range: [range[0], Number.isFinite(range[1]) ? range[1] : this.end()] } : { autorange: true }) },
      yaxis: { ...axis, type: isLog ? "log" : "linear", fixedrange: true, rangemode: "tozero", ...(isFixed ? { range: [0, this.panel.top] } : { autorange: true }) },
      shapes: shown.map((guide) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: guide.value, y1: guide.value, line: { color: soft, width: 1, dash: guide.dash } })),
      annotations: shown.map((guide) => ({
        xref: "paper", x: guide.isLeft ? 0 : 1, xanchor: guide.isLeft ? "left" : "right", y: isLog ? Math.log10(guide.value) : guide.value, yanchor: "bottom",
        showarrow: false, text: escaped(guide.label), font: { size: 10, color: soft }, bgcolor: `${card}c8`, borderpad: 1, // read over a curve
      })),
    };
  }

  milestones() {
    return this.view.runs.size > 1 ? [] : this.view.milestones.filter((milestone) => MILESTONE_PANELS[milestone.metric] === this.key)
      .map((milestone) => ({ value: milestone.value, label: t("next milestone: {value}", { value: milestone.value }), dash: "dot", isLeft: true }));
  }

  curves() {
    return this.lines().map((line) => this.view.runs.get(line.run)?.curves.get(line.metric)).filter(Boolean);
  }

  highest() {
    return this.curves().reduce((high, curve) => (curve.high ?? curve.values).reduce((found, value) => Math.max(found, value), high), 0);
  }

  end() {
    return [...this.view.runs.values()].reduce((end, run) => {
      const last = [...run.curves.values()].reduce((step, curve) => Math.max(step, curve.last[0]), 0);
      return Math.max(end, run.places([last], this.view.axis)[0]);
    }, 0);
  }

  /** Shows what the colours mean, and says the latest values to whoever does not see them. */
  describe() {
    const isSingle = this.view.runs.size < 2;
    const labelled = isSingle ? this.panel.lines.filter((line) => line.has_label && line.name) : [];
    const entries = labelled.map((line) => {
      const swatch = el("span", { class: "swatch" });
      swatch.style.background = shade(line.color, line.opacity);
      return el("span", {}, swatch, line.name);
    });
    this.legend.replaceChildren(...(entries.length > 1 ? entries : []));
    const latest = this.lines().slice(0, 6).map((line) => {
      const curve = this.view.runs.get(line.run)?.curves.get(line.metric);
      return curve ? `${line.name} ${formatNumber(curve.last[1])}` : "";
    });
    this.plot.setAttribute("aria-label", [this.panel.title, ...latest.filter(Boolean)].join(", "));
  }

  /** Asks for finer curves between the ends of a zoom; those on the screen are means of many values. */
  async onZoom(change) {
    const [first, last] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    const number = ++this.asked;
    if (first === undefined) {
      if (this.fine && change["xaxis.autorange"]) { this.fine = null; this.draw(); }
      return;
    }
    if (!this.curves().some((curve) => curve.low)) return;
    const metrics = new Map();
    for (const line of this.lines()) metrics.set(line.run, [...(metrics.get(line.run) ?? []), line.metric]);
    const run = this.view.runs.get(this.lines()[0].run);
    const steps = [first, last].map((place) => run.stepAt(place, this.view.axis));
    const answer = await request("/api/train/zoom", {
      runs: [...metrics].map(([folder, names]) => ({ folder, metrics: names })), first: Math.floor(steps[0]), last: Math.ceil(steps[1]),
    }).catch(() => null);
    if (answer === null || number !== this.asked) return;
    this.fine = answer.runs;
    this.draw();
  }
}
