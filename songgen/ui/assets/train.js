// Train: the list of runs, kept up to date, and the form that starts one.

import { act, badge, el, formatBytes, formatCount, formatDuration, formatNumber, formatTime, poll, request, t } from "./page.js";
import { connectForm, valuesOf } from "./forms.js";

const byId = (id) => document.getElementById(id);
const address = (folder) => `/train/run/${encodeURIComponent(folder)}`;

const MAX_RUNS = 8; // as many as the curves have colours

// The list of runs.
const ticked = new Set();
let shownRuns = "";

function showRuns({ runs, more }) {
  const text = JSON.stringify([runs, more]);
  if (text === shownRuns) return; // else what has the focus would lose it every few seconds
  shownRuns = text;
  const focused = ["tick", "run"].map((name) => [name, document.activeElement?.dataset?.[name]]).find(([, folder]) => folder);
  byId("more-runs").hidden = !more;
  byId("more-runs").textContent = t("{n} more runs, which changed earlier, are not shown.", { n: more });
  byId("runs").hidden = runs.length === 0;
  byId("no-runs").hidden = runs.length > 0;
  for (const folder of ticked) if (!runs.some((run) => run.folder === folder)) ticked.delete(folder);
  byId("run-rows").replaceChildren(...runs.map((run) => {
    const tick = el("input", { type: "checkbox", "aria-label": t("Compare {run}", { run: run.folder }), "data-tick": run.folder });
    tick.checked = ticked.has(run.folder);
    tick.onchange = () => { ticked[tick.checked ? "add" : "delete"](run.folder); showCompare(); };
    const step = run.step === null ? "–" : `${formatCount(run.step)}${run.total_steps ? ` / ${formatCount(run.total_steps)}` : ""}`;
    return el("tr", {},
      el("td", { class: "name" }, el("span", { class: "row" }, tick, el("a", { class: "grow", href: address(run.folder), "data-run": run.folder }, run.folder))),
      el("td", { "data-label": t("State") }, badge(run.state)),
      el("td", { "data-label": t("Step") }, step),
      el("td", { "data-label": t("Loss"), class: run.loss === null ? "blank" : "" }, formatNumber(run.loss)),
      el("td", { "data-label": t("Time left"), class: run.seconds_left === null ? "blank" : "" }, run.seconds_left === null ? "–" : formatDuration(run.seconds_left)),
      el("td", { "data-label": t("Last change") }, run.changed ? formatTime(run.changed) : "–"));
  }));
  if (focused) document.querySelector(`[data-${focused[0]}="${CSS.escape(focused[1])}"]`)?.focus();
  showCompare();
}

function showCompare() {
  byId("compare-row").hidden = byId("run-rows").rows.length < 2;
  byId("compare").disabled = ticked.size < 2 || ticked.size > MAX_RUNS;
  byId("compare-help").textContent = ticked.size > MAX_RUNS ? t("At most {n} runs can be compared.", { n: MAX_RUNS }) : t("Select at least two runs.");
  byId("compare-help").hidden = ticked.size >= 2 && ticked.size <= MAX_RUNS;
}

byId("compare").onclick = () => {
  const [first, ...others] = ticked;
  location.href = `${address(first)}?${others.map((other) => `with=${encodeURIComponent(other)}`).join("&")}#curves-title`;
};
showRuns(JSON.parse(byId("first-runs").textContent));
poll(async () => showRuns(await request("/api/train/runs")), 3);

// The form.
const form = byId("start");
const config = byId("field-config");
let plan = null;
let asked = 0;
let checks = 0;

byId("config-choice").onchange = (event) => {
  if (event.target.value) config.value = event.target.value;
  config.dispatchEvent(new Event("input", { bubbles: true }));
};

const held = () => form.querySelector("[name=held]:checked").value;

/** Returns the options of the command: what the form has, and the keys that its choices stand for. */
function options(values) {
  const keys = {};
  const folder = byId("output-dir").value.trim();
  if (folder) keys.output_dir = folder;
  if (plan?.holds === "run" && held() === "backup") keys.overwrite_output_dir = true;
  if (plan?.holds === "run" && held() === "other") keys.output_dir = plan.suggested;
  if (plan?.holds === "run" && held() === "resume" && plan.state !== "running") keys.resume = "auto";
  return Object.keys(keys).length ? { ...values, keys } : values;
}

async function askPlan() {
  const number = ++asked;
  if (!config.value.trim()) {
    showPlan(null, "");
    return;
  }
  const folder = byId("output-dir").value.trim();
  const { num_processes: processes, config_file: launch } = valuesOf(form);
  const values = { config: config.value.trim(), num_processes: processes ?? null, config_file: launch ?? null, ...(folder ? { keys: { output_dir: folder } } : {}) };
  try {
    const found = await request("/api/train/plan", { values });
    if (number === asked) showPlan(found, "");
  } catch (error) {
    if (number === asked) showPlan(null, error.message);
  }
}

function showPlan(found, problem) {
  plan = found;
  showBatch(found?.batch);
  const box = byId("plan");
  box.hidden = !found && !problem;
  box.className = problem || found?.holds === "other" ? "notice bad" : found?.state === "running" ? "notice warn" : "notice";
  byId("held").hidden = found?.holds !== "run" || found.state === "running";
  if (problem) box.textContent = problem;
  if (!found) return;
  byId("other-folder").textContent = t("Use another folder: {folder}", { folder: found.suggested });
  const parts = [t("The run is written to {folder}.", { folder: found.output_dir })];
  if (found.holds === "other") parts.push(t("It holds files that no run wrote; choose another output folder."));
  if (found.holds === "run") {
    parts.push(found.state === "running" ? t("A run trains there now; choose another output folder.")
      : t("It holds a run ({state}): step {step}, {n} checkpoints.", { state: t(found.state), step: found.step ?? "?", n: found.checkpoints }));
  }
  box.textContent = parts.join(" ");
}

/** Says how many clips change the weights together, and how to keep their number with more processes. */
function showBatch(batch) {
  byId("batch").hidden = !batch;
  if (!batch) return;
  const { size, processes, accumulation, clips } = batch;
  const parts = [t("A step has {size} (clips) × {processes} (processes) × {accumulation} (gradient_accumulation_steps) = {clips} clips.", { size, processes, accumulation, clips })];
  if (processes > 1) parts.push(t("With one process it has {n}. To keep that number, divide gradient_accumulation_steps or per_device_train_batch_size by {processes}.", { n: size * accumulation, processes }));
  byId("batch").textContent = parts.join(" ");
}

let timer = null;
const askSoon = () => {
  byId("check-result").replaceChildren(); // it is of other values
  checks += 1;
  clearTimeout(timer);
  timer = setTimeout(() => askPlan().then(showPreview), 400);
};
form.addEventListener("input", askSoon);
form.addEventListener("change", askSoon); // lists may send this event only

const showPreview = connectForm(form, {
  change: async (values, isStart) => {
    if (isStart) await askPlan();
    if (isStart && plan?.state === "running" && plan.holds === "run") throw new Error(byId("plan").textContent);
    return options(values);
  },
  subject: (values) => values.keys?.output_dir ?? plan?.output_dir ?? "",
  onStart: (job) => { location.href = job.subject ? address(job.subject) : `/jobs/${encodeURIComponent(job.id)}`; },
});
if (config.value) askPlan().then(showPreview);

byId("check").onclick = (event) => act(event.currentTarget, async () => {
  const box = byId("check-result");
  const number = ++checks;
  box.replaceChildren(el("p", { class: "soft" }, t("Checking; this takes a few seconds…")));
  let lines;
  try {
    lines = checkLines(await request("/api/train/check", { values: options(valuesOf(form)) }));
  } catch (error) {
    lines = [el("p", { class: "notice bad" }, error.message)];
  }
  if (number === checks) box.replaceChildren(...lines); // else the form has changed meanwhile
});

function checkLines(report) {
  const lines = [report.machine.description];
  if (report.total_steps !== null) {
    lines.push(t("{clips} clips, {epochs} epochs, {steps} steps", { clips: report.clips === null || report.clips === undefined ? "?" : formatCount(report.clips), epochs: formatNumber(report.epochs), steps: formatCount(report.total_steps) }));
  }
  if (report.memory !== null) lines.push(t("Memory: about {size} of {free} free", { size: formatBytes(report.memory.total), free: formatBytes(report.memory.free) }));
  if (report.seconds !== null) lines.push(t("Time: about {time}", { time: formatDuration(report.seconds) }));
  if (report.disk !== null) lines.push(t("Disk: up to {size} of {free} free", { size: formatBytes(report.disk.total), free: formatBytes(report.disk.free) }));
  const devices = report.machine.devices;
  const notices = [];
  if (devices && report.processes > devices) {
    notices.push(el("p", { class: "notice bad" }, t("{n} processes, but this machine has {m} GPUs: give at most one process for each.", { n: report.processes, m: devices })));
  }
  for (const finding of report.findings) {
    const kind = finding.severity === "error" ? "bad" : finding.severity === "warning" ? "warn" : "";
    notices.push(el("p", { class: `notice ${kind}` }, el("code", {}, finding.key), ` ${finding.message}`));
  }
  if (!notices.length) notices.push(el("p", { class: "notice good" }, t("Nothing to change.")));
  return [el("ul", {}, ...lines.map((line) => el("li", {}, line))), ...notices].map((part) => el("div", {}, part));
}
