// Curves of one or several runs: panels as the server arranges them, drawn by plotly, with one legend and a table.

import { el, formatCount, formatNumber, poll, request, showProblem, t } from "./page.js";
import { RunCurves } from "./curve_data.js";
import { ChartPanel } from "./chart_panel.js";

const byId = (id) => document.getElementById(id);
const MAX_RUNS = 8;

/** Follows the curves of a run, and of others over them; `onHealth` gets what the evaluations of the run say. */
export function followCurves(folder, others, onHealth) {
  const runs = new Map([folder, ...others].map((name) => [name, new RunCurves(name)]));
  const hidden = new Set();
  const view = { axis: "step", smoothing: 0, isLog: false, range: null, milestones: [], runs, hidden };
  let layout = "";
  let panels = [];
  let timer = null;

  const redraw = () => panels.forEach((panel) => panel.draw());
  const redrawSoon = () => { clearTimeout(timer); timer = setTimeout(redraw, 60); };

  function arrange(described) {
    const old = new Map(panels.map((panel) => [panel.key, panel]));
    panels = described.map((panel) => {
      const chart = old.get(panel.key) ?? new ChartPanel(panel.key, view);
      chart.show(panel);
      return chart;
    });
    for (const panel of old.values()) if (!panels.includes(panel)) panel.remove();
    byId("panels").replaceChildren(...panels.map((panel) => panel.element));
    byId("no-curves").hidden = panels.length > 0;
    legend();
  }

  function legend() {
    const box = byId("legend");
    box.hidden = runs.size < 2;
    box.replaceChildren(...[...runs.keys()].map((name) => {
      const line = panels.flatMap((panel) => panel.panel.lines).find((found) => found.run === name);
      const swatch = el("span", { class: "swatch" });
      if (line) swatch.style.background = line.color;
      const button = el("button", { type: "button", "aria-pressed": String(!hidden.has(name)) }, swatch, name);
      button.onclick = () => { if (!hidden.delete(name)) hidden.add(name); legend(); redraw(); };
      return button;
    }));
  }

  function table() {
    if (!byId("values").open) return;
    const rows = panels.flatMap(({ panel }) => panel.lines.map((line) => {
      const curve = runs.get(line.run)?.curves.get(line.metric);
      if (!curve) return null;
      return el("tr", {}, ...[`${panel.title}${line.name ? `: ${line.name}` : ""} (${line.metric})`, line.run, formatCount(curve.last[0]), formatNumber(curve.last[1]),
        formatNumber(smallest(curve.low ?? curve.values)), formatNumber(-smallest((curve.high ?? curve.values).map((value) => -value)))].map((text) => el("td", {}, text)));
    }));
    byId("values").querySelector("tbody").replaceChildren(...rows.filter(Boolean));
  }

  // One after the other: two at once would ask for the same lines. A file of many lines is read in parts.
  let asking = Promise.resolve();
  const ask = () => (asking = asking.catch(() => {}).then(askForAll));

  async function askForAll() {
    while (await askOnce());
  }

  /** Asks for what is new; returns whether there is more of it. */
  async function askOnce() {
    const wanted = [...runs.values()].map(({ folder: name, key, lines }) => ({ folder: name, key, lines }));
    const answer = await request("/api/train/curves", { runs: wanted, layout });
    let hasChanged = false;
    for (const [name, part] of Object.entries(answer.runs)) hasChanged = runs.get(name)?.take(part) || hasChanged;
    if (answer.panels) {
      layout = answer.layout;
      arrange(answer.panels);
    }
    if (answer.panels || hasChanged) { redraw(); table(); }
    if (answer.health) onHealth(answer.health);
    say(answer.runs);
    return !document.hidden && Object.values(answer.runs).some((part) => part.more);
  }

  function say(answers) {
    const parts = [];
    for (const [name, part] of Object.entries(answers)) {
      if (part.more) parts.push(t("{run}: {n} % read", { run: name, n: Math.floor((100 * part.read) / Math.max(1, part.size)) }));
      if (part.damaged) parts.push(t("{run}: damaged lines that were left out: {n}", { run: name, n: part.damaged }));
      if (part.not_finite) parts.push(t("{run}: values that are not finite, and not shown: {n}", { run: name, n: part.not_finite }));
    }
    byId("curve-state").textContent = parts.join(" · ");
  }

  byId("axis").onchange = (event) => { view.axis = event.target.value; view.range = null; byId("from").value = byId("to").value = ""; redraw(); };
  byId("smoothing").oninput = (event) => { view.smoothing = Number(event.target.value); redrawSoon(); };
  byId("log").onchange = (event) => { view.isLog = event.target.checked; redraw(); };
  const chosen = () => {
    const [first, last] = ["from", "to"].map((id) => (byId(id).value === "" ? null : Number(byId(id).value)));
    view.range = first === null && last === null ? null : [first ?? 0, last ?? Infinity];
    redraw();
  };
  byId("from").onchange = byId("to").onchange = chosen;
  byId("zoom-all").onclick = () => { byId("from").value = byId("to").value = ""; chosen(); panels.forEach((panel) => panel.reset()); };
  byId("values").addEventListener("toggle", table);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.getElementById("charts").addEventListener("load", redraw);

  const select = byId("add-run");
  select.addEventListener("focus", async () => {
    const { runs: found } = await request("/api/train/runs").catch(() => ({ runs: [] }));
    const rest = found.map((run) => run.folder).filter((name) => !runs.has(name));
    select.replaceChildren(el("option", { value: "" }, t("another run")), ...rest.map((name) => el("option", {}, name)));
  });
  select.addEventListener("change", () => {
    if (select.value && runs.size >= MAX_RUNS) showProblem(new Error(t("At most {n} runs can be compared.", { n: MAX_RUNS })));
    else if (select.value) runs.set(select.value, new RunCurves(select.value));
    select.value = "";
    ask().catch(() => {});
  });

  poll(ask, 2);
  return {
    /** Marks the next milestones in the panels that they belong to. */
    milestones(found) {
      if (JSON.stringify(found) === JSON.stringify(view.milestones)) return;
      view.milestones = found;
      redrawSoon();
    },
  };
}

function smallest(values) {
  return values.reduce((low, value) => Math.min(low, value), Infinity);
}
