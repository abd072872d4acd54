// The start page: what runs, the latest runs and songs, and the next step.

import { addressOf, badge, el, formatTime, poll, request, setText, t } from "./page.js";

const part = (id) => document.getElementById(id);
const encoded = encodeURIComponent;

const STEPS = {
  songs: () => [t("Next: choose songs and prepare them."), "/data", t("Songs and data")],
  model: () => [t("Next: your songs are ready; a model is needed to tokenize them and to train."), "/models/new", t("New model")],
  tokenize: () => [t("Next: turn the prepared songs into tokens."), "/data", t("Songs and data")],
  configure: (folder) => [t("Next: the data set is ready to train on."), `/configure?data=${encoded(folder)}`, t("Configure")],
  watch: (folder) => [t("A run is training."), `/train/run/${encoded(folder)}`, t("Watch it")],
  resume: (folder) => [t("The latest run has not ended."), `/train/run/${encoded(folder)}`, t("See why, and resume it")],
  listen: (folder) => [t("The latest run has a model."), `/listen?model=${encoded(folder)}`, t("Listen")],
};

const shown = new Map(); // id of a list -> JSON of what it shows

/** Fills a list; one that has not changed is left as it is, with the focus in it. */
function fill(id, entries, rowOf, emptyText) {
  const json = JSON.stringify(entries);
  if (shown.get(id) === json) return;
  shown.set(id, json);
  const rows = entries.map((entry) => el("li", { class: "row" }, ...rowOf(entry)));
  part(id).replaceChildren(...(rows.length ? rows : [el("li", { class: "soft" }, emptyText)]));
}

async function updateJobs() {
  const { jobs } = await request("/api/jobs");
  fill("jobs", jobs.filter((job) => job.is_active), (job) => [
    el("a", { class: "grow", href: `/jobs/${encoded(job.id)}` }, job.title), badge(job.state),
  ], t("Nothing is running."));
}

async function update() {
  const { runs, songs, next } = await request("/api/overview", undefined, { seconds: 120 }).catch((error) => {
    setText(part("next"), error.message);
    shown.delete("next");
    throw error;
  });
  if (shown.get("next") !== JSON.stringify(next)) {
    const [text, address, name] = STEPS[next.step](next.folder);
    part("next").replaceChildren(`${text} `, el("a", { href: address }, name));
    shown.set("next", JSON.stringify(next));
  }
  fill("runs", runs, (run) => [
    el("a", { class: "grow", href: `/train/run/${encoded(run.folder)}` }, run.folder), el("small", {}, run.detail), badge(run.state),
  ], t("No run yet."));
  fill("songs", songs, (song) => [
    el("a", { class: "grow", href: addressOf(song.folder) }, song.name), el("small", {}, formatTime(song.time)),
  ], t("No song was generated on this page yet."));
}

poll(updateJobs, 5);
poll(update, 10);
