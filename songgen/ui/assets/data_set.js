// One data set: progress while a command works on it, and its rows.

import { act, badge, badgeClass, el, formatDuration, poll, request, setText, showProblem, t, trackName } from "./page.js";

const byId = (id) => document.getElementById(id);

// ---- progress

const card = byId("work");
const wasThere = card.dataset.isThere === "true";
let wasActive = false;

function showWork(work) {
  card.hidden = work === null;
  if (work === null) return;
  const { progress } = work;
  setText(byId("work-state"), t(work.state));
  byId("work-state").className = badgeClass(work.state);
  setText(byId("work-step"), titleOf(work));
  const bar = byId("work-bar");
  bar.hidden = work.state !== "running" && !progress?.total;
  if (progress?.total) {
    bar.max = progress.total;
    bar.value = progress.done;
  } else bar.removeAttribute("value");
  const counts = progress?.total ? countsOf(work) : "";
  const isTimed = progress && progress.seconds_left !== null;
  const left = isTimed ? t("about {time} left in this step", { time: formatDuration(progress.seconds_left) }) : "";
  byId("work-text").textContent = [counts, left, work.state === "running" ? "" : work.detail].filter(Boolean).join(" · ");
  showSteps(work.steps);
}

function titleOf({ progress, steps }) {
  if (!progress) return t("Starting");
  const number = steps.findIndex((step) => step.name === progress.phase) + 1;
  return number ? t("Step {n} of {all}: {name}", { n: number, all: steps.length, name: progress.phase }) : progress.phase;
}

function countsOf({ progress, steps }) {
  const { done, total } = progress;
  const unit = steps.find((step) => step.name === progress.phase)?.unit;
  if (unit === "songs") return t("{done} of {total} songs", { done, total });
  return unit === "clips" ? t("{done} of {total} clips", { done, total }) : t("{done} of {total}", { done, total });
}

let shownSteps = "";

// All steps of the run; the bar is at the present one.
function showSteps(steps) {
  const state = JSON.stringify(steps);
  if (state === shownSteps) return;
  shownSteps = state;
  const list = byId("work-steps");
  list.hidden = !steps.length;
  list.before(byId("work-now")); // its place without steps
  list.replaceChildren(...steps.map((step) => {
    const isPresent = !["finished", "waiting"].includes(step.state);
    const mark = step.state === "waiting" ? el("span", { class: "badge" }, t("waiting")) : badge(step.state);
    const text = el("span", {}, el("span", { class: "mono" }, step.name), step.summary ? ` · ${step.summary}` : "");
    const item = el("li", { class: "work-step", "aria-current": isPresent ? "step" : null }, text, mark);
    return item;
  }));
  list.querySelector("[aria-current]")?.append(byId("work-now"));
}

poll(async () => {
  const { is_there: isThere, work, job } = await request(`/api/data/set/${card.dataset.folder}`);
  showWork(work);
  const isActive = Boolean(job?.is_active) || work?.state === "running";
  if ((wasActive && !isActive) || (isThere && !wasThere && !isActive)) location.reload();
  wasActive = isActive;
  return isActive || !isThere;
}, 1.5);

// ---- the same command again

byId("again")?.addEventListener("click", () => act(byId("again"), async () => {
  const { job } = await request(`/api/data/set/${card.dataset.folder}`);
  await request(`/api/jobs/${encodeURIComponent(job.id)}/again`, {});
  location.reload();
}));

byId("apply")?.addEventListener("click", () => act(byId("apply"), async () => {
  const { config, subject } = byId("apply").dataset;
  await request("/api/jobs", { command: "prepare", values: { config }, subject });
  location.reload();
}));

// ---- rows

const table = byId("rows");
let page = 1;
let askedRows = 0;

function player(track, name) {
  const file = name.split("/").at(-1);
  const source = `/data/files/${table.dataset.folder}/audio/${encodeURIComponent(file)}`;
  const label = trackName(track);
  return el("div", {}, el("small", {}, label), el("audio", { controls: true, preload: "none", src: source, "aria-label": label }));
}

async function showRows(wanted) {
  const path = `/api/data/set/${table.dataset.folder}/rows?split=${byId("split").value}&page=${wanted}`;
  askedRows += 1;
  const number = askedRows;
  const { rows, first, has_more: hasMore } = await request(path);
  if (number !== askedRows) return; // others were asked for meanwhile
  page = wanted;
  byId("row-list").replaceChildren(...rows.map((row) => el("tr", {},
    el("td", { class: "mono" }, row.id),
    el("td", {}, row.duration === null ? "–" : t("{n} s", { n: row.duration.toFixed(1) })),
    el("td", {}, el("div", { class: "texts" }, row.caption)),
    el("td", {}, el("div", { class: "texts" }, row.lyrics || "–"), el("small", {}, row.language)),
    el("td", {}, ...Object.entries(row.tracks).map(([track, name]) => player(track, name))))));
  byId("rows-place").textContent = rows.length ? `${first}–${first + rows.length - 1}` : "";
  byId("rows-back").disabled = page === 1;
  byId("rows-next").disabled = !hasMore;
}

if (table && byId("split").value) {
  byId("split").addEventListener("change", () => act(byId("split"), () => showRows(1)));
  byId("rows-back").addEventListener("click", () => showRows(page - 1).catch(showProblem));
  byId("rows-next").addEventListener("click", () => showRows(page + 1).catch(showProblem));
  act(byId("split"), () => showRows(1));
}
