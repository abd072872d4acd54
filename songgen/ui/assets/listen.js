// The form of a song: models, texts with section tags, examples, voice, options of the model's family, and the start.

import { valuesOf } from "./forms.js";
import { ModelPicker } from "./model_picker.js";
import { act, request, showProblem, t } from "./page.js";
import "./voice.js";

const form = document.getElementById("song-form");
const lyrics = document.getElementById("field-lyrics");
const compare = document.getElementById("compare");
const preview = form.querySelector("[data-preview]");
const input = (name) => document.getElementById(`field-${name}`);

const EXAMPLES = {
  pop: {
    caption: "bright pop, synthesizer, drums, confident female voice", language: "en",
    lyrics: "[verse]\nMorning on the window, coffee in my hand\nEvery little shadow dancing where I stand\n\n[chorus]\nWe are running to the light\nHold on, hold on tonight",
  },
  folk: {
    caption: "calm folk, acoustic guitar, warm male voice", language: "en",
    lyrics: "[verse]\nThe river keeps on turning, the hills are turning gold\nI sing the song my father sang, the way that it was told\n\n[chorus]\nOh carry me, carry me home",
  },
  mandarin: {
    caption: "slow ballad, piano, strings, gentle female voice", language: "zh",
    lyrics: "[verse]\n夜色落在窗边\n风轻轻吹过我的脸\n\n[chorus]\n如果你还记得那一天\n请再唱一遍",
  },
  instrumental: { caption: "ambient, soft pads, slow piano, no vocals", language: "en", lyrics: "[instrumental]" },
};

const TEXTS = ["caption", "lyrics"];
const DRAFT = "songgen-draft"; // in the storage of this tab: caption and lyrics, until the page is closed

let pickers = [];
let filled = {}; // caption and lyrics that were not written here, or that a song has: nothing is lost with them

const textsNow = () => Object.fromEntries(TEXTS.map((name) => [name, input(name).value]));

/** Asks before texts that nothing else has are replaced. */
function mayReplaceTexts() {
  const isOwn = Object.entries(textsNow()).some(([name, text]) => text.trim() && text !== filled[name]);
  return !isOwn || confirm(t("Replace the caption and lyrics that you have written?"));
}

/** Fills in texts that are kept elsewhere. */
function fillTexts(values) {
  for (const name of TEXTS) setInput(name, values[name]);
  filled = textsNow();
}

function setInput(name, value) {
  const field = input(name);
  if (!field) return;
  if (field.type === "checkbox") field.checked = value === true;
  else field.value = Array.isArray(value) ? value.join("\n") : value ?? JSON.parse(field.dataset.default || "null") ?? "";
}

function changed() {
  form.dispatchEvent(new Event("input", { bubbles: true }));
}

function body() {
  const takes = pickers.slice(0, compare.checked ? 2 : 1).map((picker) => picker.value);
  return { values: valuesOf(form), takes, ending: document.getElementById("ending").value };
}

let asked = 0;

async function showPreview() {
  asked += 1;
  const number = asked;
  const text = await request("/api/listen/preview", body()).then((answer) => answer.text, (error) => error.message);
  if (number === asked) preview.textContent = text; // else something has changed meanwhile
}

let shownFamilies = "";

/** Shows the options of the families of the chosen models; all of them while a family is not known. */
async function showFamilies() {
  const names = body().takes.map((take) => take.model);
  if (names.join("\n") === shownFamilies) return;
  shownFamilies = names.join("\n");
  const known = await Promise.all(names.filter(Boolean).map(
    (name) => request(`/api/listen/family?model=${encodeURIComponent(name)}`).then(({ group }) => group, () => null)));
  if (names.join("\n") !== shownFamilies) return; // chosen again meanwhile
  const isKnown = known.length > 0 && known.every(Boolean);
  for (const section of form.querySelectorAll("[data-family]")) {
    // A request of two families can have no options of one: the other would refuse them.
    section.hidden = isKnown && !known.every((group) => group === section.dataset.family);
  }
}

/** Fills the form with the request of a song. */
async function useSettings(song) {
  if (!mayReplaceTexts()) return;
  await ready; // the list of models takes a few seconds after a start of the server
  for (const field of form.querySelectorAll("[data-kind]")) setInput(field.name, song.options[field.name] ?? null);
  fillTexts(song);
  document.getElementById("ending").value = song.ending;
  compare.checked = song.takes.length > 1;
  document.getElementById("second").hidden = !compare.checked;
  pickers.slice(0, song.takes.length).forEach((picker, index) => { picker.value = song.takes[index]; });
  input("voice").dispatchEvent(new Event("change", { bubbles: true }));
  changed();
  form.scrollIntoView();
  document.getElementById("model-a-found").focus({ preventScroll: true });
}

let timer = null;
form.addEventListener("input", () => {
  sessionStorage.setItem(DRAFT, JSON.stringify(textsNow()));
  clearTimeout(timer);
  timer = setTimeout(() => { showFamilies().then(showPreview).catch(showProblem); }, 300);
});
form.addEventListener("change", changed);
compare.addEventListener("change", () => { document.getElementById("second").hidden = !compare.checked; });
input("language").setAttribute("list", "languages");

for (const button of document.querySelectorAll("[data-tag]")) {
  button.addEventListener("click", () => {
    // After the line of the caret: in the middle of it, a tag would not be on a line of its own.
    const found = lyrics.value.indexOf("\n", lyrics.selectionEnd);
    const end = found < 0 ? lyrics.value.length : found;
    const before = lyrics.value.slice(0, end);
    const start = before === "" || before.endsWith("\n\n") ? "" : before.endsWith("\n") ? "\n" : "\n\n";
    lyrics.setRangeText(`${start}${button.dataset.tag}\n`, end, end, "end");
    lyrics.focus();
    changed();
  });
}
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => {
    if (!mayReplaceTexts()) return;
    const example = EXAMPLES[button.dataset.example];
    setInput("language", example.language);
    fillTexts(example);
    changed();
  });
}
document.getElementById("random-seed").addEventListener("click", () => {
  input("seed").value = Math.floor(Math.random() * 2 ** 31);
  changed();
});
document.getElementById("no-seed").addEventListener("click", () => { input("seed").value = ""; changed(); });

form.addEventListener("submit", (event) => {
  event.preventDefault();
  act(event.submitter, async () => {
    await ready;
    const { song } = await request("/api/songs", body());
    filled = { caption: song.caption, lyrics: song.lyrics };
    document.getElementById("form-status").textContent = t("started with seed {seed}", { seed: song.options.seed });
    document.dispatchEvent(new CustomEvent("song-started", { detail: song }));
  });
});
document.addEventListener("use-settings", (event) => useSettings(event.detail).catch(showProblem));
for (const [name, text] of Object.entries(JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}"))) input(name).value = text;
const ready = fillPickers();

/** Looks for models, and chooses the one of the address, or the newest run: a model, or an adapter with its base. */
async function fillPickers() {
  const found = await request("/api/listen/models", undefined, { seconds: 120 }).catch(showProblem);
  const models = found?.models ?? [];
  document.getElementById("no-models").hidden = !found || models.length > 0;
  pickers = ["model-a", "model-b"].map((id) => new ModelPicker(id, models));
  const wanted = new URLSearchParams(location.search).get("model");
  const first = models.find((model) => model.kind === "run") ?? models.find((model) => model.kind !== "checkpoint") ?? models[0];
  pickers[0].value = { model: wanted ?? first?.path ?? "", adapter: [] };
  changed();
}
