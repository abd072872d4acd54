// Sound of a player: several files decoded, started together and so always in step; one player plays at a time.

const DECODING_RATE = 48000; // samples a second after decoding; the browser resamples files with another rate
const RAMP_SECONDS = 0.01; // changes of a level take this long, so that they do not click

let context = null;
let playing = null;

/** Returns the audio output of the page. It begins with the first sound: browsers allow none before a click or key. */
export function audioOutput() {
  context ??= new AudioContext();
  return context;
}

/** Makes a player the one that is heard; the one before is paused. It needs a method `pause`. */
export function takeOutput(player) {
  if (playing && playing !== player) playing.pause();
  playing = player;
}

/** Returns the sound of a file, decoded. */
async function decoded(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `HTTP ${response.status}`);
  // A context without output decodes as well, and may be made before the first click.
  return new OfflineAudioContext(1, 1, DECODING_RATE).decodeAudioData(await response.arrayBuffer());
}

/** Files that play together. Events: "change" when it starts, stops, or ends. */
export class Playback extends EventTarget {
  #urls;
  #loading = null;
  #sources = [];
  #gains = [];
  #levels;
  #start = 0; // position at which the sources were started, or at which it was paused
  #startedAt = null; // time of the output at that moment; null while paused

  constructor(urls) {
    super();
    this.#urls = urls;
    this.#levels = urls.map(() => 1);
    this.buffers = [];
  }

  /** Fetches and decodes the files once. */
  load() {
    this.#loading ??= Promise.all(this.#urls.map(decoded)).then((buffers) => { this.buffers = buffers; }, (error) => {
      this.#loading = null; // so that it can be tried again
      throw error;
    });
    return this.#loading;
  }

  get isLoaded() { return this.buffers.length > 0; }
  get isPlaying() { return this.#startedAt !== null; }
  get duration() { return Math.max(0, ...this.buffers.map((buffer) => buffer.duration)); }

  get currentTime() {
    const passed = this.isPlaying ? audioOutput().currentTime - this.#startedAt : 0;
    return Math.max(0, Math.min(this.duration, this.#start + passed));
  }

  async play() {
    const output = audioOutput();
    await Promise.all([this.load(), output.resume()]);
    if (this.isPlaying) return;
    takeOutput(this);
    if (this.#start >= this.duration - 0.05) this.#start = 0;
    const when = output.currentTime + 0.02; // a moment ahead, so that all sources begin with the same sample
    this.#gains = this.#levels.map((level) => new GainNode(output, { gain: level }));
    this.#sources = this.buffers.map((buffer, index) => {
      const source = new AudioBufferSourceNode(output, { buffer });
      source.connect(this.#gains[index]).connect(output.destination);
      if (this.#start < buffer.duration) source.start(when, this.#start);
      return source;
    });
    const last = this.#sources[this.buffers.findIndex((buffer) => buffer.duration === this.duration)];
    last.onended = () => { if (this.#sources.includes(last)) { this.pause(); this.seek(this.duration); } };
    this.#startedAt = when;
    this.dispatchEvent(new Event("change"));
  }

  pause() {
    if (!this.isPlaying) return;
    this.#start = this.currentTime;
    this.#startedAt = null;
    for (const source of this.#sources) {
      source.onended = null;
      source.disconnect();
    }
    for (const gain of this.#gains) gain.disconnect();
    this.#sources = [];
    this.#gains = [];
    this.dispatchEvent(new Event("change"));
  }

  seek(seconds) {
    const isOn = this.isPlaying;
    this.pause();
    this.#start = Math.max(0, Math.min(this.duration, seconds));
    if (isOn && this.#start < this.duration) this.play();
    else this.dispatchEvent(new Event("change"));
  }

  /** Sets how loud each file is, 1 as it is. */
  setLevels(levels) {
    this.#levels = levels;
    if (!this.isPlaying) return;
    const now = audioOutput().currentTime;
    levels.forEach((level, index) => this.#gains[index].gain.setTargetAtTime(level, now, RAMP_SECONDS / 3));
  }
}
