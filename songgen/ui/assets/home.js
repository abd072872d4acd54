// The start page: what runs, the latest runs and songs, and the next step.

import { badge, el, formatTime, poll, request, t } from "./page.js";

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

function fill(id, rows, emptyText) {
  part(id).replaceChildren(...(rows.length ? rows.map((row) => el("li", { class: "row" }, ...row)) : [el("li", { class: "soft" }, emptyText)]));
}

async function updateJobs() {
  const { jobs } = await request("/api/jobs");
  fill("jobs", jobs.filter((job) => job.is_active).map((job) => [
    el("a", { class: "grow", href: `/jobs/${encoded(job.id)}` }, job.title), badge(job.state),
  ]), t("Nothing runs."));
}

async function update() {
  const { runs, songs, next } = await request("/api/overview").catch((error) => {
    part("next").textContent = error.message;
    throw error;
  });
  const [text, address, name] = STEPS[next.step](next.folder);
  part("next").replaceChildren(`${text} `, el("a", { href: address }, name));
  fill("runs", runs.map((run) => [
    el("a", { class: "grow", href: `/train/run/${encoded(run.folder)}` }, run.folder), el("small", {}, run.detail), badge(run.state),
  ]), t("No run yet."));
  fill("songs", songs.map((song) => [
    el("a", { class: "grow", href: `/models/${encoded(song.folder)}` }, song.name), el("small", {}, formatTime(song.time)),
  ]), t("No song was generated on this page yet."));
}

poll(updateJobs, 5);
poll(update, 10);
