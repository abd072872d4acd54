// Plays WAV files while they are written: new bytes are fetched and scheduled one after the other, without gaps.

import { act, el, setText, t } from "./page.js";
import { takeOutput } from "./playback.js";

const AHEAD_SECONDS = 1; // that must have arrived before it starts, or starts again after a pause of the writer

/** Returns where samples begin in a WAV file and of which form they are; null while its head has not arrived. */
export function wavHead(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = (place) => String.fromCharCode(...bytes.subarray(place, place + 4));
  let form = null;
  for (let place = 12; place + 8 <= bytes.length;) {
    const size = view.getUint32(place + 4, true);
    if (name(place) === "fmt " && place + 24 <= bytes.length) {
      form = { channels: view.getUint16(place + 10, true), rate: view.getUint32(place + 12, true), bits: view.getUint16(place + 22, true) };
    }
    if (name(place) === "data" && form) return { ...form, start: place + 8 };
    place += 8 + size + (size % 2);
  }
  return null;
}

/** One file that grows: what of it has arrived and was not scheduled yet. */
class Track {
  constructor({ label, url }) {
    this.label = label;
    this.url = url;
    this.bytes = new Uint8Array();
    this.offset = 0;
    this.head = null;
  }

  /** Fetches what the file has gained; the size of the file is known, so no request asks for more than there is. */
  async fetch(size) {
    if (size <= this.offset) return;
    const response = await fetch(this.url, { headers: { Range: `bytes=${this.offset}-${size - 1}` } });
    if (response.status !== 206) return;
    const news = new Uint8Array(await response.arrayBuffer());
    this.offset += news.length;
    const all = new Uint8Array(this.bytes.length + news.length);
    all.set(this.bytes);
    all.set(news, this.bytes.length);
    this.bytes = all;
    if (!this.head) {
      this.head = wavHead(all);
      if (this.head) this.bytes = all.subarray(this.head.start);
    }
  }

  get frameBytes() { return this.head.channels * this.head.bits / 8; }
  get frames() { return this.head ? Math.floor(this.bytes.length / this.frameBytes) : 0; }

  /** Takes frames away, as a buffer to play. */
  take(context, frames) {
    const { channels, rate } = this.head;
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset, frames * this.frameBytes);
    const buffer = context.createBuffer(channels, frames, rate);
    for (let channel = 0; channel < channels; channel += 1) {
      const samples = buffer.getChannelData(channel);
      for (let i = 0; i < frames; i += 1) samples[i] = view.getInt16(2 * (i * channels + channel), true) / 32768;
    }
    this.bytes = this.bytes.slice(frames * this.frameBytes);
    return buffer;
  }
}

/** A player of a song that is being written, as one file or as tracks that sound together. */
export class GrowingSound {
  #tracks;
  #context = null;
  #gains = [];
  #next = 0; // time of the output at which the next samples begin
  #isOn = false;
  #isFetching = false;
  scheduledSeconds = 0;

  constructor(container, { title, tracks }) {
    this.#tracks = tracks.map((track) => new Track(track));
    this.button = el("button", { type: "button", onclick: () => act(this.button, () => this.#toggle()) }, t("Listen now"));
    this.status = el("span", { class: "soft", role: "status" });
    const mutes = tracks.length < 2 ? [] : tracks.map(({ label }, index) => el("button", {
      type: "button", "aria-pressed": "true", onclick: (event) => this.#mute(index, event.currentTarget),
    }, label));
    this.element = el("div", { class: "player row", role: "group", "aria-label": title }, this.button, el("span", {}, title), ...mutes, this.status);
    container.append(this.element);
  }

  get currentTime() {
    return this.#context ? this.scheduledSeconds - Math.max(0, this.#next - this.#context.currentTime) : 0;
  }

  pause() {
    this.#isOn = false;
    this.button.textContent = t("Listen now");
    return this.#context?.suspend();
  }

  async #toggle() {
    if (this.#isOn) {
      await this.pause();
      return;
    }
    this.#context ??= new AudioContext();
    await this.#context.resume();
    takeOutput(this);
    this.#isOn = true;
    this.button.textContent = t("Pause");
    if (!this.#gains.length) {
      this.#gains = this.#tracks.map(() => new GainNode(this.#context));
      for (const gain of this.#gains) gain.connect(this.#context.destination);
    }
  }

  #mute(index, button) {
    const isHeard = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(isHeard));
    if (this.#gains.length) this.#gains[index].gain.value = isHeard ? 1 : 0;
  }

  /** Takes what has been written since; `sizes` are bytes by track. Called again and again while the song is generated. */
  async update(sizes, isOver = false) {
    if (!this.#isOn || this.#isFetching) return;
    this.#isFetching = true;
    try {
      await Promise.all(this.#tracks.map((track, index) => track.fetch(sizes[index])));
    } finally {
      this.#isFetching = false;
    }
    const frames = Math.min(...this.#tracks.map((track) => track.frames));
    if (frames === 0) {
      setText(this.status, isOver ? "" : t("waiting for more…"));
      return;
    }
    const { rate } = this.#tracks[0].head;
    const now = this.#context.currentTime;
    if (this.#next < now) { // it begins, or the writer was slower than the sound
      if (frames < AHEAD_SECONDS * rate && !isOver) return;
      this.#next = now + 0.1;
    }
    this.#tracks.forEach((track, index) => {
      const source = new AudioBufferSourceNode(this.#context, { buffer: track.take(this.#context, frames) });
      source.connect(this.#gains[index]);
      source.start(this.#next);
    });
    this.#next += frames / rate;
    this.scheduledSeconds += frames / rate;
    setText(this.status, t("{seconds} s so far", { seconds: this.scheduledSeconds.toFixed(0) }));
  }

  /** Takes the rest of a song that is complete; the player leaves the page when it has been heard or is paused. */
  async finish(sizes) {
    try {
      await this.update(sizes, true);
    } finally {
      const left = this.#isOn ? this.#next - this.#context.currentTime : 0;
      setTimeout(() => this.remove(), Math.max(0, left) * 1000);
    }
  }

  remove() {
    this.#isOn = false;
    this.element.remove();
    this.#context?.close();
  }
}
