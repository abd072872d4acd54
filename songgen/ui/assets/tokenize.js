// Tokenizing: parts that have to be made first, and the form of the command.

import { connectForm } from "./forms.js";
import { watchJob } from "./jobs.js";
import { el, request, showProblem, t } from "./page.js";

const wasActive = new Map(); // id of a job -> whether it was running when it was last looked at

function connectPart(form) {
  connectForm(form, {
    subject: (values) => values.out ?? form.dataset.subject,
    onStart: () => refresh().catch(showProblem), // the panel of the job is then on the page
  });
}

const partOf = (place, name) => place.querySelector(`[data-needed="${name}"]`);
const formOf = (place, name) => place.querySelector(`form[data-command="${name}"]`);
const panelOf = (place, name) => place.querySelector(`[data-panel="${name}"]`);

/** Takes from a fresh copy of the page which parts are missing, and the panels of jobs; what was typed stays. */
async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) throw new Error(t("The request failed with status {status}", { status: answer.status }));
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-needed]")) {
    const now = partOf(fresh, part.dataset.needed);
    if (now) updatePart(part, now);
    else part.remove(); // it has been made
  }
  for (const now of fresh.querySelectorAll("#needed > [data-needed]")) {
    if (partOf(document, now.dataset.needed)) continue;
    const added = document.importNode(now, true);
    document.getElementById("needed").append(added);
    added.querySelectorAll("form[data-subject]").forEach(connectPart);
    for (const panel of added.querySelectorAll("[data-job]")) watchJob(panel);
  }
  document.getElementById("needed-first").replaceChildren(...fresh.getElementById("needed-first").childNodes);
}

function updatePart(part, now) {
  const name = part.dataset.needed;
  const title = part.querySelector("h3");
  if (title) title.textContent = now.querySelector("h3").textContent;
  const shown = panelOf(part, name);
  const job = panelOf(now, name).querySelector("[data-job]");
  if (job && job.dataset.job !== shown.querySelector("[data-job]")?.dataset.job) {
    shown.replaceChildren(document.importNode(job, true));
    wasActive.set(job.dataset.job, true); // it may end before its state is asked for
    watchJob(shown.firstElementChild);
  }
  const form = formOf(part, name);
  for (const { name: field, defaultValue } of formOf(now, name).querySelectorAll("input[type=text], textarea")) {
    const input = form.elements[field];
    if (input.value === input.defaultValue) input.value = defaultValue; // such as a codec that is there now
    input.defaultValue = defaultValue;
  }
  form.dispatchEvent(new Event("input"));
}

for (const form of document.querySelectorAll("form[data-subject]")) connectPart(form);

document.addEventListener("job", ({ detail: job }) => {
  if (wasActive.get(job.id) && job.state === "finished") refresh().catch(showProblem); // it is no longer missing
  wasActive.set(job.id, job.is_active);
});

const form = document.getElementById("tokenize");
const input = (name) => form.querySelector(`[name="${name}"]`);

connectForm(form, {
  change: (values) => {
    const launch = [...form.querySelectorAll("[data-launch] [name]")].map(({ name }) => name);
    const options = { config: form.dataset.config };
    const keys = {};
    for (const [name, value] of Object.entries(values)) (launch.includes(name) ? options : keys)[name] = value;
    return { ...options, keys };
  },
  subject: () => input("save_to_disk").value.trim(),
  onStart: (job) => { location.href = `/data/set/${encodeURIComponent(job.subject)}`; },
});

// The parts that are missing are those of the model that the data set names.
const named = input("model_name_or_path").value;
input("model_name_or_path").addEventListener("input", ({ target }) => {
  for (const id of ["needed", "needed-first"]) document.getElementById(id).hidden = target.value !== named;
});

request("/api/data/models").then(({ models }) => {
  document.getElementById("models").replaceChildren(...models.map((value) => el("option", { value })));
  input("model_name_or_path").setAttribute("list", "models");
}).catch(() => {});
