// What a configuration needs, and what the checks say of it.

import { act, el, formatBytes, formatCount, formatDuration, formatNumber, request, t } from "./page.js";
import { config, fieldOf, flush, hasUnsent, onState, reveal, send } from "./configure_form.js";

const byId = (id) => document.getElementById(id);
const WAIT = 900;
const ignored = new Set();
let findings = [];
let isOfForm = false;  // whether the findings are what the form itself knows, without a check
let timer = null;
let asked = 0;
let latest = null;
let checked = "";  // what the last check was about; an answer with its own numbers needs no other check

/** Checks the configuration; `isAutomatic` leaves out what would need the network. */
export async function check(isAutomatic) {
  const number = ++asked;
  checked = contentNow();
  byId("check-state").textContent = t("Checking…");
  const body = { name: config.name, values: config.values, processes: config.processes, automatic: isAutomatic };
  try {
    const answer = await request("/api/configure/check", body);
    if (number !== asked) return;  // something has changed meanwhile
    if (answer.skipped) {
      byId("check-state").textContent = t("Press Check to check a model that is not a folder here.");
      return;
    }
    take(answer);
  } catch (error) {
    if (number !== asked) return;
    checked = "";
    byId("check-state").textContent = error.message;
  }
}

function take(answer) {
  latest = answer;
  findings = answer.findings;
  isOfForm = false;
  const isNew = answer.clips !== undefined && (answer.clips !== config.clips || answer.steps_per_epoch !== config.stepsPerEpoch);
  config.clips = answer.clips ?? config.clips;
  config.stepsPerEpoch = answer.steps_per_epoch ?? config.stepsPerEpoch;
  const unused = new Set(answer.unused_keys ?? config.unused);
  const isOther = [...unused].join() !== [...config.unused].join();
  config.unused = unused;
  showFindings();
  showSummary();
  if (isNew || isOther) send();
}

/** Returns what a check is about, as a text. */
function contentNow() { return JSON.stringify([config.values, config.processes]); }

let units = {};

function showSummary() {
  const rows = [];
  const add = (name, value) => rows.push(el("dt", {}, name), el("dd", {}, value));
  const { clips, held_out: heldOut, memory, seconds, disk, machine } = latest ?? {};
  if (clips) add(t("Clips"), heldOut ? t("{n} to train on, {held} held out", { n: clips, held: heldOut }) : String(clips));
  if (units.total_steps) {
    if (units.clips_per_step) add(t("Clips in a step"), clipsInStep());
    add(t("Steps of an epoch"), formatCount(units.steps_per_epoch));
    add(t("Length"), t("{epochs} epochs = {steps} steps", { epochs: formatNumber(units.epochs), steps: formatCount(units.total_steps) }));
  }
  if (seconds) add(t("Time"), t("about {time}, within a factor of 2", { time: formatDuration(seconds) }));
  if (disk) add(t("Disk"), t("up to {size} of {free} free", { size: formatBytes(disk.total), free: formatBytes(disk.free) }));
  if (machine) add(t("Machine"), machine);
  byId("summary").replaceChildren(...rows);
  byId("summary-empty").hidden = rows.length > 0;
  byId("memory").hidden = !memory;
  if (memory) showMemory(memory);
}

function clipsInStep() {
  const text = (name) => fieldOf(name).input.value || "1";
  return `${text("per_device_train_batch_size")} × ${text("gradient_accumulation_steps")} × ${config.processes} = ${units.clips_per_step}`;
}

function showMemory(memory) {
  const parts = memory.parts.filter((part) => part.counted).sort((one, other) => other.bytes - one.bytes);
  const whole = Math.max(memory.total, memory.free);
  byId("memory-total").textContent = t("{size} of {free} free", { size: formatBytes(memory.total), free: formatBytes(memory.free) });
  byId("memory-bar").classList.toggle("over", memory.total > memory.free);
  byId("memory-bar").setAttribute("aria-label", byId("memory-total").textContent);
  byId("memory-bar").replaceChildren(...parts.map((part, index) => {
    const piece = el("span", { title: `${part.name}: ${formatBytes(part.bytes)}` });
    piece.style.width = `${(100 * part.bytes) / whole}%`;
    piece.style.background = colorOf(index);
    return piece;
  }));
  byId("memory-parts").replaceChildren(...parts.map((part, index) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = colorOf(index);
    return el("li", { class: "row" }, swatch, el("span", { class: "grow" }, part.name), formatBytes(part.bytes));
  }));
}

function colorOf(index) { return `hsl(${(225 + index * 47) % 360} 55% ${50 + (index % 3) * 8}%)`; }

const NAMES = { error: () => t("Error"), warning: () => t("Warning"), note: () => t("Note") };

function keyOf(finding) { return `${finding.key}\n${finding.message}`; }

function showFindings() {
  for (const box of document.querySelectorAll("[data-suggestions]")) { box.hidden = true; box.replaceChildren(); }
  const shown = findings.filter((finding) => !ignored.has(keyOf(finding)));
  byId("findings").replaceChildren(...shown.map((finding) => el("li", { class: `finding ${finding.severity}` }, ...contentOf(finding, true))));
  for (const finding of shown) {
    const box = fieldOf(finding.key)?.part("suggestions");
    if (box && Object.keys(finding.suggestion).length) {
      box.append(el("div", { class: `finding ${finding.severity}` }, ...contentOf(finding, false)));
      box.hidden = false;
    }
  }
  const count = (severity) => shown.filter((finding) => finding.severity === severity).length;
  byId("check-state").textContent = shown.length
    ? t("Errors: {errors} · warnings: {warnings} · notes: {notes}", { errors: count("error"), warnings: count("warning"), notes: count("note") })
    : t("Checked: nothing to change.");
  byId("apply-all").hidden = !Object.keys(allSuggestions(shown)).length;
  const left = findings.length - shown.length;
  byId("show-ignored").hidden = !left;
  byId("show-ignored").textContent = t("Show {n} ignored", { n: left });
}

function contentOf(finding, isInList) {
  const field = fieldOf(finding.key);
  const changes = Object.entries(finding.suggestion);
  const buttons = [
    changes.length ? el("button", { type: "button", onclick: () => applySuggestion(finding.suggestion) }, t("Apply")) : null,
    field && isInList ? el("button", { type: "button", onclick: () => reveal(finding.key) }, t("Show the field")) : null,
    el("button", { type: "button", onclick: () => { ignored.add(keyOf(finding)); showFindings(); } }, t("Ignore")),
  ];
  return [
    el("p", {}, el("strong", {}, `${NAMES[finding.severity]()} `), isInList && finding.key ? el("code", {}, `${finding.key} `) : null, finding.message),
    changes.length ? el("pre", {}, changes.map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join("\n")) : null,
    el("div", { class: "row" }, ...buttons),
  ];
}

function applySuggestion(changes) {
  document.activeElement?.blur();
  return send({ changes });
}

/** Returns what errors and warnings suggest; where two name a key, the worse one's value, which is first. */
function allSuggestions(shown) {
  const values = {};
  for (const finding of shown.filter((each) => each.severity !== "note")) {
    for (const [name, value] of Object.entries(finding.suggestion)) values[name] ??= value;
  }
  return values;
}

byId("apply-all").onclick = () => applySuggestion(allSuggestions(findings.filter((finding) => !ignored.has(keyOf(finding)))));
byId("show-ignored").onclick = () => { ignored.clear(); showFindings(); };
byId("validate").onclick = (event) => act(event.target, async () => {
  config.isQuiet = false;
  await flush();
  if (config.isBroken || hasUnsent()) return;  // its problem is shown already
  await send();
  clearTimeout(timer);
  await check(false);
  byId("findings").closest("section").scrollIntoView({ block: "nearest" });
});

async function showAdapterMemory() {
  const select = byId("adapter-preset");
  if (select.dataset.for === JSON.stringify(config.values)) return;
  select.dataset.for = JSON.stringify(config.values);
  const { adapters } = await request("/api/configure/adapters", { name: config.name, values: config.values, processes: config.processes });
  for (const option of select.options) {
    if (adapters[option.value]) option.textContent = `${option.value} · ${formatBytes(adapters[option.value])}`;
  }
}
byId("adapter-preset").addEventListener("focus", () => showAdapterMemory().catch(() => {}));

onState((answer) => {
  units = answer.units;
  showSummary();
  if (contentNow() === checked) return;
  checked = "";
  clearTimeout(timer);
  asked += 1;
  const isWrong = Object.keys(answer.problems).length > 0;
  if (isWrong || isOfForm) {
    findings = Object.entries(answer.problems).flatMap(([key, messages]) => messages.map(
      (message) => ({ severity: "error", key, message, suggestion: {} }),
    ));
    isOfForm = isWrong;
    showFindings();
  }
  const isReady = answer.values.model_name_or_path || answer.values.base;
  if (isReady && !isWrong) {
    byId("check-state").textContent = t("Checking…");
    timer = setTimeout(() => check(true), WAIT);
  }
});
