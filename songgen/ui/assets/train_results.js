// What a run has written: songs of its samplings, and checkpoints, from which it can be resumed.

import { addressOf, el, formatBytes, formatCount, formatNumber, formatTime, poll, request, showProblem, t } from "./page.js";
import { connectForm } from "./forms.js";
import { fileUrl, makePlayer } from "./player.js";
import { trackWord } from "./train_health.js";

const byId = (id) => document.getElementById(id);

/** Follows the results of a run; `onCheckpoints` gets its checkpoints when they have changed. */
export function followResults(folder, path, onCheckpoints) {
  let run = null;
  let samplings = [];
  let shownCheckpoints = "";
  let shownSongs = ""; // step and number of files of the sampling whose players are there
  let players = [];
  let checkpoints = [];

  /** Lists the samplings. The newest one is shown unless another was chosen, or one is being listened to. */
  async function showSamplings(found) {
    const select = byId("sampling");
    const wasNewest = samplings.length === 0 || select.value === String(samplings[0].step);
    const isBusy = players.some((player) => player.isPlaying);
    const chosen = select.value;
    if (JSON.stringify(found) !== JSON.stringify(samplings)) {
      select.replaceChildren(...found.map(({ step }) => el("option", { value: step }, formatCount(step))));
      samplings = found;
      if ((!wasNewest || isBusy) && found.some(({ step }) => String(step) === chosen)) select.value = chosen;
    }
    showEmpty();
    byId("sampling-label").hidden = found.length === 0;
    await showSongs();
  }

  function showEmpty() {
    const canSample = run?.evaluates !== false;
    byId("no-songs").hidden = samplings.length > 0 || !canSample;
    byId("never-songs").hidden = samplings.length > 0 || canSample;
  }

  /** Shows the players of the sampling in the list, unless they are there, or others play and it was not `isChosen`. */
  async function showSongs({ isChosen = false } = {}) {
    const mustWait = () => !isChosen && players.some((player) => player.isPlaying);
    const sampling = samplings.find(({ step }) => String(step) === byId("sampling").value);
    const key = sampling ? JSON.stringify(sampling) : "";
    if (key === shownSongs || mustWait()) return;
    const songs = sampling ? (await request(`${path}/songs?step=${sampling.step}`)).songs : [];
    if (mustWait() || (sampling && byId("sampling").value !== String(sampling.step))) return; // it has changed meanwhile
    shownSongs = key;
    players.forEach((player) => player.remove());
    players = [];
    byId("songs").replaceChildren(...songs.map((song) => {
      const box = el("article", { class: "song stack" });
      const tracks = song.tracks.map(({ label, path: file }) => ({ label: translated(label), url: fileUrl(file) }));
      if (song.text) {
        box.append(el("details", {}, el("summary", {}, t("Caption and lyrics")), el("p", {}, song.text.caption), el("p", { class: "texts" }, song.text.lyrics || t("(instrumental)"))));
      }
      const player = makePlayer(box, { title: song.name, tracks, mode: "switch" });
      // Not the original, which comes first: it would be taken for what the model sings.
      const labels = song.tracks.map(({ label }) => label);
      const generated = labels.findIndex((label) => label.startsWith("generated"));
      player.select(Math.max(0, labels.indexOf("generated, mix") < 0 ? generated : labels.indexOf("generated, mix")));
      players.push(player);
      return box;
    }));
  }

  function translated(label) {
    const [kind, name] = label.split(", ");
    const track = trackWord(name);
    return { target: t("original, {track}", { track }), generated: t("generated, {track}", { track }) }[kind] ?? label;
  }

  function showCheckpoints(found) {
    const names = JSON.stringify(found);
    if (names === shownCheckpoints) return;
    shownCheckpoints = names;
    byId("checkpoints").hidden = found.length === 0;
    byId("no-checkpoints").hidden = found.length > 0;
    byId("checkpoints").tBodies[0].replaceChildren(...found.map((checkpoint) => {
      const links = el("td", {}, el("a", { href: `/listen?model=${encodeURIComponent(checkpoint.folder)}` }, t("Listen")), " · ",
        el("a", { href: addressOf(checkpoint.folder) }, t("Export, details")));
      if (checkpoint.problem) return el("tr", {}, el("td", { colspan: 6 }, el("span", { class: "badge bad" }, t("damaged")), ` ${checkpoint.name}: ${checkpoint.problem}`), links);
      const cell = (label, ...content) => el("td", { "data-label": label }, ...content);
      return el("tr", {},
        cell(t("Step"), formatCount(checkpoint.step), checkpoint.is_best ? el("span", { class: "badge good" }, t("best")) : null),
        cell(t("Epoch"), String(checkpoint.epoch)), cell(t("Loss"), formatNumber(checkpoint.loss)),
        cell(t("Evaluation loss"), formatNumber(checkpoint.evaluation_loss)),
        cell(t("Size"), formatBytes(checkpoint.bytes)), cell(t("Saved"), formatTime(checkpoint.time)), links);
    }));
    const whole = found.filter((checkpoint) => !checkpoint.problem);
    byId("resume-from").replaceChildren(el("option", { value: "auto" }, t("the latest one")), ...whole.map((checkpoint) => el("option", { value: checkpoint.folder },
      t("step {step}, epoch {epoch}, loss {loss}, {time}", { step: formatCount(checkpoint.step), epoch: checkpoint.epoch, loss: formatNumber(checkpoint.loss), time: formatTime(checkpoint.time) }))));
    fillLaunch();
    showResume();
    onCheckpoints(found);
  }

  /** Fills in how the run was launched last: by its job, or else, as far as a checkpoint knows, elsewhere. */
  function fillLaunch() {
    const launch = run?.launch ?? {};
    const key = JSON.stringify([run?.job?.id, launch, before()]);
    if (key === filled || !run) return;
    filled = key;
    const hasFile = launch.config_file !== undefined; // it may have the number of processes
    const values = { num_processes: hasFile || before() === 1 ? "" : before(), config_file: "", gpu_ids: "", task: "", ...launch };
    for (const [name, value] of Object.entries(values)) {
      const input = form.querySelector(`[name="${name}"]`);
      if (input.tagName === "SELECT" && value && ![...input.options].some((option) => option.value === value)) input.append(el("option", {}, value));
      input.value = value;
    }
    showPreview();
  }

  function showResume() {
    const wasHidden = form.hidden;
    form.hidden = !run || !run.is_there || run.state === "running" || run.job?.is_active || byId("resume-from").options.length < 2 || isStarted;
    if (wasHidden && !form.hidden) showPreview(); // hidden fields are not in it
  }

  byId("sampling").onchange = () => showSongs({ isChosen: true }).catch(showProblem);
  const form = byId("resume");
  let filled = "";
  let isStarted = false; // until the state of the new job is there
  const before = () => checkpoints.find((checkpoint) => !checkpoint.problem)?.processes ?? 1;

  /** Returns the options of the command: what the form has, and the keys that its choices stand for. */
  function options(values) {
    const keys = { output_dir: folder, resume: byId("resume-from").value || "auto" };
    const epochs = byId("resume-epochs").value;
    if (epochs) Object.assign(keys, { num_train_epochs: Number(epochs), max_steps: -1, allow_config_changes: true });
    // Without a number, a launch file has it.
    const processes = values.num_processes ?? (values.config_file ? before() : 1);
    if (processes !== before()) keys.allow_world_size_change = true;
    return { ...values, config: `${folder}/training_config.json`, keys };
  }

  const showPreview = connectForm(form, {
    change: options,
    subject: () => folder,
    onStart: () => {
      isStarted = true;
      showResume();
      shownCheckpoints = "";
      scrollTo({ top: 0, behavior: "smooth" });
    },
  });

  const update = async () => {
    if (run && !run.is_there) return;
    const found = await request(`${path}/results`);
    checkpoints = found.checkpoints;
    showCheckpoints(found.checkpoints);
    await showSamplings(found.samplings);
  };
  poll(update, 5);
  return {
    /** Takes the state of the run: a run that trains cannot be resumed. */
    state(found) {
      const hasEnded = run?.state === "running" && found.state !== "running";
      if (found.job?.id !== run?.job?.id || found.job?.state !== run?.job?.state) isStarted = false;
      run = found;
      showEmpty();
      fillLaunch();
      showResume();
      if (hasEnded) update().catch(showProblem);
    },
  };
}
