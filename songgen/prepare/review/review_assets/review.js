// The page: a list of clips, the open clip, and saving as one goes. Texts only ever become text nodes, never HTML.

import { carryTimes, writtenLines } from "./lyrics.js";
import { Player } from "./player.js";
import { t } from "./texts.js";

const SAVE_AFTER = 700; // milliseconds without typing
const RETRY_AFTER = 5000; // milliseconds after the server could not be reached
const UNSURE = 0.5; // words that were heard with less certainty are marked
const TRACK_NAMES = { mix: t("Mix"), vocal: t("Vocals"), acc: t("Accompaniment") };

const VERDICTS = { accepted: t("accepted"), refused: t("refused") };

const byId = (id) => document.getElementById(id);
const filters = byId("filters");
const player = new Player(byId("player"), byId("wave"));

let listing = { clips: [], page: 1, pages: 1 };
let clip = null; // as the server has it
let saved = null; // values of the fields as they were last sent or received
let times = []; // [start, end] or null for every line of the lyrics
let lines = []; // the lines that they belong to
let placed = { lines, times }; // both as they were before the lyrics were typed over; a line that comes back finds its time
let track = "mix";
let timer = null;
let queue = Promise.resolve(); // one change after the other
let isConflict = false;
let hasFailed = false; // the last change could not be stored
let isGone = false; // the open clip does not exist any more: nothing of it can be stored
let unsent = {}; // verdict that could not be sent, since the server could not be reached
let askedList = 0; // number of the newest request for a list, and for a clip: older answers are not shown
let askedClip = 0;
const history = []; // ids of the clips that this tab has changed

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;

function say(text, isBad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", isBad);
}

async function ask(path, body, options = {}) {
  const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { ...sent, ...options }).catch(() => {
    throw new Error(t("The server does not answer; is it running?"));
  });
  const values = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const text = values.error ?? t("The request failed with status {status}", { status: answer.status });
    throw Object.assign(new Error(text), { status: answer.status, values });
  }
  return values;
}

/** Runs what a control does; a problem is shown. */
async function act(action) {
  try {
    await action();
  } catch (error) {
    say(error.message, true);
  }
}

const clipPath = (id) => `api/clips/${encodeURIComponent(id)}`;

// ---- the list

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of ["search", "state", "order"]) filters.elements[name].value = given.get(name) ?? "";
  for (const name of ["reason", "language"]) {
    const value = given.get(name);
    if (value !== null) filters.elements[name].append(make("option", { value, selected: true }));
  }
  return { id: given.get("clip"), page: given.get("page") ?? "1" };
}

function writeAddress() {
  const values = new URLSearchParams();
  for (const [name, value] of new FormData(filters)) {
    if (value !== "" && value !== "any") values.set(name, value);
  }
  if (filters.elements.language.value === "") values.set("language", "");
  if (listing.page > 1) values.set("page", listing.page);
  if (clip) values.set("clip", clip.id);
  window.history.replaceState(null, "", `#${values}`);
}

/** Shows a page of the list; returns whether it is shown, and not one that was asked for since. */
async function loadList(page = 1) {
  askedList += 1;
  const number = askedList;
  const query = new URLSearchParams({ page });
  for (const [name, value] of new FormData(filters)) {
    if (!(name === "language" && value === "any")) query.set(name, value);
  }
  const answer = await ask(`api/clips?${query}`);
  if (number !== askedList) return false;
  listing = answer;
  document.title = t("Review: {name}", { name: listing.title });
  byId("title").textContent = listing.title;
  fillChoices("reason", "", t("anything"), listing.facets.reasons);
  fillChoices("language", "any", t("any"), listing.facets.languages);
  byId("clips").replaceChildren(...listing.clips.map(row));
  byId("nothing").hidden = listing.clips.length > 0;
  byId("pages").hidden = listing.pages === 1;
  byId("page-back").disabled = listing.page === 1;
  byId("page-next").disabled = listing.page === listing.pages;
  byId("page-text").textContent = t("{first}–{last} of {all}", {
    first: listing.first, last: listing.first + listing.clips.length - 1, all: listing.found,
  });
  showProgress(listing.progress);
  showOrphans(listing.orphans);
  markOpen();
  writeAddress();
  return true;
}

function fillChoices(name, value, text, facets) {
  const select = filters.elements[name];
  const chosen = select.value || (select.selectedOptions.length ? select.value : value);
  const choices = facets.map(([code, count]) => make("option", { value: code, textContent: `${code || t("none")} (${count})` }));
  select.replaceChildren(make("option", { value, textContent: text }), ...choices);
  if (chosen !== value && !facets.some(([code]) => code === chosen)) {
    select.append(make("option", { value: chosen, textContent: `${chosen || t("none")} (0)` }));
  }
  select.value = chosen;
}

function row(summary) {
  const button = make("button", { type: "button" });
  button.dataset.id = summary.id;
  button.addEventListener("click", () => open(summary.id));
  fillRow(button, summary);
  return make("li", {}, button);
}

function fillRow(button, summary) {
  const marks = [];
  const mark = (text, kind = "") => marks.push(make("span", { className: `badge ${kind}`, textContent: text }));
  if (summary.verdict) mark(VERDICTS[summary.verdict] ?? summary.verdict, summary.verdict === "accepted" ? "good" : "bad");
  if (summary.code) mark(summary.code.replaceAll("_", " "), "bad");
  if (summary.is_corrected) mark(t("corrected"));
  if (summary.language) mark(summary.language);
  if (summary.confidence !== null) mark(t("heard {n} %", { n: Math.round(summary.confidence * 100) }));
  button.replaceChildren(
    make("span", { className: "name", textContent: summary.id }),
    make("span", { className: "length", textContent: t("{n} s", { n: summary.duration.toFixed(1) }) }),
    make("span", { className: "teaser", textContent: summary.teaser || t("no words") }),
    make("span", { className: "marks" }, ...marks),
  );
}

const rowOf = (id) => [...byId("clips").querySelectorAll("button")].find((button) => button.dataset.id === id);

function markOpen() {
  for (const button of byId("clips").querySelectorAll("button")) {
    if (clip && button.dataset.id === clip.id) {
      button.setAttribute("aria-current", "true");
      button.scrollIntoView({ block: "nearest" });
    } else button.removeAttribute("aria-current");
  }
}

function showProgress({ reviewed, total }) {
  byId("progress-bar").max = Math.max(total, 1);
  byId("progress-bar").value = reviewed;
  byId("progress-text").textContent = t("{n} of {all} reviewed", { n: reviewed, all: total });
}

function showOrphans(orphans) {
  byId("orphans").hidden = orphans.length === 0;
  byId("orphans").querySelector("summary").textContent = t("{n} corrections fit no clip any more", { n: orphans.length });
  byId("orphans").querySelector("ul").replaceChildren(...orphans.map((edit) => make("li", {
    textContent: `${edit.song}, ${clock(edit.start)}–${clock(edit.end)}: ${JSON.stringify(edit.changes)}`,
  })));
}

// ---- the open clip

async function open(id) {
  askedClip += 1;
  const number = askedClip;
  let answer;
  try {
    do {
      if (!(await isSaved())) return;
      answer = await ask(clipPath(id));
      if (number !== askedClip) return; // another one was opened meanwhile
    } while (hasChanges()); // typed meanwhile
    show(answer.clip);
  } catch (error) {
    say(error.message, true);
  }
}

function show(values) {
  const isSame = clip !== null && clip.id === values.id;
  clip = values;
  isConflict = hasFailed = isGone = false;
  unsent = {};
  byId("conflict").hidden = byId("problems").hidden = true;
  byId("clip-pane").hidden = false;
  document.body.classList.add("has-clip");
  byId("clip-id").textContent = clip.id;
  byId("clip-place").textContent = t("{start}–{end} of {song}", {
    start: clock(clip.start), end: clock(clip.start + clip.duration), song: clip.song,
  });
  byId("lyrics").value = clip.lyrics;
  byId("language").value = clip.language;
  byId("tags").value = clip.tags.join(", ");
  byId("caption").value = clip.caption;
  byId("reason").value = clip.reason;
  lines = writtenLines(clip.lyrics);
  times = clip.times;
  placed = { lines, times };
  saved = fields();
  showState();
  showLines();
  showHeard();
  byId("figures").replaceChildren(...clip.figures.flatMap(([name, value]) => [
    make("dt", { textContent: name }), make("dd", { textContent: value }),
  ]));
  if (!isSame) {
    showTracks();
    byId("clip-pane").scrollTop = 0;
  }
  markOpen();
  writeAddress();
}

function showState() {
  const { verdict, refusal } = clip;
  byId("clip-state").textContent = VERDICTS[verdict] ?? (refusal ? t("left out") : t("not reviewed"));
  byId("clip-state").className = `badge ${verdict === "accepted" ? "good" : refusal ? "bad" : ""}`;
  byId("refusal").hidden = !refusal;
  if (refusal) {
    const hint = clip.can_accept ? "" : t("It never became a clip, so it cannot be accepted: repair the song and prepare it again.");
    byId("refusal").textContent = `${t("Left out by {step}: {reason}.", refusal)} ${hint}`;
  }
  byId("copy").hidden = !clip.copy_of;
  byId("instead").disabled = verdict === "accepted";
  byId("accept").disabled = !clip.can_accept;
  byId("undo").disabled = !clip.can_undo && history.length === 0;
}

function showTracks() {
  const choices = clip.tracks.map((name) => {
    const input = make("input", { type: "radio", name: "track", value: name, checked: name === track });
    input.addEventListener("change", () => playTrack(name, true));
    return make("label", {}, input, TRACK_NAMES[name] ?? name);
  });
  byId("tracks").replaceChildren(byId("tracks").querySelector("legend"), ...choices);
  if (!clip.tracks.length) player.stop();
  else playTrack(clip.tracks.includes(track) ? track : clip.tracks[0], false);
}

async function playTrack(name, isSamePlace) {
  const id = clip.id;
  track = name;
  for (const input of byId("tracks").querySelectorAll("input")) input.checked = input.value === name;
  player.load(`audio/${encodeURIComponent(id)}/${name}`, clip.duration, isSamePlace);
  try {
    const { peaks } = await ask(`${clipPath(id)}/peaks/${name}`);
    if (clip.id === id && track === name) player.peaks = peaks;
  } catch (error) {
    if (clip.id === id) say(t("The track cannot be shown: {reason}", { reason: error.message }), true);
  }
  player.draw();
}

function showLines() {
  player.lines = times;
  player.draw();
  byId("timing").hidden = lines.length === 0;
  byId("lines").replaceChildren(...lines.map((text, index) => {
    const inputs = [t("From"), t("To")].map((side, place) => {
      const value = times[index] ? times[index][place].toFixed(2) : "";
      const input = make("input", { type: "number", min: 0, max: clip.duration, step: 0.01, value });
      input.setAttribute("aria-label", t("{side}, in seconds: {line}", { side, line: text }));
      input.addEventListener("change", () => setTimes(index, inputs));
      return input;
    });
    const action = (label, name, onClick) => {
      const button = make("button", { type: "button", textContent: label, title: name });
      button.setAttribute("aria-label", `${name}: ${text}`);
      button.addEventListener("click", onClick);
      return button;
    };
    const here = (place) => {
      inputs[place].value = player.audio.currentTime.toFixed(2);
      setTimes(index, inputs);
    };
    const play = action("▶", t("Play this line"), () => times[index] && player.playPart(...times[index]));
    const buttons = [play, action("[", t("From here"), () => here(0)), action("]", t("To here"), () => here(1))];
    const cells = [text, ...inputs].map((content) => make("td", {}, content));
    return make("tr", {}, ...cells, make("td", {}, ...buttons));
  }));
}

function setTimes(index, inputs) {
  const [start, end] = inputs.map((input) => (input.value === "" ? null : Number(input.value)));
  times = [...times]; // those that are kept in `placed` stay as they are
  inputs[1].setCustomValidity(start !== null && end !== null && end <= start ? t("must be after the beginning") : "");
  if (start === null && end === null) times[index] = null;
  else if (start === null || end === null || end <= start || end > clip.duration + 0.005 || start < 0) {
    say(t("A line needs a beginning before its end, both inside of the clip."), true);
    return;
  } else times[index] = [start, Math.min(end, clip.duration)];
  placed = { lines, times };
  player.lines = times;
  player.draw();
  save();
}

function showHeard() {
  byId("heard").replaceChildren(...clip.transcripts.map((heard) => {
    const words = heard.words.length ? heard.words.flatMap((word) => {
      const isUnsure = word.confidence !== null && word.confidence < UNSURE;
      const button = make("button", { type: "button", textContent: word.text, className: isUnsure ? "unsure" : "" });
      button.title = word.confidence === null ? "" : t("{n} % certain", { n: Math.round(word.confidence * 100) });
      button.addEventListener("click", () => player.playPart(word.start, word.end));
      return [button, " "];
    }) : [heard.text || t("nothing")];
    const use = make("button", { type: "button", className: "use", textContent: t("use as lyrics") });
    use.addEventListener("click", () => {
      byId("lyrics").value = heard.text;
      lyricsChanged();
      save();
    });
    return make("p", {}, t("Heard ({name}): ", { name: heard.name.replaceAll("_", " ") }), ...words, heard.text ? use : "");
  }));
}

// ---- saving

function fields() {
  return {
    lyrics: byId("lyrics").value,
    times: times.map((time) => time && [...time]),
    language: byId("language").value.trim(),
    tags: byId("tags").value.split(",").map((tag) => tag.trim()).filter(Boolean),
    caption: byId("caption").value,
  };
}

function differences() {
  const now = fields();
  const changes = {};
  for (const name of ["language", "tags", "caption"]) {
    if (JSON.stringify(now[name]) !== JSON.stringify(saved[name])) changes[name] = now[name];
  }
  if (now.lyrics !== saved.lyrics || JSON.stringify(now.times) !== JSON.stringify(saved.times)) {
    Object.assign(changes, { lyrics: now.lyrics, times: now.times });
  }
  return changes;
}

const hasChanges = () => clip !== null && Object.keys({ ...differences(), ...unsent }).length > 0;

function lyricsChanged() {
  const after = writtenLines(byId("lyrics").value);
  if (JSON.stringify(after) === JSON.stringify(lines)) return;
  times = carryTimes(placed.lines, placed.times, after);
  lines = after;
  showLines();
}

function typed() {
  say("…");
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_AFTER);
}

// Send what differs, together with a verdict if there is one; resolves to whether it is stored.
function save(verdict = {}, options = {}) {
  clearTimeout(timer);
  queue = queue.then(async () => {
    if (clip === null || isConflict) return false;
    const sent = fields();
    unsent = { ...unsent, ...verdict };
    const changes = { ...differences(), ...unsent };
    if (!Object.keys(changes).length) {
      hasFailed = false; // what was refused is as it was before
      byId("problems").hidden = true;
      say("");
      return true;
    }
    say(t("saving…"));
    return change(clipPath(clip.id), { version: clip.version, changes }, sent, options);
  });
  return queue;
}

async function change(path, body, sent, options = {}) {
  const { id, version } = clip;
  try {
    const answer = await ask(path, body, options);
    if (answer.clip.version !== version) history.push(id);
    took(answer);
    saved = sent;
    unsent = {};
    hasFailed = false;
    byId("problems").hidden = true;
    showState();
    say(t("saved"));
    return true;
  } catch (error) {
    hasFailed = true;
    const isAway = error.status === undefined || error.status === 401 || error.status >= 500;
    if (isAway && body.changes) {
      clearTimeout(timer);
      timer = setTimeout(save, RETRY_AFTER);
      say(t("not saved yet, and tried again: {reason}", { reason: error.message }), true);
      return false;
    }
    unsent = {};
    isGone = error.status === 404;
    if (error.status === 409) {
      isConflict = true;
      clip = { ...clip, theirs: error.values };
      byId("conflict").hidden = false;
      byId("conflict").scrollIntoView({ block: "center" });
      say(t("not saved"), true);
    } else if (error.status === 422) {
      byId("problems").textContent = (error.values.problems ?? [error.message]).join("\n");
      byId("problems").hidden = false;
      byId("problems").scrollIntoView({ block: "center" });
      say(t("not saved"), true);
    } else say(t("not saved: {reason}", { reason: error.message }), true);
    return false;
  }
}

function took(answer) {
  clip = answer.clip;
  showProgress(answer.progress);
  const button = rowOf(clip.id);
  if (button) fillRow(button, answer.summary);
}

/** Stores what was written; if that is not possible, the open clip and the reason are shown, and it stays there. */
async function isSaved() {
  if (clip === null || (await save())) return true;
  if (isGone && confirm(t("This clip does not exist any more, so what was written cannot be saved. Leave it?"))) {
    saved = fields(); // given up
    return true;
  }
  document.body.classList.add("has-clip");
  [byId("conflict"), byId("problems")].find((notice) => !notice.hidden)?.scrollIntoView({ block: "center" });
  return false;
}

async function decide(verdict) {
  const id = clip.id;
  if (verdict === "accepted" && !clip.can_accept) return;
  const reason = verdict === "refused" ? byId("reason").value : "";
  byId("reason").blur();
  if (await save({ verdict, reason }) && clip.id === id) await go(1);
}

// The next run keeps this copy, and leaves out the one that was kept.
async function keepInstead() {
  const id = clip.id;
  if (!clip.copy_of || byId("instead").disabled) return;
  if (!(await isSaved()) || clip.id !== id) return;
  queue = queue.then(() => change(`${clipPath(id)}/keep`, { version: clip.version }, fields()));
  if ((await queue) && clip.id === id) say(t("kept instead: the next songgen prepare leaves the other copy out"));
}

async function undo() {
  if (!(await isSaved())) return;
  const id = history.at(-1) ?? clip.id;
  if (clip.id !== id) await open(id);
  if (clip.id !== id) return;
  if (!clip.can_undo) {
    history.pop(); // it was taken back elsewhere
    return;
  }
  queue = queue.then(async () => {
    try {
      const answer = await ask(`${clipPath(id)}/undo`, { version: clip.version });
      history.pop();
      took(answer);
      show(answer.clip);
      say(t("taken back"));
    } catch (error) {
      if (error.status === 409) {
        history.pop(); // the newest change is somebody else's
        show(error.values.clip);
      }
      say(error.message, true);
    }
  });
  await queue;
}

async function go(step) {
  if (!(await isSaved())) return;
  const index = listing.clips.findIndex((entry) => entry.id === clip?.id);
  let target = listing.clips[index + step];
  if (!target) {
    // Clips that have left a list of open ones make room on its first page.
    const isShrinking = filters.elements.state.value === "open";
    const page = isShrinking && step > 0 ? 1 : listing.page + step;
    if (page < 1 || (page > listing.pages && !isShrinking)) return;
    if (!(await loadList(page))) return;
    target = step > 0 ? listing.clips[0] : listing.clips.at(-1);
  }
  if (target && target.id !== clip?.id) await open(target.id);
}

// ---- wiring

for (const id of ["language", "tags", "caption"]) byId(id).addEventListener("input", typed);
byId("lyrics").addEventListener("input", () => {
  lyricsChanged();
  typed();
});
for (const id of ["lyrics", "language", "tags", "caption"]) byId(id).addEventListener("change", () => save());
byId("accept").addEventListener("click", () => act(() => decide("accepted")));
byId("refuse").addEventListener("click", () => act(() => decide("refused")));
byId("reason").addEventListener("keydown", (event) => {
  // The Enter that ends a composition, as of Chinese characters, is not meant for the page.
  if (event.key === "Enter" && !event.isComposing) act(() => decide("refused"));
});
byId("undo").addEventListener("click", undo);
byId("instead").addEventListener("click", keepInstead);
byId("show-kept").addEventListener("click", () => open(clip.copy_of));
byId("next").addEventListener("click", () => act(() => go(1)));
byId("previous").addEventListener("click", () => act(() => go(-1)));
byId("to-list").addEventListener("click", async () => {
  if (await isSaved()) document.body.classList.remove("has-clip");
});
byId("page-back").addEventListener("click", () => act(() => loadList(listing.page - 1)));
byId("page-next").addEventListener("click", () => act(() => loadList(listing.page + 1)));
byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("take-theirs").addEventListener("click", () => {
  const { theirs } = clip;
  took(theirs);
  show(theirs.clip);
  say("");
});
byId("keep-mine").addEventListener("click", () => {
  const { theirs } = clip;
  clip = theirs.clip;
  const server = { ...saved, lyrics: clip.lyrics, times: clip.times, language: clip.language, tags: clip.tags, caption: clip.caption };
  saved = server; // whatever differs from the other version is sent
  isConflict = false;
  byId("conflict").hidden = true;
  save();
});
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("change", (event) => {
  // The search follows its input: a click on a clip ends it, and must not rebuild the list under the pointer.
  if (event.target !== filters.elements.search) act(loadList);
});
let searching = null;
filters.elements.search.addEventListener("input", () => {
  clearTimeout(searching);
  searching = setTimeout(() => act(loadList), 250);
});
window.addEventListener("beforeunload", (event) => { if (hasFailed && hasChanges()) event.preventDefault(); });
window.addEventListener("pagehide", () => save({}, { keepalive: true }));

const KEYS = {
  j: () => go(1),
  k: () => go(-1),
  a: () => decide("accepted"),
  r: () => byId("reason").focus(),
  u: undo,
  i: keepInstead,
  o: () => clip.copy_of && open(clip.copy_of),
  e: () => byId("lyrics").focus(),
  c: () => byId("caption").focus(),
  t: () => byId("tags").focus(),
  "/": () => filters.elements.search.focus(),
  "?": () => byId("help").showModal(),
  " ": () => player.toggle(),
  ArrowLeft: () => player.seek(player.audio.currentTime - 2),
  ArrowRight: () => player.seek(player.audio.currentTime + 2),
};

document.addEventListener("keydown", (event) => {
  const kind = event.target.tagName;
  const isWriting = ["TEXTAREA", "SELECT"].includes(kind) || (kind === "INPUT" && event.target.type !== "radio");
  if (isWriting) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || kind === "AUDIO") return;
  if (["BUTTON", "SUMMARY"].includes(kind) && event.key === " ") return;
  const number = Number(event.key);
  const action = KEYS[event.key] ?? (clip?.tracks[number - 1] && (() => playTrack(clip.tracks[number - 1], true)));
  if (!action || (clip === null && !["/", "?"].includes(event.key))) return;
  event.preventDefault();
  act(action);
});

const start = readAddress();
loadList(start.page).then(async () => {
  const first = start.id ?? listing.clips[0]?.id;
  const isNarrow = matchMedia("(max-width: 52rem)").matches;
  if (first && (start.id || !isNarrow)) await open(first);
}).catch((error) => say(error.message, true));
