// A generated song on the page: state and progress while it is generated, players, settings, downloads.

import { act, badgeClass, el, formatBytes, formatDuration, formatTime, poll, request, setText, t, trackName } from "./page.js";
import { fileUrl, makePlayer } from "./player.js";
import { GrowingSound } from "./stream.js";

const SHOWN = 4; // songs of one request, and links, that are shown at once; more are folded

function folded(title, ...children) {
  return el("details", { class: "stack" }, el("summary", {}, title), ...children.flatMap((child) => [child, " "]));
}

/** Returns the name of a take for a reader: its model and adapters. */
function takeName({ name, model, adapter }, isAlone) {
  const parts = [model, ...adapter].join(" + ");
  return isAlone ? parts : `${name.toUpperCase()}: ${parts}`;
}

function titleOf(song) {
  const text = (song.caption || song.lyrics || song.name || "").trim().split("\n")[0];
  return text.length > 90 ? `${text.slice(0, 88)}…` : text || song.name;
}

export class SongCard {
  #song = null;
  #players = [];
  #streams = new Map();
  #parts = {};
  #isBlind = false;

  constructor(song, onDeleted) {
    const parts = this.#parts;
    this.onDeleted = onDeleted;
    parts.state = el("span", { class: "badge", role: "status" });
    parts.progress = el("progress", { "aria-label": t("Progress") });
    parts.left = el("span", { class: "soft" });
    parts.stop = el("button", { type: "button", onclick: () => act(parts.stop, () => this.#stop()) }, t("Stop"));
    parts.work = el("div", { class: "row" }, el("span", { class: "grow" }, parts.progress), parts.left, parts.stop);
    parts.again = el("button", { type: "button", onclick: () => act(parts.again, () => this.#again()) }, t("Generate again"));
    parts.log = el("a", {}, t("Output of the command"));
    parts.reason = el("p");
    parts.problem = el("div", { class: "notice bad stack", hidden: true }, parts.reason, el("div", { class: "row" }, parts.again, parts.log));
    parts.streams = el("div", { class: "stack" });
    parts.players = el("div", { class: "stack" });
    parts.remove = el("button", { type: "button", class: "bad", onclick: () => act(parts.remove, () => this.#delete()) }, t("Delete"));
    parts.downloads = el("div", { class: "row" });
    this.element = el("article", { class: "card song", "data-song": song.name, "aria-label": titleOf(song) },
      el("div", { class: "row" }, el("h3", {}, titleOf(song)), parts.state, el("span", { class: "soft" }, formatTime(song.created))));
    if (!song.problem) this.element.append(this.#summary(song));
    this.element.append(parts.work, parts.problem, parts.streams, parts.players);
    if (!song.problem) this.element.append(this.#settings(song));
    this.element.append(el("div", { class: "row" }, song.problem ? null : el("button", {
      type: "button", onclick: () => document.dispatchEvent(new CustomEvent("use-settings", { detail: this.#song })),
    }, t("Use these settings again")), parts.downloads, el("span", { class: "grow" }), parts.remove));
    this.#show(song);
  }

  get name() { return this.#song.name; }

  /** Ends the players, for an element that is taken from the page. */
  remove() {
    for (const player of this.#players) player.remove();
    for (const stream of this.#streams.values()) stream.remove();
    this.stopWatching?.();
    this.element.remove();
  }

  #summary(song) {
    return el("p", { class: "soft" }, t("Seed {seed}", { seed: song.options.seed ?? "–" }), " · ",
      ...song.takes.flatMap((take, index) => [index ? " / " : "", takeName(take, song.takes.length === 1)]));
  }

  #settings(song) {
    const rows = [
      ...song.takes.map((take) => [song.takes.length === 1 ? t("Model") : t("Model {letter}", { letter: take.name.toUpperCase() }), [take.model, ...take.adapter].join("\n")]),
      ...Object.entries(song.options).map(([name, value]) => [`--${name}`, String(value)]), [t("Folder"), song.folder],
    ];
    const details = el("details", {}, el("summary", {}, t("Request")));
    const body = el("div", { class: "stack" }, el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
    if (song.caption) body.append(el("strong", {}, t("Caption")), el("pre", {}, song.caption));
    if (song.lyrics) body.append(el("strong", {}, t("Lyrics")), el("pre", {}, song.lyrics));
    details.append(body);
    return details;
  }

  /** Shows a state; the card watches its song as long as it is generated. */
  #show(song) {
    const parts = this.#parts;
    const isFirst = this.#song === null;
    const wasActive = this.#song?.is_active ?? false;
    this.#song = song;
    setText(parts.state, t(song.state));
    parts.state.className = badgeClass(song.state);
    parts.work.hidden = !song.is_active;
    parts.stop.hidden = !song.can_be_stopped; // in a terminal, Ctrl+C does
    this.#showProgress(song);
    parts.problem.hidden = song.is_active || (song.state === "finished" && !song.problem);
    parts.reason.textContent = song.problem || song.reason || this.#explanation(song.state);
    parts.again.hidden = Boolean(song.problem);
    parts.log.hidden = !song.job;
    if (song.job) parts.log.href = `/jobs/${encodeURIComponent(song.job)}`;
    parts.remove.disabled = song.is_active;
    this.#showStreams(song);
    if (isFirst || wasActive !== song.is_active) this.#showPlayers(song, wasActive);
    if (song.is_active && !this.stopWatching) {
      this.stopWatching = poll(() => this.#update(), 1);
    } else if (!song.is_active) {
      this.stopWatching?.();
      this.stopWatching = null;
    }
  }

  async #update() {
    try {
      this.#show((await request(`/api/songs/${encodeURIComponent(this.name)}`)).song);
    } catch (error) {
      if (error.status !== 422) throw error; // the server is away; it is asked again
      this.#parts.reason.textContent = error.message; // the folder is away
      this.#parts.problem.hidden = false;
      this.#parts.work.hidden = true;
      return false;
    }
    return this.#song.is_active;
  }

  #explanation(state) {
    if (state === "stopped") return t("It was stopped before the song was complete.");
    if (state === "unfinished") return t("It was never started; the page may have been stopped at that moment.");
    return t("The command has ended without a result; its output may say why.");
  }

  #showProgress({ progress, takes }) {
    const { progress: bar, left } = this.#parts;
    const [phase, letter] = (progress?.phase ?? "").split(" ");
    const take = takes && takes.length > 1 && letter ? `${letter.toUpperCase()}: ` : "";
    if (phase === "generating" && progress.total) {
      bar.max = progress.total;
      bar.value = progress.done;
      const steps = t("step {done} of {total}", { done: progress.done, total: progress.total });
      left.textContent = progress.seconds_left === null ? `${take}${steps}` : `${take}${steps}, ${t("{time} left", { time: formatDuration(progress.seconds_left) })}`;
    } else {
      bar.removeAttribute("value");
      left.textContent = phase === "opening" ? `${take}${t("opening the model")}` : t("starting");
    }
  }

  /** Players of files that grow, of the take that is generated now. */
  #showStreams(song) {
    const isGrowing = song.is_active && song.options?.stream && song.ending === ".wav";
    const letter = song.progress?.phase.split(" ")[1];
    for (const [key, stream] of this.#streams) {
      const files = this.#filesOf(song, key);
      const isOver = !isGrowing || !key.startsWith(letter);
      const sizes = files.map((file) => file.bytes);
      if (isOver) {
        this.#streams.delete(key);
        stream.finish(sizes).catch(() => {}); // what is missing is in the players of the complete song
      } else {
        stream.update(sizes).catch(() => {}); // the next call fetches what is missing
      }
    }
    if (!isGrowing) return;
    for (const { take, song: number } of song.files) {
      const key = `${take}-${number}`;
      if (take !== letter || number >= SHOWN || this.#streams.has(key)) continue;
      const tracks = this.#filesOf(song, key).map((file) => ({ label: trackName(file.track), url: fileUrl(file.path) }));
      this.#streams.set(key, new GrowingSound(this.#parts.streams, { title: t("Song {n}", { n: number + 1 }), tracks }));
    }
  }

  /** The tracks of a song, or its mix if it has none. */
  #filesOf(song, key) {
    const files = (song.files ?? []).filter((file) => `${file.take}-${file.song}` === key);
    const tracks = files.filter((file) => file.track);
    return tracks.length ? tracks : files;
  }

  /** Players of what is complete; `isNew` loads them, so that a song that has just ended is seen at once. */
  #showPlayers(song, isNew = false) {
    for (const player of this.#players.splice(0)) player.remove();
    const { players, downloads } = this.#parts;
    players.replaceChildren();
    downloads.replaceChildren();
    if (song.is_active || song.problem) return;
    const mixes = song.files.filter((file) => !file.track);
    const numbers = [...new Set(mixes.map((file) => file.song))];
    if (song.takes.length > 1 && mixes.length) players.append(this.#blindSwitch());
    const rest = folded(t("{n} more songs", { n: numbers.length - SHOWN }));
    for (const number of numbers) {
      const title = t("Song {n}", { n: number + 1 });
      const of = mixes.filter((file) => file.song === number);
      const tracks = of.map((file) => ({ label: this.#takeOf(file), url: fileUrl(file.path) }));
      const place = numbers.indexOf(number) < SHOWN ? players : rest;
      this.#players.push(makePlayer(place, { title, tracks, mode: "switch", isBlind: this.#isBlind && tracks.length > 1, load: isNew && place === players }));
      for (const { take } of of) place.append(...this.#tracksOf(song, take, number, numbers.length > 1));
    }
    if (numbers.length > SHOWN) players.append(rest);
    const links = song.files.map((file) => el("a", { href: fileUrl(file.path, { isDownload: true }), download: true },
      `${file.path.split("/").pop()} (${formatBytes(file.bytes)})`));
    downloads.append(...(links.length > SHOWN ? [folded(t("Download {n} files", { n: links.length }), ...links)] : links));
  }

  #takeOf(file) {
    return takeName(this.#song.takes.find((take) => take.name === file.take), this.#song.takes.length === 1);
  }

  #blindSwitch() {
    const input = el("input", { type: "checkbox", onchange: () => { this.#isBlind = input.checked; this.#showPlayers(this.#song); } });
    input.checked = this.#isBlind;
    return el("label", { class: "switch" }, input, t("Compare blind: hide which is which"));
  }

  /** The tracks of a dual-track song, to mute and to mix; their player is made when it is opened. */
  #tracksOf(song, take, number, isNumbered) {
    const files = song.files.filter((file) => file.take === take && file.song === number && file.track);
    if (!files.length) return [];
    const title = [song.takes.length > 1 ? take.toUpperCase() : "", isNumbered ? number + 1 : ""].filter((text) => text !== "").join(" ");
    const details = el("details", {}, el("summary", {}, t("Tracks {name}", { name: title })));
    details.addEventListener("toggle", () => {
      if (!details.open || details.querySelector(".player")) return;
      const tracks = files.map((file) => ({ label: trackName(file.track), url: fileUrl(file.path) }));
      this.#players.push(makePlayer(details, { title: t("Tracks {name}", { name: title }), tracks, load: true }));
    });
    return [details];
  }

  #stop() {
    return request(`/api/jobs/${encodeURIComponent(this.#song.job)}/stop`, {});
  }

  async #again() {
    this.#show((await request(`/api/songs/${encodeURIComponent(this.name)}/start`, {})).song);
  }

  async #delete() {
    if (!confirm(t("Move this song to the trash (outputs/.trash)?"))) return;
    await request(`/api/songs/${encodeURIComponent(this.name)}/delete`, {});
    this.remove();
    this.onDeleted();
  }
}
