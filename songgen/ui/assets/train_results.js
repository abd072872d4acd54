// What a run has written: songs of its samplings, and checkpoints, from which it can be resumed.

import { act, el, formatBytes, formatNumber, formatTime, poll, request, showProblem, t } from "./page.js";
import { fileUrl, makePlayer } from "./player.js";

const byId = (id) => document.getElementById(id);

/** Follows the results of a run. */
export function followResults(folder, path) {
  let run = null;
  let samplings = [];
  let shownSongs = "";
  let shownCheckpoints = "";
  let players = [];
  let newest = null;

  function showSamplings(found) {
    const names = JSON.stringify(found);
    if (names === shownSongs) return;
    shownSongs = names;
    samplings = found;
    showEmpty();
    byId("sampling-label").hidden = found.length === 0;
    const select = byId("sampling");
    const chosen = select.value;
    const wasNewest = newest === null || chosen === String(newest);
    newest = found[0]?.step ?? null;
    select.replaceChildren(...found.map(({ step }) => el("option", { value: step }, step.toLocaleString())));
    if (!wasNewest && found.some(({ step }) => String(step) === chosen)) select.value = chosen;
    // A new sampling must not end what is being listened to.
    if (!wasNewest || players.every((player) => !player.isPlaying)) showSongs();
  }

  function showEmpty() {
    const canSample = run?.evaluates !== false;
    byId("no-songs").hidden = samplings.length > 0 || !canSample;
    byId("never-songs").hidden = samplings.length > 0 || canSample;
  }

  function showSongs() {
    players.forEach((player) => player.remove());
    players = [];
    const sampling = samplings.find(({ step }) => String(step) === byId("sampling").value);
    byId("songs").replaceChildren(...(sampling?.songs ?? []).map((song) => {
      const box = el("article", { class: "song stack" });
      const tracks = song.tracks.map(({ label, path: file }) => ({ label: translated(label), url: fileUrl(file) }));
      if (song.text) {
        box.append(el("details", {}, el("summary", {}, t("Caption and lyrics")), el("p", {}, song.text.caption), el("p", { class: "texts" }, song.text.lyrics || t("(instrumental)"))));
      }
      players.push(makePlayer(box, { title: song.name, tracks, mode: "switch" }));
      return box;
    }));
  }

  function translated(label) {
    const [kind, track] = label.split(", ");
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
        el("a", { href: `/models/${encodeURIComponent(checkpoint.folder)}` }, t("Export, details")));
      if (checkpoint.problem) return el("tr", {}, el("td", { colspan: 6 }, el("span", { class: "badge bad" }, t("damaged")), ` ${checkpoint.name}: ${checkpoint.problem}`), links);
      return el("tr", {},
        el("td", {}, checkpoint.step.toLocaleString(), checkpoint.is_best ? el("span", { class: "badge good" }, t("best")) : null),
        el("td", {}, String(checkpoint.epoch)), el("td", {}, formatNumber(checkpoint.loss)), el("td", {}, formatNumber(checkpoint.evaluation_loss)),
        el("td", {}, formatBytes(checkpoint.bytes)), el("td", {}, formatTime(checkpoint.time)), links);
    }));
    const whole = found.filter((checkpoint) => !checkpoint.problem);
    byId("resume-from").replaceChildren(el("option", { value: "auto" }, t("the latest one")), ...whole.map((checkpoint) => el("option", { value: checkpoint.folder },
      t("step {step}, epoch {epoch}, loss {loss}, {time}", { step: checkpoint.step.toLocaleString(), epoch: checkpoint.epoch, loss: formatNumber(checkpoint.loss), time: formatTime(checkpoint.time) }))));
    if (!byId("resume-processes").value && whole.length) byId("resume-processes").value = whole[0].processes;
    showResume();
  }

  function showResume() {
    byId("resume").hidden = !run || !run.is_there || run.state === "running" || run.job?.is_active || byId("resume-from").options.length < 2;
  }

  byId("sampling").onchange = showSongs;
  byId("resume").addEventListener("submit", (event) => {
    event.preventDefault();
    act(event.submitter, async () => {
      const keys = { output_dir: folder, resume: byId("resume-from").value };
      const epochs = byId("resume-epochs").value;
      if (epochs) Object.assign(keys, { num_train_epochs: Number(epochs), max_steps: -1, allow_config_changes: true });
      const processes = Number(byId("resume-processes").value || 1);
      if (processes !== before()) keys.allow_world_size_change = true;
      const values = { config: `${folder}/training_config.json`, keys, ...(processes > 1 ? { num_processes: processes } : {}) };
      await request("/api/jobs", { command: "train", values, subject: folder });
      shownCheckpoints = "";
      scrollTo({ top: 0, behavior: "smooth" });
    });
  });

  let checkpoints = [];
  const before = () => checkpoints.find((checkpoint) => !checkpoint.problem)?.processes ?? 1;
  const update = async () => {
    if (run && !run.is_there) return;
    const found = await request(`${path}/results`);
    checkpoints = found.checkpoints;
    showCheckpoints(found.checkpoints);
    showSamplings(found.samplings);
  };
  poll(update, 5);
  return {
    /** Takes the state of the run: a run that trains cannot be resumed. */
    state(found) {
      const hasEnded = run?.state === "running" && found.state !== "running";
      run = found;
      showEmpty();
      showResume();
      if (hasEnded) update().catch(showProblem);
    },
  };
}
