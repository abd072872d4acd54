// One data set: progress while a command works on it, and its rows.

import { act, badgeClass, el, formatDuration, poll, request, t } from "./page.js";

const byId = (id) => document.getElementById(id);

// ---- progress

const card = byId("work");
const wasThere = card.dataset.isThere === "true";
let wasActive = false;

function showWork(work) {
  card.hidden = work === null;
  if (work === null) return;
  const { progress } = work;
  byId("work-state").textContent = t(work.state);
  byId("work-state").className = badgeClass(work.state);
  byId("work-step").textContent = progress ? [progress.phase, work.step].filter(Boolean).join(" · ") : t("Starting");
  const bar = byId("work-bar");
  bar.hidden = work.state !== "running" && !progress?.total;
  if (progress?.total) {
    bar.max = progress.total;
    bar.value = progress.done;
  } else bar.removeAttribute("value");
  const counts = progress?.total ? t("{done} of {total}", { done: progress.done, total: progress.total }) : "";
  const isTimed = progress && progress.seconds_left !== null;
  const left = isTimed ? t("about {time} left in this step", { time: formatDuration(progress.seconds_left) }) : "";
  byId("work-text").textContent = [counts, left, work.state === "running" ? "" : work.detail].filter(Boolean).join(" · ");
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

function player(track, name) {
  const file = name.split("/").at(-1);
  const source = `/data/files/${table.dataset.folder}/audio/${encodeURIComponent(file)}`;
  const label = { mix: t("mix"), vocal: t("vocal"), acc: t("accompaniment") }[track] ?? track;
  return el("div", {}, el("small", {}, label), el("audio", { controls: true, preload: "none", src: source, "aria-label": label }));
}

async function showRows(wanted) {
  const path = `/api/data/set/${table.dataset.folder}/rows?split=${byId("split").value}&page=${wanted}`;
  const { rows, first, has_more: hasMore } = await request(path);
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
  byId("rows-back").addEventListener("click", () => showRows(page - 1));
  byId("rows-next").addEventListener("click", () => showRows(page + 1));
  act(byId("split"), () => showRows(1));
}
