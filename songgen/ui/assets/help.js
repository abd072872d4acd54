// Answers beside fields: a button with `data-help="ID"` opens the answer in a dialog.

import { el, request, showProblem } from "./page.js";

const dialog = document.getElementById("help");

/** Returns the paragraphs of an answer; texts in backticks are code. */
export function paragraphs(entry) {
  return entry.paragraphs.map((parts) => el("p", {}, ...parts.map((part) => (part.is_code ? el("code", {}, part.text) : part.text))));
}

async function show(id) {
  const { entry } = await request(`/api/help/${encodeURIComponent(id)}`);
  document.getElementById("help-question").textContent = entry.question;
  document.getElementById("help-answer").replaceChildren(...paragraphs(entry));
  document.getElementById("help-more").href = `/help#${encodeURIComponent(id)}`;
  if (!dialog.open) dialog.showModal();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-help]");
  if (button) show(button.dataset.help).catch(showProblem);
});
document.getElementById("help-close").addEventListener("click", () => dialog.close());
document.getElementById("help-more").addEventListener("click", () => dialog.close());
