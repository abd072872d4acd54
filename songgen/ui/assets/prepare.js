// The form of prepare: chosen and uploaded songs, a starting point, the steps, the file that is written.

import { valuesOf } from "./forms.js";
import { act, el, formatBytes, request, showProblem, t } from "./page.js";
import { chosenFiles, droppedFiles, uploadFiles } from "./uploads.js";

const byId = (id) => document.getElementById(id);
const form = byId("prepare");
const sources = []; // {path, isEval, count}: songs in the order of adding

// ---- songs

async function addSource(path, isEval) {
  if (!path || sources.some((source) => source.path === path)) return;
  const source = { path, isEval, text: "" };
  try {
    source.text = describe(await request(`/api/prepare/songs?path=${encodeURIComponent(path)}`));
  } catch (error) {
    if (!/^[\w.-]+\/[\w.-]+$/.test(path)) throw error;
    source.text = t("A data set of the hub; it is read when the command runs"); // such as owner/name
  }
  sources.push(source);
  if (!byId("output-dir").value) byId("output-dir").value = `datasets/${nameOf(path)}_prepared`;
  showSources();
}

const nameOf = (path) => path.replace(/\/+$/, "").split("/").at(-1).replace(/\.\w+$/, "").replace(/[^\p{L}\p{N}_-]+/gu, "_") || "songs";

function describe(count) {
  const parts = [];
  if (count.tables.length) parts.push(t("manifest {name}", { name: count.tables.join(", ") }));
  if (count.songs) parts.push(t("{n} songs", { n: count.songs + (count.is_complete ? "" : "+") }));
  if (count.texts) parts.push(t("{n} text files", { n: count.texts }));
  if (count.foreign) parts.push(t("{n} files of formats that are not supported: convert them to FLAC or WAV", { n: count.foreign }));
  if (!parts.length) parts.push(t("no songs are in there"));
  const names = count.names.length ? ` (${count.names.join(", ")}${count.songs > count.names.length ? ", …" : ""})` : "";
  return parts.join(" · ") + names;
}

function showSources() {
  byId("chosen").replaceChildren(...sources.map((source, index) => el("li", { class: "chosen" },
    el("span", { class: "mono" }, source.path, " ", el("span", { class: "badge" }, source.isEval ? t("evaluation only") : t("training"))),
    el("button", {
      type: "button", class: "plain", "aria-label": t("Remove {name}", { name: source.path }),
      onclick: () => { sources.splice(index, 1); showSources(); },
    }, t("Remove")),
    el("small", {}, source.text))));
  byId("none-chosen").hidden = sources.length > 0;
  changed();
}

const typedPath = () => byId("add-path").value.trim();

async function addTyped(isEval) {
  await addSource(typedPath(), isEval);
  byId("add-path").value = "";
}

for (const [id, isEval] of [["add-train", false], ["add-eval", true]]) {
  byId(id).addEventListener("click", () => act(byId(id), () => addTyped(isEval)));
}
byId("add-path").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return; // or it ends a composition, as of Chinese characters
  event.preventDefault(); // would start preparing
  byId("add-train").click();
});

// ---- uploads

let stopping = null;

async function upload(files) {
  if (!files.length) return;
  if (stopping) {
    showProblem(new Error(t("An upload is running. Wait until it ends, or stop it, and add these files then.")));
    return;
  }
  const name = byId("upload-name").value.trim() || defaultName();
  byId("upload-name").value = name;
  stopping = new AbortController();
  byId("upload-progress").hidden = false;
  byId("upload-problems").replaceChildren();
  try {
    const { path, problems } = await uploadFiles(name, files, {
      signal: stopping.signal,
      onProgress: (sent, all, file) => {
        byId("upload-bar").value = all ? sent / all : 1;
        byId("upload-text").textContent = t("{sent} of {all}", { sent: formatBytes(sent), all: formatBytes(all) }) + (file ? ` · ${file}` : "");
      },
    });
    byId("upload-problems").replaceChildren(...problems.map((text) => el("li", {}, text)));
    const at = sources.findIndex((source) => source.path === path);
    if (at >= 0) sources.splice(at, 1); // counted again
    if (path) await addSource(path, false);
  } catch (error) {
    showProblem(error);
  } finally {
    stopping = null;
    byId("upload-stop").hidden = true;
  }
}

const defaultName = () => `songs-${new Date().toISOString().slice(0, 16).replaceAll(/[T:]/g, "-")}`;

for (const button of form.querySelectorAll("[data-pick]")) {
  button.addEventListener("click", () => byId(button.dataset.pick).click());
}
for (const id of ["upload-files", "upload-folder"]) {
  byId(id).addEventListener("change", () => {
    byId("upload-stop").hidden = false;
    upload(chosenFiles(byId(id))).finally(() => { byId(id).value = ""; });
  });
}
byId("upload-stop").addEventListener("click", () => stopping?.abort());
window.addEventListener("beforeunload", (event) => { if (stopping) event.preventDefault(); }); // the page itself sends it
const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.toggle("over", kind === "dragover"); });
}
drop.addEventListener("drop", (event) => {
  byId("upload-stop").hidden = false;
  droppedFiles(event.dataTransfer).then(upload).catch(showProblem);
});

// ---- the starting point

const start = () => form.querySelector("input[name=start]:checked").value || byId("import-folder").value.trim();

function setValue(input, value) {
  input.dataset.default = JSON.stringify(value ?? null);
  if (input.type === "checkbox") input.checked = value === true;
  else if (input.dataset.kind === "choices") for (const option of input.options) option.selected = value?.includes(option.value) ?? false;
  else if (value === null || value === undefined) input.value = "";
  else if (input.dataset.kind === "list") input.value = Array.isArray(value) ? value.join("\n") : value;
  else if (input.dataset.kind === "json") input.value = typeof value === "string" ? value : JSON.stringify(value);
  else input.value = String(value);
}

let loading = 0;

async function loadStart() {
  const number = ++loading;
  byId("import-field").hidden = !byId("import-choice").checked;
  if (!start()) return;
  const { values } = await request(`/api/prepare/start?from=${encodeURIComponent(start())}`);
  if (number !== loading) return; // another one was chosen since: its values may have come already
  for (const input of form.querySelectorAll("[data-kind]")) if (input.name in values) setValue(input, values[input.name]);
  showSteps();
  changed();
}

function showSteps() {
  for (const step of form.querySelectorAll("[data-section]")) {
    const box = step.querySelector("input[type=checkbox][name]");
    const keys = step.querySelector("[data-keys]");
    if (keys && box?.name === step.dataset.section) keys.hidden = !box.checked;
  }
}

for (const input of form.querySelectorAll("input[name=start], #import-folder")) {
  input.addEventListener("change", () => loadStart().catch(showProblem));
}

// ---- checking and starting

let timer = null;
let checking = 0;

function content() {
  const named = (isEval) => sources.filter((source) => source.isEval === isEval).map((source) => source.path);
  return { from: start(), songs: named(false), held_out: named(true), values: valuesOf(form) };
}

function changed() {
  clearTimeout(timer);
  timer = setTimeout(() => check().catch(() => {}), 300);
}

async function check() {
  const isReady = (sources.length > 0 || typedPath()) && byId("output-dir").value && start();
  byId("missing").textContent = isReady ? "" : t("Choose songs and name the folder of the result first");
  if (!start()) return;
  const number = ++checking;
  let answer;
  try {
    answer = await request("/api/prepare/check", content());
  } catch (error) {
    answer = { problem: error.message, json: "", command: "", existing: "" };
  }
  if (number !== checking) return; // an older answer that comes late
  byId("problems").hidden = !answer.problem || !isReady;
  byId("problems").textContent = answer.problem;
  byId("existing").hidden = !answer.existing;
  byId("existing").textContent = answer.existing ? t("{name} exists and will be prepared again", { name: answer.existing }) : "";
  byId("preview-json").textContent = answer.json;
  byId("preview-command").textContent = answer.command;
}

form.addEventListener("input", () => { showSteps(); changed(); });
form.addEventListener("submit", (event) => {
  event.preventDefault();
  act(event.submitter ?? form.querySelector("[type=submit]"), async () => {
    if (typedPath()) await addTyped(false); // chosen, and not added yet
    if (!sources.length) throw new Error(t("Choose songs first"));
    const { config, subject } = await request("/api/prepare/save", content());
    await request("/api/jobs", { command: "prepare", values: { config }, subject });
    location.href = `/data/set/${encodeURIComponent(subject)}`;
  });
});

loadStart().catch(showProblem);
if (byId("add-path").value) byId("add-train").click();
request("/api/data").then(({ entries }) => {
  const prepared = entries.filter((entry) => entry.kind === "songs" && entry.state === "finished");
  byId("import-list").replaceChildren(...prepared.map((entry) => el("option", { value: entry.folder })));
}).catch(() => {});
