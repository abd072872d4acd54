// Commands to a run: buttons, the learning rate, any other command, and what came of them.

import { act, el, formatCount, formatTime, request, t } from "./page.js";

const byId = (id) => document.getElementById(id);
const STATES = { waiting: "running", done: "good", refused: "bad", failed: "bad" };
let address = "";
let shown = "";
const sending = new Set(); // buttons that `act` holds

async function send(button, text) {
  sending.add(button);
  await act(button, async () => {
    const sent = await request(`${address}/commands`, { text });
    const others = [...byId("answers").children].filter((row) => row.dataset.text !== sent.text || row.dataset.state !== "waiting");
    byId("answers").replaceChildren(answer(sent), ...others.slice(0, 4));
    byId("in-terminal").hidden = false;
    byId("terminal-command").textContent = sent.in_terminal;
  });
  sending.delete(button);
}

function word(state) {
  return { waiting: t("waits for the run"), done: t("done"), refused: t("refused"), failed: t("failed") }[state] ?? state;
}

function answer(sent) {
  const text = sent.state === "waiting" ? t("The run answers after its present step, evaluation or save.") : sent.answer;
  return el("p", { class: "row", "data-text": sent.text, "data-state": sent.state }, el("span", { class: `badge ${STATES[sent.state] ?? ""}` }, word(sent.state)), el("code", {}, sent.text), el("span", { class: "grow" }, text));
}

/** Shows which commands are possible, what waits, the latest answers, and the journal. */
export function showCommands(run, path) {
  address = path;
  const isPossible = run.is_there && run.state === "running";
  byId("commands-off").hidden = isPossible;
  for (const input of byId("commands").querySelectorAll("button:not(#end-job, [data-copy]), input")) {
    if (!sending.has(input)) input.disabled = !isPossible || (!run.evaluates && "evaluates" in input.dataset);
  }
  byId("evaluation-off").hidden = run.evaluates;
  const commands = run.commands ?? { waiting: [], answers: [], journal: [], damaged: [] };
  const key = JSON.stringify(commands);
  if (key === shown) return;
  shown = key;
  const answers = commands.answers.slice(0, 5);
  const own = answers.filter((sent) => sent.state === "waiting").map((sent) => sent.text);
  const others = commands.waiting.filter((text) => !own.includes(text)).map((text) => ({ text, state: "waiting" }));
  byId("answers").replaceChildren(...[...others, ...answers].map(answer));
  byId("damaged-journal").hidden = commands.damaged.length === 0;
  byId("damaged-journal").textContent = t("Damaged lines of the journal that are left out: {n}", { n: commands.damaged.length });
  byId("journal").hidden = commands.journal.length === 0;
  byId("no-journal").hidden = commands.journal.length > 0;
  byId("journal").tBodies[0].replaceChildren(...commands.journal.map((entry) => el("tr", { class: entry.is_dropped ? "dropped" : "" },
    el("td", {}, formatCount(entry.step)),
    el("td", { class: "mono" }, entry.command ?? t("resumed from this step")),
    el("td", { title: entry.source }, entry.is_of_page ? t("this page") : entry.source),
    el("td", {}, formatTime(entry.time)))));
}

for (const button of document.querySelectorAll("[data-command-text]")) {
  button.onclick = () => send(button, button.dataset.commandText);
}

byId("rate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const step = byId("rate-step").value.trim();
  send(event.submitter, `lr ${byId("rate").value.trim()}${step ? `@${step}` : ""}`);
});

byId("other-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send(event.submitter, byId("other").value.trim());
});
