// The audio element with a picture of the track: the waveform, the place in it, and where lines are sung.

const BAR = 3; // pixels from one bar to the next
const QUIET = 20; // the picture of a track that is quieter than this (of 100) is not stretched any further

export class Player {
  constructor(audio, canvas) {
    this.audio = audio;
    this.canvas = canvas;
    this.peaks = [];
    this.lines = [];
    this.duration = 0;
    this.stopAt = null;
    audio.addEventListener("timeupdate", () => this.moved());
    audio.addEventListener("seeked", () => this.draw());
    audio.addEventListener("play", () => this.follow());
    canvas.addEventListener("pointerdown", (event) => {
      this.seek((event.offsetX / canvas.clientWidth) * this.duration);
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  load(address, duration, isSamePlace) {
    const place = isSamePlace ? this.audio.currentTime : 0;
    const wasPlaying = isSamePlace && !this.audio.paused;
    this.duration = duration;
    this.stopAt = null;
    this.peaks = [];
    this.audio.src = address;
    this.audio.currentTime = place;
    if (wasPlaying) this.audio.play();
    this.draw();
  }

  stop() {
    this.audio.pause();
    this.audio.removeAttribute("src");
    this.audio.load();
  }

  toggle() {
    this.stopAt = null;
    if (this.audio.paused) this.audio.play();
    else this.audio.pause();
  }

  seek(time) {
    this.stopAt = null;
    this.audio.currentTime = Math.min(Math.max(time, 0), this.duration);
    this.draw();
  }

  playPart(start, end) {
    this.audio.currentTime = start;
    this.stopAt = end;
    this.audio.play();
  }

  moved() {
    if (this.stopAt !== null && this.audio.currentTime >= this.stopAt) {
      this.audio.pause();
      this.stopAt = null;
    }
    this.draw();
  }

  follow() {
    if (this.audio.paused) return;
    this.moved();
    requestAnimationFrame(() => this.follow());
  }

  draw() {
    const { canvas, peaks, duration } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const scale = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
    if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!duration) return;
    for (const time of this.lines) {
      if (!time) continue;
      pen.fillStyle = color("--wash");
      pen.fillRect((time[0] / duration) * width, 0, ((time[1] - time[0]) / duration) * width, height);
      pen.fillStyle = color("--accent");
      pen.fillRect((time[0] / duration) * width, 0, 1, height);
    }
    const place = (this.audio.currentTime / duration) * width;
    const bars = Math.max(1, Math.floor(width / BAR));
    const loudest = Math.max(QUIET, ...peaks);
    for (let bar = 0; bar < bars && peaks.length; bar += 1) {
      const from = Math.floor((bar / bars) * peaks.length);
      const to = Math.max(from + 1, Math.floor(((bar + 1) / bars) * peaks.length));
      const tall = Math.max(1, (Math.max(...peaks.slice(from, to)) / loudest) * (height - 8));
      pen.fillStyle = bar * BAR < place ? color("--accent") : color("--soft");
      pen.fillRect(bar * BAR, (height - tall) / 2, BAR - 1, tall);
    }
    pen.fillStyle = color("--bad");
    pen.fillRect(place, 0, 2, height);
  }
}
