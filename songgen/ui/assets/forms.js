// Forms made of fields (templates/fields.html): reading values, the command that does the same, starting it.

import { act, copy, el, request, showProblem, t } from "./page.js";

/** Returns the value of an input by its kind; undefined if it is what is used anyway. */
export function valueOf(input) {
  const kind = input.dataset.kind;
  const standard = JSON.parse(input.dataset.default || "null");
  let value;
  if (input.type === "checkbox") value = input.checked;
  else if (kind === "choices") value = [...input.selectedOptions].map((option) => option.value);
  else if (kind === "list") value = input.value.split("\n").map((line) => line.trim()).filter(Boolean);
  else if (input.value.trim() === "") value = null;
  else if (kind === "integer" || kind === "number") value = Number(input.value);
  else if (kind === "switch") value = input.value === "true";
  else if (kind === "json") value = parsed(input);
  else value = input.value;
  if (kind === "list" && value.length === 0 && !Array.isArray(standard)) value = null;
  const isStandard = JSON.stringify(value) === JSON.stringify(standard) || (value === null && standard === "")
    || (value === false && standard === null && input.type === "checkbox");
  return isStandard ? undefined : value;
}

function parsed(input) {
  try {
    return JSON.parse(input.value);
  } catch {
    return input.value;
  }
}

/** Returns the values of a form that differ from what is used anyway, by name. Hidden fields are left out. */
export function valuesOf(form) {
  const values = {};
  for (const input of form.querySelectorAll("[data-kind]")) {
    if (input.closest("[hidden]")) continue;
    const value = valueOf(input);
    if (value !== undefined) values[input.name] = value;
  }
  return values;
}

/**
 * Connects a form with `data-command` to its command: the preview follows the inputs, and submitting starts the command.
 * `change` may return other values than the form has; `onStart` gets the job, else its page is opened.
 */
export function connectForm(form, { change = (values) => values, subject = () => "", onStart = null } = {}) {
  const preview = form.querySelector("[data-preview]");
  let timer = null;
  let asked = 0;
  const show = async () => {
    asked += 1;
    const number = asked;
    let shown;
    try {
      shown = (await request(`/api/commands/${form.dataset.command}`, { values: await change(valuesOf(form), false) })).text;
    } catch (error) {
      shown = error.message;
    }
    if (number === asked) preview.textContent = shown; // else something has changed meanwhile
  };
  if (preview) {
    const showSoon = () => { clearTimeout(timer); timer = setTimeout(show, 300); };
    form.addEventListener("input", showSoon);
    form.addEventListener("change", showSoon); // lists may send this event only
    show();
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter ?? form.querySelector("[type=submit]");
    await act(button, async () => {
      const values = await change(valuesOf(form), true);
      const { job } = await request("/api/jobs", { command: form.dataset.command, values, subject: subject(values) });
      if (onStart) onStart(job);
      else location.href = `/jobs/${encodeURIComponent(job.id)}`;
    });
  });
  return show;
}

// A button with `data-copy` copies the text above it, and says so for a moment.
const COPIED_SECONDS = 3;

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  let note = button.nextElementSibling;
  if (!note?.matches("[data-copied]")) {
    note = el("span", { role: "status", class: "soft", "data-copied": true });
    button.after(" ", note);
  }
  try {
    const isCopied = await copy(button.parentElement.querySelector("pre"));
    note.textContent = isCopied ? t("Copied") : t("Selected: copy it with the keyboard");
    setTimeout(() => { note.textContent = ""; }, COPIED_SECONDS * 1000);
  } catch (error) {
    showProblem(error);
  }
});

// A field that is not right must be seen, else the browser refuses to send the form without a word.
document.addEventListener("invalid", (event) => {
  for (let part = event.target.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
}, true);

// Fields of a part with `hidden` are not sent (`valuesOf`), so whether they are right must not matter either.
function disableHidden(part) {
  for (const input of part.querySelectorAll("[data-kind]")) input.disabled = input.closest("[hidden]") !== null;
}
new MutationObserver((changes) => { for (const { target } of changes) disableHidden(target); })
  .observe(document.body, { subtree: true, attributeFilter: ["hidden"] });
disableHidden(document);

for (const form of document.querySelectorAll("form[data-command][data-connect]")) connectForm(form);
