// Tokenizing: parts that have to be made first, and the form of the command.

import { connectForm } from "./forms.js";
import { el, request } from "./page.js";

for (const form of document.querySelectorAll("form[data-subject]")) {
  connectForm(form, {
    subject: (values) => values.out ?? form.dataset.subject,
    onStart: () => location.reload(), // the panel of the job is then on the page
  });
}

let wasActive = false;
document.addEventListener("job", ({ detail: job }) => {
  if (wasActive && job.state === "finished") location.reload(); // what it has made is no longer missing
  wasActive = job.is_active;
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

request("/api/data/models").then(({ models }) => {
  document.getElementById("models").replaceChildren(...models.map((value) => el("option", { value })));
  input("model_name_or_path").setAttribute("list", "models");
}).catch(() => {});
