// The list of jobs: states and buttons, kept up to date. Rows stay the same elements, so that the focus is not lost.

import { act, badgeClass, el, formatDuration, formatTime, poll, request, setText, t } from "./page.js";

const list = document.getElementById("job-rows");
const rows = new Map(); // id of a job -> its row, and what that shows

const address = (job, action = "") => `/api/jobs/${encodeURIComponent(job.id)}${action}`;

/** Returns a button that does something with a job; a screen reader says which one. */
function button(job, name, action) {
  const made = el("button", { type: "button", "aria-label": `${name}: ${job.title}` }, name);
  made.addEventListener("click", async () => {
    await act(made, async () => {
      await action();
      await update();
    });
    // The browser takes the focus from a button that is disabled meanwhile.
    if (document.activeElement === document.body) (made.hidden ? made.closest("tr").querySelector("a") : made).focus();
  });
  return made;
}

function newRow(job) {
  const parts = { badge: el("span"), took: el("td") };
  parts.stop = button(job, t("Stop"), () => request(address(job, "/stop"), {}));
  parts.again = button(job, t("Start again"), () => request(address(job, "/again"), {}));
  parts.remove = button(job, t("Remove"), () => remove(job));
  const title = el("td", {}, el("a", { href: `/jobs/${encodeURIComponent(job.id)}` }, job.title));
  const buttons = el("td", {}, el("div", { class: "row" }, parts.stop, parts.again, parts.remove));
  const started = el("td", {}, formatTime(job.created));
  return { element: el("tr", {}, title, el("td", {}, parts.badge), started, parts.took, buttons), parts };
}

/** Removes a job; the focus moves to the next row, since the button goes. */
async function remove(job) {
  if (!confirm(t("Remove this job and its output from the list? What its command has written is kept."))) return;
  await request(address(job, "/remove"), {});
  const row = rows.get(job.id)?.element;
  const next = row?.nextElementSibling ?? row?.previousElementSibling;
  (next?.querySelector("a") ?? document.querySelector("main h2")).focus();
}

function show({ element, parts }, job) {
  setText(parts.badge, t(job.state));
  parts.badge.className = badgeClass(job.state);
  const end = job.ended ?? (job.is_active ? Date.now() / 1000 : null);
  setText(parts.took, end === null ? "–" : formatDuration(end - job.created));
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  parts.stop.hidden = !job.is_active;
  parts.again.hidden = !job.can_repeat;
  parts.remove.hidden = job.is_active;
  if (focused?.hidden) element.querySelector("a").focus(); // a button that goes does not take the focus with it
}

async function update() {
  const { jobs, left_out: leftOut } = await request("/api/jobs");
  const present = new Set(jobs.map((job) => job.id));
  for (const [id, row] of rows) {
    if (present.has(id)) continue;
    row.element.remove();
    rows.delete(id);
  }
  let place = list.firstElementChild;
  for (const job of jobs) {
    if (!rows.has(job.id)) rows.set(job.id, newRow(job));
    const row = rows.get(job.id);
    show(row, job);
    if (row.element === place) place = place.nextElementSibling;
    else move(row.element, place);
  }
  document.getElementById("job-table").hidden = jobs.length === 0;
  document.getElementById("no-jobs").hidden = jobs.length > 0;
  const more = document.getElementById("jobs-left-out");
  more.hidden = leftOut === 0;
  setText(more, t("{n} older jobs that have ended are not shown; the command “songgen jobs” lists all.", { n: leftOut }));
}

/** Moves a row, with the focus that it has. */
function move(element, place) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  list.insertBefore(element, place);
  focused?.focus();
}

poll(update, 3);
