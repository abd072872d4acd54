// The page Configure: where a configuration starts from, the saved ones, saving.

import { act, copy, el, formatBytes, formatTime, request, showProblem, t } from "./page.js";
import { config, flush, load, send } from "./configure_form.js";
import "./configure_plan.js";

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
  return text === "" ? null : Number(text);
}

const foldersOf = (id) => byId(id).value.split(",").map((text) => text.trim()).filter(Boolean);

const starts = {
  advice: () => ({ kind: "advice", data: foldersOf("start-data"), model: byId("start-model").value.trim(), goal: byId("start-goal").value, hours: numberOf("start-hours") }),
  run: () => ({ kind: "run", path: byId("start-run").value.trim(), more_epochs: numberOf("start-more") }),
  data: () => ({ kind: "data", path: byId("start-settings").value.trim() }),
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

async function showPresets() {
  const [data = ""] = foldersOf("start-data");
  byId("presets").tBodies[0].replaceChildren(el("tr", {}, el("td", { colspan: 3 }, t("Estimating the memory…"))));
  const body = { data, model: byId("start-model").value.trim(), processes: config.processes };
  const { presets, free } = await request("/api/configure/presets", body);
  byId("presets").tBodies[0].replaceChildren(...presets.map((preset) => el("tr", {},
    el("td", {}, preset.name, preset.problem ? el("small", {}, ` ${preset.problem}`) : null),
    el("td", {}, preset.memory === null ? "–" : formatBytes(preset.memory), free !== null && preset.memory > free ? el("span", { class: "badge bad" }, t("too much")) : null),
    el("td", {}, el("button", { type: "button", onclick: (event) => act(event.target, () => open({ kind: "preset", preset: preset.name, data, model: body.model })) }, t("Take it"))),
  )));
}
document.querySelector('[data-start="preset"]').addEventListener("toggle", (event) => {
  if (event.target.open) showPresets().catch(showProblem);
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
byId("copy-commands").onclick = () => copy(byId("commands")).catch(showProblem);

async function showPlaces() {
  byId("places-note").textContent = t("Looking for data sets, models and runs…");
  const places = await request("/api/configure/places");
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
  if (query.get("config")) await open({ kind: "saved", path: query.get("config") });
  else if (query.get("run")) await open({ kind: "run", path: query.get("run") });
  else await load({ values }, true);
  config.isChanged = false;
}
begin().catch((error) => { showProblem(error); return load({ values: {} }, true); });
showSaved().catch(showProblem);
showPlaces().catch(showProblem);
