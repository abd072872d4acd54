// The list of everything: data sets, runs, models and adapters, filtered and sorted; checkpoints; the trash.

import { act, addressOf, badge, el, formatBytes, formatCount, formatDuration, formatNumber, formatTime, poll, request, setText, t } from "./page.js";

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
const opened = new Map(); // folder of a run -> when it had changed as its checkpoints were asked for, and these
let items = [];
let shown = "";
let shownTrash = "";

const part = (id) => document.getElementById(id);
const lossOf = (item) => item.held_out_loss ?? item.loss ?? Infinity;

function cell(label, content, kind = "") {
  const isBlank = content === null || content === "";
  return el("td", { "data-label": label, class: `${kind}${isBlank ? " blank" : ""}` }, content);
}

function losses(item) {
  const texts = [];
  if (item.held_out_loss !== null) texts.push(t("{loss} held out", { loss: formatNumber(item.held_out_loss) }));
  if (item.loss !== null) texts.push(t("{loss} training", { loss: formatNumber(item.loss) }));
  return el("td", { "data-label": t("Loss"), class: texts.length ? "" : "blank" }, ...texts.map((text) => el("span", { class: "line" }, text)));
}

function sizeText(item) {
  const texts = [];
  if (item.clips !== null) texts.push(t("{n} clips", { n: formatCount(item.clips) }));
  if (item.hours !== null) texts.push(formatDuration(item.hours * 3600));
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
  const from = el("td", { "data-label": t("Trained from and on"), class: item.base || item.data ? "from" : "blank" });
  if (item.base) from.append(el("small", {}, t("base: {name}", { name: item.base })));
  if (item.data) from.append(el("small", {}, t("data: {name}", { name: item.data })));
  const state = el("td", { "data-label": t("State") }, badge(item.state));
  if (item.detail && item.kind !== "adapter") state.append(el("small", {}, item.detail));
  return el("tr", { class: isInside ? "inside" : "", "data-folder": item.folder },
    name, cell(t("Kind"), item.kind_name), state, cell(t("Size"), sizeText(item), "number"), losses(item), from,
    cell(t("Changed"), formatTime(item.changed), "number"));
}

async function open(item) {
  const { items: found } = await request(`/api${addressOf(item.folder)}/checkpoints`);
  opened.set(item.folder, { changed: item.changed, checkpoints: found });
}

async function toggle(item) {
  if (!opened.delete(item.folder)) await open(item);
  show();
  rowOf(item.folder)?.querySelector("button")?.focus({ preventScroll: true }); // the button that was pressed is replaced
}

const rowOf = (folder) => [...part("rows").rows].find((row) => row.dataset.folder === folder);

function show() {
  const words = part("filter-text").value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const isWanted = GROUPS[part("filter-kind").value] ?? (() => true);
  const found = items
    .filter((item) => isWanted(item) && words.every((word) => `${item.folder} ${item.base} ${item.data}`.toLocaleLowerCase().includes(word)))
    .sort(ORDERS[part("filter-sort").value]);
  const focused = document.activeElement?.closest?.("#rows tr");
  const kind = document.activeElement?.localName; // a link or a button
  part("rows").replaceChildren(...found.flatMap((item) => [
    row(item), ...(opened.get(item.folder)?.checkpoints ?? []).map((inner) => row(inner, true)),
  ]));
  if (focused) rowOf(focused.dataset.folder)?.querySelector(kind)?.focus({ preventScroll: true });
  part("empty").hidden = items.length > 0;
  part("list").hidden = found.length === 0;
  setText(part("status"), found.length === items.length
    ? t("Folders: {n}", { n: items.length }) : t("Folders: {n} of {all}", { n: found.length, all: items.length }));
}

async function update() {
  const answer = await request("/api/models", undefined, { seconds: 120 }).catch((error) => {
    setText(part("status"), error.message);
    throw error;
  });
  const text = JSON.stringify(answer);
  if (text === shown) return;
  const changed = answer.items.filter((item) => opened.has(item.folder) && opened.get(item.folder).changed !== item.changed);
  await Promise.all(changed.map((item) => open(item).catch(() => opened.delete(item.folder))));
  shown = text;
  items = answer.items;
  show();
}

async function updateTrash() {
  const { items: entries } = await request("/api/trash");
  if (JSON.stringify(entries) === shownTrash) return;
  shownTrash = JSON.stringify(entries);
  part("trash").hidden = entries.length === 0;
  const total = entries.reduce((sum, entry) => sum + entry.size, 0);
  part("trash-size").textContent = formatBytes(total);
  part("trash-question").textContent = t("Entries: {n}, {size}. This cannot be undone.", { n: entries.length, size: formatBytes(total) });
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
  await request("/api/trash/empty", {}).finally(() => part("trash-dialog").close()); // a problem is shown behind it
  await updateTrash();
}));
poll(update, 5);
poll(updateTrash, 15);
