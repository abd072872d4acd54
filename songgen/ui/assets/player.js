// A player of one sound, of several that belong together (tracks of a song), or of alternatives to compare.
//
//   import { makePlayer } from "./player.js";
//   const player = makePlayer(container, { title: "Song 1", tracks: [{ label: "Mix", url: fileUrl("outputs/a.wav") }] });
//
// Options: `mode` "layers" (all tracks sound together, each with mute, solo and level) or "switch" (one of the tracks
// sounds, and another can be chosen at the same position); `isBlind` shows numbers instead of labels until they are
// revealed; `load` fetches the sound at once instead of at the first use.
// The result has `play()`, `pause()`, `seek(seconds)`, `select(index)`, `currentTime`, `duration`, `remove()`.

import { act, el, showProblem, t } from "./page.js";
import { Playback } from "./playback.js";
import { drawSpectrogram, drawWaveforms, monoOf, peaksOf } from "./spectrogram.js";

const PEAKS = 2000;
const STEPS = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -5, PageUp: 5 };
const STEP_SECONDS = 5; // of an arrow key; less in a short sound

if (!document.querySelector('link[href="/assets/player.css"]')) {
  document.head.append(el("link", { rel: "stylesheet", href: "/assets/player.css" }));
}

/** Returns the address of a file of the workspace; `isDownload` saves it instead of showing it. */
export function fileUrl(path, { isDownload = false } = {}) {
  return `/files/${encodeURIComponent(path)}${isDownload ? "?download=1" : ""}`;
}

/** Returns seconds as 1:05. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Puts a player into an element, and returns it; see above. */
export function makePlayer(container, options) {
  const player = new Player(options);
  container.append(player.element);
  return player;
}

class Player {
  #tracks;
  #isSwitch;
  #playback;
  #peaks = [];
  #parts = {};
  #states; // of each track: isMuted, isSolo, level
  #chosen = 0;
  #order; // numbers of the tracks as they are shown: shuffled while names are hidden
  #isBlind;
  #observer;
  #ending = new AbortController(); // ends what would keep a removed player, with its sound, in memory
  #frame = 0;
  #spectrumWidth = 0;

  constructor({ tracks, title = "", mode = "layers", isBlind = false, load = false }) {
    this.#tracks = tracks;
    this.#isSwitch = mode === "switch";
    this.#isBlind = isBlind && this.#isSwitch;
    this.#order = tracks.map((_, index) => index);
    if (this.#isBlind) shuffle(this.#order);
    this.#chosen = this.#order[0];
    this.#states = tracks.map(() => ({ isMuted: false, isSolo: false, level: 1 }));
    this.#playback = new Playback(tracks.map((track) => track.url));
    this.#playback.addEventListener("change", () => this.#show());
    this.element = this.#build(title);
    this.#observer = new ResizeObserver(() => this.#onResize());
    this.#observer.observe(this.#parts.wave);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw(), { signal: this.#ending.signal });
    this.#setLevels();
    this.#show();
    if (load) this.load().catch(showProblem);
  }

  get currentTime() { return this.#playback.currentTime; }
  get duration() { return this.#playback.duration; }
  get isPlaying() { return this.#playback.isPlaying; }
  get selected() { return this.#chosen; }

  async load() {
    if (this.#peaks.length) return;
    this.#parts.time.textContent = t("loading…");
    try {
      await this.#playback.load();
    } catch (error) {
      this.#parts.time.textContent = t("cannot be played");
      throw error;
    }
    this.#parts.hint.remove();
    this.#peaks = this.#playback.buffers.map((buffer) => peaksOf(monoOf(buffer), PEAKS));
    this.#draw();
    this.#show();
  }

  async play() {
    await this.load();
    if (!this.#ending.signal.aborted) await this.#playback.play();
  }

  pause() { this.#playback.pause(); }

  async seek(seconds) {
    await this.load();
    this.#playback.seek(seconds);
  }

  /** Makes another of the alternatives heard, at the same position. */
  select(index) {
    this.#chosen = index;
    this.#setLevels();
    this.#draw();
    if (!this.#parts.spectrum.hidden) this.#drawSpectrum().catch(showProblem);
  }

  remove() {
    this.#ending.abort();
    this.pause();
    this.#playback.drop();
    this.#observer.disconnect();
    this.element.remove();
  }

  #build(title) {
    const parts = this.#parts;
    parts.play = el("button", { type: "button", class: "player-play", onclick: () => this.#toggle() });
    parts.time = el("span", { class: "player-time" });
    parts.wave = el("canvas", { class: "player-wave", "aria-hidden": "true" });
    parts.head = el("div", { class: "player-head" });
    parts.hint = el("span", { class: "player-hint" }, t("Click here or press play"));
    parts.slider = el("div", {
      class: "player-slider", role: "slider", tabindex: "0", "aria-label": t("Position in {title}", { title }),
      "aria-valuemin": "0", onkeydown: (event) => this.#onKey(event),
    }, parts.wave, parts.head, parts.hint);
    parts.slider.style.setProperty("--lanes", this.#isSwitch ? 1 : this.#tracks.length);
    this.#connectPointer(parts.slider);
    parts.spectrum = el("div", { class: "player-spectra", hidden: true });
    parts.open = el("button", {
      type: "button", "aria-pressed": "false", onclick: (event) => act(event.currentTarget, () => this.#toggleSpectrum()),
    }, t("Spectrogram"));
    const element = el(
      "div", { class: "player", role: "group", "aria-label": title },
      el("div", { class: "row" }, parts.play, el("span", { class: "grow player-title" }, title), parts.time, parts.open),
      parts.slider, parts.spectrum,
    );
    if (this.#tracks.length > 1) element.append(this.#isSwitch ? this.#buildSwitch() : this.#buildMixer());
    return element;
  }

  #buildSwitch() {
    this.#parts.choices = new Map(this.#order.map((index) => [index, el("button", {
      type: "button", "data-track": index, onclick: () => this.select(index),
    })]));
    const reveal = el("button", { type: "button", onclick: () => { this.#isBlind = false; this.#nameChoices(); reveal.remove(); } },
      t("Reveal the names"));
    this.#nameChoices();
    return el("div", { class: "row", role: "group", "aria-label": t("Version you hear") },
      ...this.#parts.choices.values(), this.#isBlind ? reveal : null);
  }

  #nameChoices() {
    this.#order.forEach((index, place) => {
      this.#parts.choices.get(index).textContent = this.#isBlind ? String(place + 1) : this.#tracks[index].label;
    });
  }

  #buildMixer() {
    return el("div", { class: "player-mixer" }, ...this.#tracks.map(({ label }, index) => {
      const state = this.#states[index];
      const toggle = (name, text) => el("button", {
        type: "button", "aria-pressed": "false", "aria-label": `${text}: ${label}`,
        onclick: (event) => {
          state[name] = !state[name];
          event.currentTarget.setAttribute("aria-pressed", String(state[name]));
          this.#setLevels();
          this.#draw();
        },
      }, text);
      return el("div", { class: "row" },
        el("span", { class: "player-track" }, label), toggle("isMuted", t("Mute")), toggle("isSolo", t("Solo")),
        el("input", {
          type: "range", min: "0", max: "1.5", step: "0.01", value: "1", "aria-label": t("Level of {track}", { track: label }),
          oninput: (event) => { state.level = Number(event.currentTarget.value); this.#setLevels(); },
        }));
    }));
  }

  #levels() {
    if (this.#isSwitch) return this.#tracks.map((_, index) => (index === this.#chosen ? 1 : 0));
    const isAnySolo = this.#states.some((state) => state.isSolo);
    return this.#states.map((state) => (state.isMuted || (isAnySolo && !state.isSolo) ? 0 : state.level));
  }

  #setLevels() {
    this.#playback.setLevels(this.#levels());
    this.#parts.choices?.forEach((button, index) => button.setAttribute("aria-pressed", String(index === this.#chosen)));
  }

  #toggle() {
    if (this.isPlaying) this.pause();
    else act(this.#parts.play, () => this.play());
  }

  #connectPointer(slider) {
    const seek = (event) => {
      const { left, width } = slider.getBoundingClientRect();
      this.seek((event.clientX - left) / width * this.duration).catch(showProblem);
    };
    slider.addEventListener("pointerdown", async (event) => {
      if (event.button !== 0) return;
      slider.setPointerCapture(event.pointerId);
      await this.load().then(() => seek(event), showProblem);
    });
    slider.addEventListener("pointermove", (event) => {
      if (slider.hasPointerCapture(event.pointerId) && this.#peaks.length) seek(event);
    });
  }

  #onKey(event) {
    const step = Math.min(STEP_SECONDS, this.duration / 20);
    const place = { Home: 0, End: this.duration }[event.key] ?? (this.currentTime + step * STEPS[event.key]);
    if (event.key === " " || event.key === "Enter") this.#toggle();
    else if (Number.isFinite(place)) this.seek(place).catch(showProblem);
    else return;
    event.preventDefault();
  }

  async #toggleSpectrum() {
    const { spectrum, open } = this.#parts;
    await this.load();
    spectrum.hidden = !spectrum.hidden;
    open.setAttribute("aria-pressed", String(!spectrum.hidden));
    if (!spectrum.hidden) await this.#drawSpectrum();
  }

  async #drawSpectrum() {
    const shown = this.#isSwitch ? [this.#chosen] : this.#tracks.map((_, index) => index);
    const pictures = shown.map((index) => el("canvas", {
      class: "player-spectrum", role: "img",
      "aria-label": t("Spectrogram of {track}", { track: this.#isBlind ? "?" : this.#tracks[index].label }),
    }));
    this.#parts.spectrum.replaceChildren(...pictures);
    this.#spectrumWidth = pictures[0].clientWidth;
    await this.#playback.load();
    const { buffers } = this.#playback;
    for (const [place, index] of shown.entries()) {
      if (buffers[index]) await drawSpectrogram(pictures[place], buffers[index], this.duration); // it may be removed
    }
  }

  #onResize() {
    this.#draw();
    const [picture] = this.#parts.spectrum.children;
    if (picture && Math.abs(picture.clientWidth - this.#spectrumWidth) > 1) this.#drawSpectrum().catch(showProblem);
  }

  #draw() {
    if (!this.#peaks.length || !this.#parts.wave.clientWidth) return;
    const levels = this.#levels();
    const waveforms = this.#peaks.map((peaks, index) => ({
      peaks, seconds: this.#playback.durations[index], isHeard: levels[index] > 0,
    }));
    drawWaveforms(this.#parts.wave, this.#isSwitch ? [waveforms[this.#chosen]] : waveforms, this.duration);
  }

  /** Shows the position, again and again while it plays. */
  #show() {
    const { play, time, slider, head } = this.#parts;
    const { currentTime, duration, isPlaying } = this;
    const text = isPlaying ? t("Pause") : t("Play");
    if (play.getAttribute("aria-label") !== text) {
      play.setAttribute("aria-label", text);
      play.textContent = isPlaying ? "❚❚" : "▶";
    }
    slider.setAttribute("aria-valuemax", duration.toFixed(1));
    slider.setAttribute("aria-valuenow", currentTime.toFixed(1));
    slider.setAttribute("aria-valuetext", t("{now} of {all}", { now: clock(currentTime), all: clock(duration) }));
    if (this.#peaks.length) time.textContent = `${clock(currentTime)} / ${clock(duration)}`;
    head.style.left = `${duration ? 100 * currentTime / duration : 0}%`;
    cancelAnimationFrame(this.#frame); // one call for each picture, however often it is called besides
    if (isPlaying) this.#frame = requestAnimationFrame(() => this.#show());
  }
}

function shuffle(items) {
  for (let i = items.length - 1; i > 0; i -= 1) {
    const j = Math.floor(Math.random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
}
