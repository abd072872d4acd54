// The list of data sets: fetched, since searching the folders takes a moment.

import "./forms.js";
import { act, badge, el, formatCount, formatDuration, formatTime, poll, request, t } from "./page.js";

const REFRESH_SECONDS = 8;

const byId = (id) => document.getElementById(id);

function nextSteps(entry) {
  const folder = encodeURIComponent(entry.folder);
  if (entry.state !== "finished") return [[`/data/set/${folder}`, entry.state === "running" ? t("Watch") : t("Continue")]];
  if (entry.kind === "songs") return [[`/review/${folder}/`, t("Review")], [`/data/tokenize?data=${folder}`, t("Tokenize")]];
  return [[`/configure?data=${folder}`, t("Configure training")]];
}

function row(entry) {
  const kind = entry.kind === "songs" ? t("songs") : t("tokens");
  const links = nextSteps(entry).flatMap(([href, text]) => [el("a", { href }, text), " "]);
  return el("tr", {},
    el("td", { class: "name" }, el("a", { href: `/data/set/${encodeURIComponent(entry.folder)}` }, entry.folder)),
    el("td", { "data-label": t("Kind") }, kind),
    el("td", { "data-label": t("State") }, badge(entry.state), " ", el("small", {}, entry.detail)),
    el("td", { "data-label": t("Clips") }, entry.rows === null ? "–" : formatCount(entry.rows)),
    el("td", { "data-label": t("Length") }, entry.hours === null ? "–" : formatDuration(entry.hours * 3600)),
    el("td", { "data-label": t("Changed") }, formatTime(entry.changed)),
    el("td", { "data-label": t("Next step") }, ...links));
}

let shown = null; // the list as text

async function load() {
  byId("searching").hidden = shown !== null;
  try {
    const { entries } = await request("/api/data");
    const text = JSON.stringify(entries);
    if (text === shown) return; // a list that is rebuilt would lose the focus
    shown = text;
    byId("entries").replaceChildren(...entries.map(row));
    byId("data-sets").hidden = entries.length === 0;
    byId("nothing").hidden = entries.length > 0;
  } finally {
    byId("searching").hidden = true;
  }
}

byId("refresh").addEventListener("click", () => act(byId("refresh"), load));
act(byId("refresh"), load).then(() => setTimeout(() => poll(load, REFRESH_SECONDS), REFRESH_SECONDS * 1000));
