// Sound of a player: several files decoded, started together and so always in step; one player plays at a time.

const DECODING_RATE = 48000; // samples a second after decoding; the browser resamples files with another rate
const RAMP_SECONDS = 0.01; // changes of a level take this long, so that they do not click

const KEPT = 6; // players whose sound is kept decoded, 23 MB a minute of stereo each; others are decoded again when needed

let context = null;
let playing = null;
const decodedOnes = []; // playbacks with decoded sound; the one that was needed last is the last

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

/** Notes that a playback is needed, and lets the sound of those go that were not needed for longest. */
function keep(playback) {
  release(playback);
  decodedOnes.push(playback);
  for (const other of decodedOnes.slice(0, -KEPT)) if (!other.isPlaying) other.drop();
}

function release(playback) {
  if (decodedOnes.includes(playback)) decodedOnes.splice(decodedOnes.indexOf(playback), 1);
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
  #isWanted = false;
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
    this.durations = []; // in seconds, of each file; they stay when the buffers go
  }

  /** Fetches and decodes the files, unless their sound is still kept. */
  load() {
    if (this.buffers.length) keep(this);
    this.#loading ??= this.#decode();
    return this.#loading;
  }

  async #decode() {
    this.#isWanted = true;
    try {
      const buffers = await Promise.all(this.#urls.map(decoded));
      this.durations = buffers.map((buffer) => buffer.duration);
      if (!this.#isWanted) return; // its player has left the page meanwhile
      this.buffers = buffers;
      keep(this);
    } catch (error) {
      this.#loading = null; // so that it can be tried again
      throw error;
    }
  }

  /** Lets the decoded sound go; `load` decodes it again. */
  drop() {
    release(this);
    this.buffers = [];
    this.#loading = null;
    this.#isWanted = false;
  }

  get isPlaying() { return this.#startedAt !== null; }
  get duration() { return Math.max(0, ...this.durations); }

  get currentTime() {
    const passed = this.isPlaying ? audioOutput().currentTime - this.#startedAt : 0;
    return Math.max(0, Math.min(this.duration, this.#start + passed));
  }

  async play() {
    const output = audioOutput();
    await output.resume();
    await this.load(); // the last: what was decoded before could be let go meanwhile
    if (this.isPlaying || !this.buffers.length) return; // it was removed meanwhile
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
