// The page of one folder: its forms start jobs whose panels appear below them; findings, uploads, deleting.

import { act, addressOf, el, request, showProblem, t, trackName } from "./page.js";
import { connectForm } from "./forms.js";
import { watchJob } from "./jobs.js";
import { fileUrl, makePlayer } from "./player.js";

const LEVELS = { error: t("Error"), warning: t("Warning"), ok: t("Fine") };
const ORDER = ["error", "warning", "ok"];

const stops = new Map(); // form -> function that stops to watch its job: a form has one panel

/** Shows the panel of a job below its form, and calls a function when it has ended, unless another job was started. */
function showJob(form, job, onEnd) {
  stops.get(form)?.();
  const outcome = form.parentElement.querySelector(".outcome");
  const panel = outcome.querySelector("[data-job]");
  panel.dataset.job = job.id;
  outcome.hidden = false;
  stops.set(form, watchJob(panel, (state) => { if (!state.is_active && panel.dataset.job === job.id) onEnd(state); }));
}

function finding(entry) {
  const item = el("div", { class: `finding ${entry.level}` }, el("strong", {}, `${LEVELS[entry.level] ?? entry.level}: ${entry.where}`), el("p", {}, entry.what));
  if (entry.way_out) item.append(el("p", { class: "soft" }, `→ ${entry.way_out}`));
  return item;
}

async function showFindings(form, job) {
  const place = form.parentElement.querySelector(".findings");
  try {
    const { is_fine: isFine, findings } = await request(`/api/findings/${encodeURIComponent(job.id)}`);
    const sorted = findings.toSorted((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level));
    const verdict = isFine ? t("Everything here can be used.") : t("Something here cannot be used.");
    place.replaceChildren(el("p", { class: `notice ${isFine ? "good" : "bad"}` }, verdict), ...sorted.map(finding));
    form.parentElement.querySelector(".outcome").hidden = true;
  } catch (error) {
    showProblem(error);
  }
}

function connectDoctor(form) {
  const warning = form.querySelector("[data-shown-by=accept]");
  form.addEventListener("input", () => { if (warning) warning.hidden = !form.elements.accept.checked; });
  connectForm(form, {
    change: (values) => ({ ...values, json: true }),
    subject: () => form.dataset.subject,
    onStart: (job) => showJob(form, job, () => showFindings(form, job)),
  });
}

function connectExport(form) {
  const kind = form.querySelector("#export-form");
  const choose = () => {
    for (const part of form.querySelectorAll("[data-form]")) part.hidden = part.dataset.form !== kind.value;
  };
  kind.addEventListener("change", choose);
  choose();
  connectForm(form, {
    change: (values) => ({ ...values, [kind.value]: form.querySelector("#export-out").value }),
    subject: () => form.dataset.subject,
    onStart: (job) => showJob(form, job, (state) => {
      if (state.state !== "finished") return;
      const folder = form.querySelector("#export-out").value;
      const outcome = form.parentElement.querySelector(".outcome");
      outcome.querySelector(".result")?.remove();
      outcome.append(el("p", { class: "notice good result" }, t("Written: "), el("a", { href: addressOf(folder) }, folder)));
    }),
  });
}

function connectPush(form) {
  const part = (name) => form.parentElement.querySelector(`[data-part="${name}"]`);
  let changes = 0;
  let asked = null; // what is being listed, and the number of changes at that time
  let listed = null;
  const forget = () => { changes += 1; listed = null; part("upload").hidden = true; };
  form.addEventListener("input", forget);
  form.addEventListener("change", forget);
  connectForm(form, {
    change: (values, isSent) => {
      if (isSent) asked = { values, changes };
      return { ...values, dry_run: true };
    },
    subject: () => form.dataset.subject,
    onStart: (job) => {
      const { values, changes: before } = asked;
      part("upload").hidden = true;
      showJob(form, job, async (state) => {
        if (state.state !== "finished") return;
        const { log } = await request(`/api/jobs/${encodeURIComponent(job.id)}?lines=2000`);
        if (before !== changes) return; // the form says something else by now: it has to be listed again
        part("upload-files").textContent = log.text.split("\n\n")[0]; // the model card follows, which the panel shows
        const name = values.repository ?? form.dataset.subject.split("/").pop(); // left out: that of the folder
        part("upload-where").textContent = values.public === true
          ? t("These files will be uploaded to {name}, and everyone can see them.", { name })
          : t("These files will be uploaded to {name}, a private repository.", { name });
        listed = values;
        part("upload").hidden = false;
      });
    },
  });
  part("upload-button").addEventListener("click", (event) => act(event.target, async () => {
    const { job } = await request("/api/jobs", { command: "push", values: listed, subject: form.dataset.subject });
    part("upload").hidden = true;
    showJob(form, job, () => {});
  }));
}

function connectOther(form) {
  connectForm(form, {
    subject: () => form.dataset.subject,
    onStart: (job) => showJob(form, job, (state) => {
      if (state.exit_code === 0) location.reload();
      // `songgen compare` also ends with 1 when it warns, and has written its result all the same.
      else if (state.name === "compare") form.parentElement.querySelector(".outcome").append(el("a", { href: location.pathname }, t("Show the result")));
    }),
  });
}

const CONNECT = { doctor: connectDoctor, export: connectExport, push: connectPush };
for (const form of document.querySelectorAll("form[data-command]")) (CONNECT[form.dataset.command] ?? connectOther)(form);

for (const place of document.querySelectorAll("[data-song]")) {
  const tracks = JSON.parse(place.dataset.tracks).map(([label, path]) => ({ label: label ? trackName(label) : place.dataset.song, url: fileUrl(path) }));
  makePlayer(place, { title: place.dataset.song, tracks });
}

document.getElementById("delete-form")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  act(event.submitter, async () => {
    await request(`/api/models/${encodeURIComponent(form.dataset.folder)}/delete`, { name: document.getElementById("delete-name").value });
    location.href = "/models";
  });
});
