// The list of everything: data sets, runs, models and adapters, filtered and sorted; checkpoints; the trash.

import { act, badge, el, formatBytes, formatNumber, formatTime, poll, request, t } from "./page.js";

const KINDS = {
  run: t("run"), checkpoint: t("checkpoint"), tokens: t("tokenized data set"), songs: t("prepared songs"),
  model: t("model"), adapter: t("adapter"), part: t("codec or tokenizers"),
};
const GROUPS = {
  model: (item) => item.has_model, run: (item) => item.kind === "run",
  data: (item) => item.kind === "tokens" || item.kind === "songs", part: (item) => item.kind === "part",
};
const ORDERS = {
  changed: (a, b) => b.changed - a.changed,
  folder: (a, b) => a.folder.localeCompare(b.folder, undefined, { numeric: true }),
  size: (a, b) => (b.size ?? 0) - (a.size ?? 0),
  loss: (a, b) => lossOf(a) - lossOf(b),
};
const opened = new Set();
const checkpoints = new Map();
let items = [];
let shown = "";

const part = (id) => document.getElementById(id);
const lossOf = (item) => item.held_out_loss ?? item.loss ?? Infinity;
export const addressOf = (folder) => `/models/${encodeURIComponent(folder)}`;

function cell(label, content, kind = "") {
  const isBlank = content === null || content === "";
  return el("td", { "data-label": label, class: `${kind}${isBlank ? " blank" : ""}` }, content);
}

function lossText(item) {
  const texts = [];
  if (item.held_out_loss !== null) texts.push(t("{loss} held out", { loss: formatNumber(item.held_out_loss) }));
  if (item.loss !== null) texts.push(t("{loss} training", { loss: formatNumber(item.loss) }));
  return texts.join(" · ");
}

function sizeText(item) {
  const texts = [];
  if (item.clips !== null) texts.push(t("{n} clips", { n: item.clips.toLocaleString() }));
  if (item.hours !== null) texts.push(item.hours < 1 ? t("{n} min", { n: (item.hours * 60).toFixed(1) }) : t("{n} h", { n: item.hours.toFixed(1) }));
  if (item.size !== null) texts.push(formatBytes(item.size));
  return texts.join(", ");
}

function row(item, isInside = false) {
  const name = el("td", { class: "name" }, el("a", { href: addressOf(item.folder) }, isInside ? item.folder.split("/").pop() : item.folder));
  if (item.checkpoints) {
    const isOpen = opened.has(item.folder);
    name.append(" ", el("button", {
      type: "button", class: "plain", "aria-expanded": String(isOpen), onclick: (event) => act(event.target, () => toggle(item)),
    }, `${isOpen ? "▾" : "▸"} ${t("checkpoints: {n}", { n: item.checkpoints })}`));
  }
  const from = el("td", { "data-label": t("From and on"), class: item.base || item.data ? "" : "blank" });
  if (item.base) from.append(el("small", {}, t("base: {name}", { name: item.base })));
  if (item.data) from.append(el("small", {}, t("data: {name}", { name: item.data })));
  const state = el("td", { "data-label": t("State") }, badge(item.state));
  if (item.detail && item.kind !== "adapter") state.append(el("small", {}, item.detail));
  const kind = item.is_adapter && item.kind === "run" ? t("run with adapter") : KINDS[item.kind] ?? item.kind;
  return el("tr", { class: isInside ? "inside" : "" },
    name, cell(t("Kind"), kind), state, cell(t("Size"), sizeText(item), "number"), cell(t("Loss"), lossText(item)), from,
    cell(t("Changed"), formatTime(item.changed), "number"));
}

async function toggle(item) {
  if (!opened.delete(item.folder)) {
    checkpoints.set(item.folder, (await request(`/api/models/${encodeURIComponent(item.folder)}/checkpoints`)).items);
    opened.add(item.folder);
  }
  show();
}

function show() {
  const words = part("filter-text").value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const isWanted = GROUPS[part("filter-kind").value] ?? (() => true);
  const found = items
    .filter((item) => isWanted(item) && words.every((word) => `${item.folder} ${item.base} ${item.data}`.toLocaleLowerCase().includes(word)))
    .sort(ORDERS[part("filter-sort").value]);
  const focused = document.activeElement?.closest?.("#rows tr")?.rowIndex;
  part("rows").replaceChildren(...found.flatMap((item) => [
    row(item), ...(opened.has(item.folder) ? (checkpoints.get(item.folder) ?? []).map((inner) => row(inner, true)) : []),
  ]));
  if (focused) part("rows").rows[focused - 1]?.querySelector("button, a")?.focus();
  part("empty").hidden = items.length > 0;
  part("list").hidden = found.length === 0;
  part("status").textContent = found.length === items.length
    ? t("Folders: {n}", { n: items.length }) : t("Folders: {n} of {all}", { n: found.length, all: items.length });
}

async function update() {
  const answer = await request("/api/models").catch((error) => {
    part("status").textContent = error.message;
    throw error;
  });
  const text = JSON.stringify(answer);
  if (text === shown) return;
  shown = text;
  items = answer.items;
  show();
}

async function updateTrash() {
  const { items: entries } = await request("/api/trash");
  part("trash").hidden = entries.length === 0;
  const total = entries.reduce((sum, entry) => sum + entry.size, 0);
  part("trash-size").textContent = formatBytes(total);
  part("trash-question").textContent = t("Folders: {n}, {size}. This cannot be undone.", { n: entries.length, size: formatBytes(total) });
  part("trash-list").replaceChildren(...entries.map((entry) => el("li", { class: "row" },
    el("span", { class: "grow" }, entry.folder || entry.id),
    el("small", {}, `${formatBytes(entry.size)} · ${formatTime(entry.time)}`),
    el("button", {
      type: "button", "aria-label": t("Restore {name}", { name: entry.folder || entry.id }),
      onclick: (event) => act(event.target, async () => {
        await request(`/api/trash/${encodeURIComponent(entry.id)}/restore`, {});
        await Promise.all([update(), updateTrash()]);
      }),
    }, t("Restore")))));
}

part("filters").addEventListener("input", show);
part("filters").addEventListener("change", show); // lists may send this event only
part("filters").addEventListener("submit", (event) => event.preventDefault());
part("trash-empty").addEventListener("click", () => part("trash-dialog").showModal());
part("trash-cancel").addEventListener("click", () => part("trash-dialog").close());
part("trash-confirm").addEventListener("click", (event) => act(event.target, async () => {
  await request("/api/trash/empty", {});
  part("trash-dialog").close();
  await updateTrash();
}));
poll(update, 5);
poll(updateTrash, 15);
