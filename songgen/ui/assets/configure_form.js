// The configuration form: fields, the JSON beside them, and what the server says follows from both.

import { formatCount, request, showProblem, t } from "./page.js";

const WAIT = 250;
const REFUSED = 422;  // status of an answer that something sent is not right

/** What is edited, here only: nothing is kept by the server until it is saved. */
export const config = {
  values: {}, name: "", processes: 1, clips: null, stepsPerEpoch: null, unused: new Set(), reasons: {}, isChanged: false,
  isQuiet: true,  // nothing was entered yet: what is missing is no error to point at
  isBroken: false,  // the JSON that is shown could not be read, and is in no value
};

const fields = new Map();
for (const element of document.querySelectorAll("[data-field]")) {
  fields.set(element.dataset.field, {
    element, input: element.querySelector("[name]"), isCommon: "common" in element.dataset,
    words: element.textContent.toLowerCase(),
    part: (name) => element.querySelector(`[data-${name}]`),
  });
}
const byId = (id) => document.getElementById(id);
const json = byId("json");
const listeners = [];
let last = { texts: {}, shown: [], given: [], problems: {}, inherited: {}, units: {}, commands: [] };
let typed = {};
let extra = null;
let timer = null;
let sending = null;  // promise of what is being sent
let generation = 0;  // of loaded configurations: an answer about an earlier one comes too late

/** Calls a function after each answer of the server, with it. */
export function onState(listener) { listeners.push(listener); }

/** Returns the field of a key, or undefined. */
export function fieldOf(name) { return fields.get(name); }

function textOf(input) {
  if (input.type === "checkbox") return String(input.checked);
  if (input.multiple) return [...input.selectedOptions].map((option) => option.value).join("\n");
  return input.value;
}

function fill(input, text) {
  if (input.type === "checkbox") input.checked = text === "true";
  else if (input.multiple) {
    const chosen = text.split("\n");
    for (const option of input.options) option.selected = chosen.includes(option.value);
  } else if (input.tagName === "SELECT" && ![...input.options].some((option) => option.value === text)) {
    const option = new Option(text, text);  // a value that is not one of the choices is shown, with its problem
    input.add(option);
    input.value = text;
  } else if (input.value !== text) input.value = text;
}

/** Sends what has changed; `change` may have `values`, `json`, `typed`, `changes` or `adapter`. */
export function send(change = {}) {
  clearTimeout(timer);
  extra = { ...extra, ...change };
  return flush();
}

/** Returns whether something that was entered is not in `config.values`, because the server could not be asked. */
export function hasUnsent() { return extra !== null || Object.keys(typed).length > 0; }

/** Sends what was entered a moment ago; then `config.values` has all of it, unless it could not be sent. */
export function flush() {
  clearTimeout(timer);
  sending ??= sendAll();
  return sending;
}

async function sendAll() {
  await null;  // so that `sending` is set before it can be over
  try {
    while (hasUnsent()) {
      const [sentTyped, sentExtra, about] = [typed, extra, generation];
      const sent = { typed: sentTyped, ...sentExtra };
      typed = {};
      extra = null;
      const body = {
        name: config.name, processes: config.processes, clips: config.clips, steps_per_epoch: config.stepsPerEpoch,
        ...("json" in sent ? {} : { values: config.values }), ...sent,
      };
      let answer;
      try {
        answer = await request("/api/configure/state", body);
      } catch (error) {
        if (about !== generation) continue;
        const isOver = !hasUnsent();  // nothing was entered meanwhile
        const isRefused = error.status === REFUSED;
        // Kept until it is sent again, with what is entered later; what the server refuses is refused each time, and
        // only a text that was typed can be corrected.
        typed = { ...sentTyped, ...typed };
        if (!isRefused || "json" in sent) extra = { ...sentExtra, ...extra };
        config.isChanged = true;
        byId("save-state").textContent = t("Not saved");
        if (!("json" in sent && isRefused)) throw error;
        config.isBroken = true;
        tellJson(error.message);
        if (isOver) break;
        continue;
      }
      if (about !== generation) continue;
      config.isBroken = false;
      tellJson("");
      apply(answer);
    }
  } catch (error) {
    showProblem(error);
  } finally {
    sending = null;
  }
}

/** Sets a text if it is another one: a field with the role `alert` is read aloud whenever it is set. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tellJson(message) {
  setText(byId("json-problem"), message);
  byId("json-problem").hidden = !message;
  json.classList.toggle("invalid", Boolean(message));
  json.setAttribute("aria-invalid", String(Boolean(message)));
}

function apply(answer) {
  if (JSON.stringify(answer.values) !== JSON.stringify(config.values)) config.isChanged = true;
  if (config.isQuiet) answer.problems = {};
  last = answer;
  config.values = answer.values;
  for (const [name, { element, input }] of fields) {
    const isBroken = name in answer.problems && LOOKS_LIKE_JSON.test(input.value);
    if (!isBeingTyped(name, input) && !isBroken) fill(input, answer.texts[name]);
    element.classList.toggle("given", answer.given.includes(name));
    showDetails(name);
  }
  if (document.activeElement !== json) json.value = answer.json;
  byId("commands").textContent = answer.commands.join("\n");
  const unplaced = answer.problems[""] ?? [];
  if (unplaced.length) tellJson(unplaced.join("\n"));
  byId("save-state").textContent = config.isChanged ? t("Not saved") : "";
  showChosen();
  for (const listener of listeners) listener(answer);
}

/** What could not be read as JSON is in no value; it stays in its field until it is put right. */
const LOOKS_LIKE_JSON = /^\s*[[{"]/;

function isBeingTyped(name, input) {
  const hasText = input.type !== "checkbox" && input.tagName !== "SELECT";
  return name in typed || (hasText && document.activeElement === input);
}

function showDetails(name) {
  const { input, part } = fields.get(name);
  const id = input.id;
  const problems = last.problems[name] ?? [];
  const problem = byId(`${id}-problem`);
  setText(problem, problems.join("\n"));
  problem.hidden = !problems.length;
  input.classList.toggle("invalid", problems.length > 0);
  input.setAttribute("aria-invalid", String(problems.length > 0));
  const isInherited = name in last.inherited;
  const standard = isInherited ? last.inherited[name] : defaultOf(name);
  part("default").textContent = isInherited ? t("From the base: {value}", { value: standard })
    : standard === "" && "required" in input.dataset ? t("Required") : t("Default: {value}", { value: standard || "null" });
  part("reset").hidden = !last.given.includes(name);
  const length = last.units.keys?.[name];
  byId(`${id}-unit`).hidden = !length;
  if (length) {
    const values = { steps: formatCount(length.steps), epochs: Number(length.epochs.toPrecision(3)) };
    byId(`${id}-unit`).textContent = t("= {steps} steps = {epochs} epochs", values);
  }
  const reason = config.reasons[name];
  part("reason").hidden = !reason;
  part("reason").textContent = reason ?? "";
}

const defaults = JSON.parse(byId("defaults").textContent);
function defaultOf(name) { return defaults[name]; }

/** Shows the fields that mean something, were asked for, and have the word that is searched. */
export function showChosen() {
  const view = byId("view").value;
  const word = byId("search").value.trim().toLowerCase();
  const shown = new Set(last.shown.filter((name) => !config.unused.has(name)));
  const given = new Set(last.given);
  let count = 0;
  for (const [name, { element, isCommon, words }] of fields) {
    const isProblem = name in last.problems;
    const isWanted = word ? words.includes(word) : view === "all" || given.has(name) || isProblem || (view === "common" && isCommon);
    element.hidden = !(isWanted && (shown.has(name) || isProblem));
    count += element.hidden ? 0 : 1;
  }
  for (const section of document.querySelectorAll("[data-section]")) {
    section.hidden = !section.querySelector("[data-field]:not([hidden])");
  }
  byId("nothing-found").hidden = count > 0;
  const unseen = meaninglessKeys(shown);
  byId("hidden-keys").hidden = !unseen.length;
  byId("hidden-names").textContent = t("Set, but without meaning with these choices, and kept in the file: {names}", { names: unseen.join(", ") });
}

/** Returns the keys that are set and mean nothing with the other choices. */
function meaninglessKeys(shown) { return last.given.filter((name) => !shown.has(name)); }

/** Shows a field, whatever is shown otherwise, and moves there. */
export function reveal(name) {
  const field = fields.get(name);
  if (!field) return;
  field.element.hidden = false;
  field.element.closest("[data-section]").hidden = false;
  field.input.scrollIntoView({ block: "center" });
  field.input.focus({ preventScroll: true });
}

/** Fills the form with another configuration; `isQuiet` if it is only a beginning. */
export function load(start, isQuiet = false) {
  generation += 1;
  typed = {};
  extra = null;
  config.reasons = start.reasons ?? {};
  config.clips = null;
  config.stepsPerEpoch = null;
  config.unused = new Set();
  config.name = byId("config-name").value = start.name ?? "";
  byId("notice").textContent = start.notice ?? "";
  byId("notice").hidden = !start.notice;
  if (document.activeElement === json) json.blur();
  config.values = start.values;
  config.isChanged = false;
  config.isQuiet = isQuiet;
  for (const { input } of fields.values()) input.blur();
  return send({ values: start.values }).then(() => {
    config.isChanged = !start.is_saved && Object.keys(start.values).length > 0;
    byId("save-state").textContent = config.isChanged ? t("Not saved") : "";
  });
}

function later(wait = WAIT) {
  clearTimeout(timer);
  timer = setTimeout(flush, wait);
}

function take(event) {
  const field = fields.get(event.target.name);
  if (!field || event.target !== field.input) return;
  typed[event.target.name] = textOf(event.target);
  config.isQuiet = false;
  delete config.reasons[event.target.name];
  later();
}
byId("remove-hidden").onclick = () => {
  const names = meaninglessKeys(new Set(last.shown.filter((name) => !config.unused.has(name))));
  send({ typed: Object.fromEntries(names.map((name) => [name, ""])) });
};
byId("form").addEventListener("input", take);
byId("form").addEventListener("change", (event) => { if (event.target.tagName === "SELECT") take(event); });
byId("form").addEventListener("click", (event) => {
  const button = event.target.closest("[data-reset]");
  if (!button) return;
  const name = button.closest("[data-field]").dataset.field;
  delete config.reasons[name];
  fields.get(name).input.focus();
  fill(fields.get(name).input, last.inherited[name] ?? defaultOf(name));
  send({ typed: { [name]: name === "lora" ? "false" : "" } });
});
// Lists of what exists: an entry is added to the field, or replaces what is in it.
byId("form").addEventListener("change", (event) => {
  const select = event.target.closest("[data-add], [data-fill]");
  if (select?.value) {
    const { add, fill: replaced } = select.dataset;
    const input = byId(add ?? replaced);
    input.value = add ? [...input.value.split("\n").filter(Boolean), select.value].join("\n") : select.value;
    select.value = "";
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
});
json.addEventListener("input", () => {
  if (!config.isBroken) typed = {};  // the text is what counts; but what was typed next to a broken one is in no text
  config.isQuiet = false;
  extra = { ...extra, json: json.value };
  later(WAIT * 2);
});
byId("adapter-preset").addEventListener("change", (event) => {
  if (event.target.value) send({ adapter: event.target.value });
  event.target.value = "";
});
byId("processes").addEventListener("input", (event) => {
  const count = Number(event.target.value);
  const isRight = Number.isInteger(count) && count > 0 && count <= 4096;
  event.target.classList.toggle("invalid", !isRight);
  if (isRight) { config.processes = count; extra = { ...extra }; later(); }
});
byId("search").addEventListener("input", showChosen);
byId("view").addEventListener("change", showChosen);
addEventListener("beforeunload", (event) => { if (config.isChanged) event.preventDefault(); });
