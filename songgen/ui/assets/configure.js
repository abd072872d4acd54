// The page Configure: where a configuration starts from, the saved ones, saving.

import { act, el, formatBytes, formatNumber, formatTime, request, showProblem, t } from "./page.js";
import { config, flush, hasUnsent, load, onState, send } from "./configure_form.js";
import "./configure_plan.js";
import "./forms.js";

const byId = (id) => document.getElementById(id);

async function open(body) {
  if (config.isChanged && !confirm(t("The form has changes that are not saved. Replace them?"))) return;
  const start = await request("/api/configure/open", { processes: config.processes, ...body });
  await load(start, body.kind === "empty");
  showTrainLink("");
  byId("form").scrollIntoView({ block: "start" });
}

function numberOf(id) {
  const text = byId(id).value.trim();
  if (text === "") return null;
  if (Number.isFinite(Number(text))) return Number(text);
  const problem = new Error(t("Give a number, such as 1.5"));
  problem.values = { field: id };
  throw problem;
}

const foldersOf = (id) => byId(id).value.split(",").map((text) => text.trim()).filter(Boolean);

const starts = {
  advice: () => ({ kind: "advice", data: foldersOf("start-data"), model: byId("start-model").value.trim(), goal: byId("start-goal").value, hours: numberOf("start-hours") }),
  run: () => ({ kind: "run", path: byId("start-run").value.trim(), more_epochs: numberOf("start-more") }),
  data: () => ({ kind: "data", path: byId("start-settings").value.trim(), more_epochs: numberOf("start-data-more") }),
};
for (const [kind, body] of Object.entries(starts)) {
  const form = document.querySelector(`[data-start="${kind}"] form`);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const state = kind === "advice" ? byId("advice-state") : null;
    act(form.querySelector("[type=submit]"), async () => {
      if (state) state.textContent = t("Looking at data, model and machine…");
      try {
        await open(body());
      } catch (error) {
        byId(error.values?.field)?.focus();
        throw error;
      } finally {
        if (state) state.textContent = "";
      }
    });
  });
}
byId("open-file").addEventListener("submit", (event) => {
  event.preventDefault();
  act(event.submitter, () => open({ kind: "saved", path: byId("start-file").value.trim() }));
});
byId("start-empty").onclick = (event) => act(event.target, () => open({ kind: "empty" }));

let askedPresets = 0;

async function showPresets() {
  const number = ++askedPresets;
  const [data = ""] = foldersOf("start-data");
  const body = { data, model: byId("start-model").value.trim(), processes: config.processes };
  const state = byId("presets-state");
  state.textContent = t("Estimating the memory…");
  let found;
  try {
    found = await request("/api/configure/presets", body);
  } catch (error) {
    if (number === askedPresets) state.textContent = error.message;
    return;
  }
  if (number !== askedPresets) return; // another model or data set was chosen meanwhile
  const { presets, free } = found;
  state.textContent = free === null ? t("Choose a data set and a model above, both as folders: then the memory is estimated.") : "";
  byId("presets").tBodies[0].replaceChildren(...presets.map((preset) => el("tr", {},
    el("td", {}, el("div", {}, preset.name), el("small", {}, preset.summary)),
    el("td", {}, preset.memory === null ? el("small", {}, preset.problem || "–") : formatBytes(preset.memory), free !== null && preset.memory > free ? el("span", { class: "badge bad" }, t("too much")) : null),
    el("td", {}, el("button", { type: "button", onclick: (event) => act(event.target, () => open({ kind: "preset", preset: preset.name, data, model: body.model })) }, t("Use it"))),
  )));
}
const presetPart = document.querySelector('[data-start="preset"]');
presetPart.addEventListener("toggle", () => { if (presetPart.open) showPresets(); });
for (const id of ["start-data", "start-model"]) {
  byId(id).addEventListener("change", () => { if (presetPart.open) showPresets(); });
}

// The last state of the run that is chosen, or of the newest run on the data set that is chosen.
function lastText(run) {
  if (!run) return t("No run was trained on it yet.");
  const loss = run.checkpoint?.loss ?? run.loss;
  const values = { folder: run.folder, state: t(run.state), step: run.checkpoint?.step ?? 0, total: run.total_steps ?? "–", loss: formatNumber(loss) };
  return run.checkpoint
    ? t("{folder}, {state}; its last checkpoint: step {step} of {total}, loss {loss}", values)
    : t("{folder}, {state}; it has no checkpoint to continue from", values);
}

async function showLast(input) {
  const place = input.closest("form").querySelector("[data-state]");
  const folder = input.value.trim();
  let text = "";
  try {
    if (folder) text = lastText((await request("/api/configure/last", { [input.dataset.last]: folder })).run);
  } catch (error) {
    text = error.message;
  }
  if (input.value.trim() === folder) place.textContent = text;
}
for (const input of document.querySelectorAll("[data-last]")) input.addEventListener("change", () => showLast(input));

// Where a run can resume from: the two words, and the checkpoints in its folder.
let folderOfStates = null;

async function showStates(folder) {
  folderOfStates = folder;
  const { states } = folder ? await request("/api/configure/states", { folder }) : { states: [] };
  if (folder !== folderOfStates) return;
  const select = document.querySelector("[data-fill]");
  select.replaceChildren(
    select.options[0],
    el("option", { value: "auto" }, t("the last checkpoint, if there is one")),
    el("option", { value: "never" }, t("from the beginning")),
    ...states.map((state) => el("option", { value: state.folder }, t("{name}: step {step}, loss {loss}", { name: state.name, step: state.step, loss: formatNumber(state.loss) }))),
  );
}
onState(({ values }) => {
  const folder = typeof values.output_dir === "string" ? values.output_dir : "";
  if (folder !== folderOfStates) showStates(folder).catch(() => {}); // such as a folder outside, which the form says
});

async function showSaved() {
  const { saved } = await request("/api/configure/saved");
  byId("saved-count").textContent = saved.length;
  byId("saved").hidden = !saved.length;
  byId("saved-empty").hidden = saved.length > 0;
  byId("saved").tBodies[0].replaceChildren(...saved.map((entry) => el("tr", {},
    el("td", {}, entry.name),
    el("td", {}, formatTime(entry.changed)),
    el("td", {}, textOf(entry.save_to_disk)),
    el("td", {}, el("div", { class: "row" },
      el("button", { type: "button", onclick: (event) => act(event.target, () => open({ kind: "saved", path: entry.file })) }, t("Open")),
      el("a", { class: "button", href: trainAddress(entry.file) }, t("Train with it")),
      el("button", { type: "button", class: "bad", onclick: (event) => act(event.target, () => remove(entry.name)) }, t("Delete")),
    )),
  )));
}

function textOf(value) { return typeof value === "string" ? value : value ? JSON.stringify(value) : "–"; }

async function remove(name) {
  if (!confirm(t("Move {name} to the trash folder?", { name }))) return;
  const { moved_to: place } = await request("/api/configure/delete", { name });
  byId("save-state").textContent = t("Moved to {place}", { place });
  await showSaved();
}

function trainAddress(file) {
  const processes = config.processes > 1 ? `&num_processes=${config.processes}` : "";
  return `/train?config=${encodeURIComponent(file)}${processes}`;
}

function showTrainLink(file) {
  byId("train-link").hidden = !file;
  if (file) byId("train-link").href = trainAddress(file);
}

async function save(overwrite) {
  const name = byId("config-name").value.trim();
  if (!name) {
    byId("config-name").focus();
    throw new Error(t("Give the configuration a name."));
  }
  await flush();
  if (config.isBroken) {
    byId("json-details").open = true;
    byId("json").focus();
    throw new Error(t("The file that is written is not valid JSON. Correct it first."));
  }
  if (hasUnsent()) throw new Error(t("Nothing was saved: the server did not read what was entered last. Press Save again."));
  const { exists, file } = await request("/api/configure/save", { name, values: config.values, overwrite });
  if (exists) {
    if (confirm(t("{name} exists. Replace it?", { name }))) await save(true);
    return;
  }
  config.isChanged = false;
  byId("save-state").textContent = t("Saved: {file}", { file });
  showTrainLink(file);
  await showSaved();
}
byId("save").onclick = (event) => act(event.target, () => save(false));
byId("config-name").addEventListener("input", (event) => {
  config.name = event.target.value.trim();
  send();
});

async function showPlaces() {
  byId("places-note").textContent = t("Looking for data sets, models and runs…");
  let places;
  try {
    places = await request("/api/configure/places", undefined, { seconds: 600 });
  } catch (error) {
    byId("places-note").textContent = error.message;
    return;
  }
  const fill = (id, entries) => byId(id).replaceChildren(...entries.map((entry) => el("option", { value: entry.folder })));
  fill("list-tokens", places.tokens);
  fill("list-models", [...places.model, ...places.run.filter((run) => run.state === "finished")]);
  fill("list-runs", places.run);
  const select = document.querySelector("[data-add]");
  select.replaceChildren(select.options[0], ...places.tokens.map((entry) => el("option", { value: entry.folder }, entry.folder)));
  byId("places-note").textContent = t("Data sets: {tokens} · models: {models} · runs: {runs}", { tokens: places.tokens.length, models: places.model.length, runs: places.run.length });
  if (!byId("start-data").value && places.tokens.length) byId("start-data").value = places.tokens[0].folder;
}
byId("refresh-places").onclick = (event) => act(event.target, showPlaces);

async function begin() {
  const query = new URLSearchParams(location.search);
  const values = {};
  if (query.get("model")) values.model_name_or_path = byId("start-model").value = query.get("model");
  if (query.get("data")) {
    values.save_to_disk = query.get("data");
    byId("start-data").value = byId("start-settings").value = query.get("data");
  }
  if (query.get("run")) byId("start-run").value = query.get("run");
  for (const input of document.querySelectorAll("[data-last]")) if (input.value) showLast(input);
  if (query.get("config")) await open({ kind: "saved", path: query.get("config") });
  else if (query.get("run")) await open({ kind: "run", path: query.get("run") });
  else await load({ values }, true);
  config.isChanged = false;
}
begin().catch((error) => { showProblem(error); return load({ values: {} }, true); });
showSaved().catch(showProblem);
showPlaces();
