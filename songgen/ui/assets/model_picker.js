// Choosing a model and adapters with their strengths, out of what was found in the folders or by its path or hub id.

import { el, t } from "./page.js";

const OTHER = "other";
let number = 0;

function titleOf(kind) {
  return { model: t("Models"), run: t("Runs"), adapter: t("Adapters"), checkpoint: t("Checkpoints") }[kind];
}

function groups(models) {
  return ["model", "run", "adapter", "checkpoint"].map((kind) => [kind, models.filter((model) => model.kind === kind)])
    .filter(([, members]) => members.length)
    .map(([kind, members]) => el("optgroup", { label: titleOf(kind) }, ...members.map(({ path }) => el("option", { value: path }, path))));
}

/** A list with what was found, and an input for everything else. */
class Choice {
  constructor(select, input, models, empty) {
    this.select = select;
    this.input = input;
    select.replaceChildren(el("option", { value: "" }, empty), ...groups(models), el("option", { value: OTHER }, t("Another folder or hub id…")));
    select.addEventListener("change", () => this.#show());
  }

  #show() { this.input.parentElement.hidden = this.select.value !== OTHER; }

  get value() { return this.select.value === OTHER ? this.input.value.trim() : this.select.value; }

  set value(path) {
    this.select.value = path;
    if (this.select.value !== path || path === OTHER) {
      this.select.value = OTHER;
      this.input.value = path;
    }
    this.#show();
  }
}

export class ModelPicker {
  #adapters = [];
  #models;

  constructor(id, models) {
    const root = document.querySelector(`[data-picker="${id}"]`);
    this.#models = models;
    this.list = root.querySelector(`[data-adapters="${id}"]`);
    this.choice = new Choice(document.getElementById(`${id}-found`), document.getElementById(id), models, t("Choose a model"));
    root.querySelector(`[data-add-adapter="${id}"]`).addEventListener("click", () => {
      this.#addAdapter("", 1).select.focus();
    });
  }

  get value() {
    return { model: this.choice.value, adapter: this.#adapters.filter((row) => row.choice.value).map((row) => `${row.choice.value}:${row.range.value}`) };
  }

  set value({ model, adapter }) {
    this.choice.value = model;
    for (const row of [...this.#adapters]) this.#remove(row);
    for (const text of adapter) {
      const [, path, strength] = text.match(/^(.*?)(?::(-?[\d.]+))?$/s);
      this.#addAdapter(path, strength ?? 1);
    }
  }

  #remove(row) {
    this.#adapters.splice(this.#adapters.indexOf(row), 1);
    row.element.remove();
    this.list.dispatchEvent(new Event("input", { bubbles: true }));
  }

  #addAdapter(path, strength) {
    number += 1;
    const id = `adapter-${number}`;
    const select = el("select", { id: `${id}-found`, "aria-label": t("Adapter") });
    const input = el("input", { type: "text", id, spellcheck: "false", "aria-label": t("Folder or hub id of the adapter") });
    const output = el("output", { for: `${id}-strength` });
    const showStrength = () => { output.textContent = Number(range.value).toFixed(2); };
    const range = el("input", {
      type: "range", id: `${id}-strength`, min: "-1", max: "2", step: "0.01", value: strength, "aria-label": t("Strength"), oninput: showStrength,
    });
    showStrength(); // what is sent: the input rounds and limits what it gets
    const element = el("div", { class: "adapter" }, select,
      el("div", { class: "path-input", hidden: true }, input, el("button", { type: "button", "data-choose": id }, t("Choose…"))),
      el("div", { class: "row" }, el("span", {}, t("Strength")), range, output,
        el("button", { type: "button", onclick: () => this.#remove(row) }, t("Remove"))));
    const choice = new Choice(select, input, this.#models.filter((model) => model.is_adapter), t("Choose an adapter"));
    const row = { element, choice, range };
    this.#adapters.push(row);
    this.list.append(element);
    choice.value = path;
    return choice;
  }
}
