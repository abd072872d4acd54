// The list of generated songs: newest first, with a search; a new one appears at the top.

import { act, request, showProblem, t } from "./page.js";
import { SongCard } from "./song_card.js";

const list = document.getElementById("songs");
const search = document.getElementById("song-search");
const more = document.getElementById("more-songs");
let cards = [];
let total = 0;

function showCounts() {
  const isFiltered = search.value.trim() !== "";
  document.getElementById("songs-count").textContent = total ? t("{shown} of {total} shown", { shown: cards.length, total }) : "";
  document.getElementById("no-songs").hidden = total > 0 || isFiltered;
  document.getElementById("none-found").hidden = total > 0 || !isFiltered;
  more.hidden = cards.length >= total;
}

function cardOf(song) {
  const card = new SongCard(song, () => {
    cards = cards.filter((other) => other !== card);
    total -= 1;
    showCounts();
  });
  return card;
}

let asked = 0;

async function load(isMore) {
  asked += 1;
  const number = asked;
  const offset = isMore ? cards.length : 0;
  const answer = await request(`/api/songs?search=${encodeURIComponent(search.value)}&offset=${offset}`);
  if (number !== asked) return; // searched again meanwhile
  if (!isMore) {
    for (const card of cards) card.remove();
    cards = [];
  }
  total = answer.total;
  const known = new Set(cards.map((card) => card.name));
  const added = answer.songs.filter((song) => !known.has(song.name)).map(cardOf);
  cards.push(...added);
  list.append(...added.map((card) => card.element));
  showCounts();
}

let timer = null;
search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => load(false).catch(showProblem), 250); });
more.addEventListener("click", () => act(more, () => load(true)));
document.addEventListener("song-started", ({ detail }) => {
  const card = cardOf(detail);
  cards.unshift(card);
  total += 1;
  list.prepend(card.element);
  showCounts();
  card.element.scrollIntoView({ block: "nearest" });
});
load(false).catch(showProblem);
