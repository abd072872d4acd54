// Pictures of sound: waveform and spectrogram of decoded audio, drawn into a canvas.

const WINDOW = 2048; // samples of one spectrum; a power of two
const ROWS = 160;
const LOWEST_HZ = 40;
const HIGHEST_HZ = 20000;
const RANGE_DB = 80; // what is this much below the loudest point is as dark as silence
const COLUMNS_AT_ONCE = 64; // spectra between two pauses, in which the page can answer
const TICKS_HZ = [100, 1000, 10000];

/** Transforms complex numbers in place (radix 2): `real` and `imaginary` have a power of two as their length. */
export function fft(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i += 1) { // order of reversed bits
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let length = 2; length <= size; length *= 2) {
    const half = length / 2;
    for (let k = 0; k < half; k += 1) {
      const angle = -2 * Math.PI * k / length;
      const c = Math.cos(angle);
      const s = Math.sin(angle);
      for (let a = k; a < size; a += length) {
        const b = a + half;
        const re = real[b] * c - imaginary[b] * s;
        const im = real[b] * s + imaginary[b] * c;
        real[b] = real[a] - re;
        imaginary[b] = imaginary[a] - im;
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
}

/** Returns the mean of the channels of decoded audio. */
export function monoOf(buffer) {
  if (buffer.numberOfChannels === 1) return buffer.getChannelData(0);
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel += 1) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < mono.length; i += 1) mono[i] += samples[i] / buffer.numberOfChannels;
  }
  return mono;
}

/** Returns the largest absolute value in each of some equal parts of samples. */
export function peaksOf(samples, count) {
  const peaks = new Float32Array(count);
  for (let part = 0; part < count; part += 1) {
    const end = Math.floor((part + 1) * samples.length / count);
    for (let i = Math.floor(part * samples.length / count); i < end; i += 1) {
      peaks[part] = Math.max(peaks[part], Math.abs(samples[i]));
    }
  }
  return peaks;
}

/** Gives a canvas one pixel for each pixel of the screen; returns how to draw in units of the page. */
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return { pen, width, height };
}

/** Draws one waveform below the other; `peaks` are numbers from 0 to 1, `seconds` and `duration` give their lengths. */
export function drawWaveforms(canvas, waveforms, duration) {
  const { pen, width, height } = prepared(canvas);
  const style = getComputedStyle(canvas);
  const lane = height / waveforms.length;
  waveforms.forEach(({ peaks, seconds, isHeard }, index) => {
    pen.fillStyle = style.getPropertyValue(isHeard ? "--accent" : "--field");
    const middle = lane * (index + 0.5);
    const used = width * seconds / duration;
    for (let x = 0; x < used; x += 3) {
      const first = Math.floor(x / used * peaks.length);
      const last = Math.max(first + 1, Math.floor((x + 3) / used * peaks.length));
      let peak = 0;
      for (let i = first; i < last && i < peaks.length; i += 1) peak = Math.max(peak, peaks[i]);
      const size = Math.max(1, Math.min(1, peak) * (lane - 4));
      pen.fillRect(x, middle - size / 2, 2, size);
    }
  });
}

function* columnsOf(samples, rate, count) {
  const shape = Float64Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos(2 * Math.PI * i / WINDOW));
  const top = Math.min(HIGHEST_HZ, rate / 2);
  const edges = Array.from({ length: ROWS + 1 }, (_, row) => LOWEST_HZ * (top / LOWEST_HZ) ** (row / ROWS));
  const bins = edges.map((hertz) => Math.min(WINDOW / 2, Math.floor(hertz * WINDOW / rate)));
  for (let column = 0; column < count; column += 1) {
    const start = Math.floor((column + 0.5) * samples.length / count - WINDOW / 2);
    const real = new Float64Array(WINDOW);
    const imaginary = new Float64Array(WINDOW);
    for (let i = 0; i < WINDOW; i += 1) real[i] = (samples[start + i] ?? 0) * shape[i];
    fft(real, imaginary);
    yield Float32Array.from({ length: ROWS }, (_, row) => {
      let power = 0;
      for (let bin = bins[row]; bin <= Math.max(bins[row], bins[row + 1] - 1); bin += 1) {
        power = Math.max(power, real[bin] ** 2 + imaginary[bin] ** 2);
      }
      return 10 * Math.log10(power + 1e-12);
    });
  }
}

/** Returns the color of a loudness from 0 to 1: black over violet and orange to pale yellow. */
function colorOf(value) {
  const stops = [[8, 6, 26], [70, 24, 110], [170, 45, 105], [240, 110, 60], [252, 240, 180]];
  const place = Math.max(0, Math.min(1, value)) * (stops.length - 1);
  const lower = Math.min(stops.length - 2, Math.floor(place));
  return stops[lower].map((from, i) => from + (stops[lower + 1][i] - from) * (place - lower));
}

/** Draws the spectrogram of decoded audio: time from left to right, frequency on a logarithmic scale. */
export async function drawSpectrogram(canvas, buffer, duration = buffer.duration) {
  const { pen, width, height } = prepared(canvas);
  const count = Math.max(1, Math.min(900, Math.round(width * buffer.duration / duration)));
  const columns = [];
  for (const column of columnsOf(monoOf(buffer), buffer.sampleRate, count)) {
    columns.push(column);
    if (columns.length % COLUMNS_AT_ONCE === 0) await new Promise((resolve) => { setTimeout(resolve); });
  }
  const loudest = columns.reduce((most, column) => column.reduce((a, b) => Math.max(a, b), most), -Infinity);
  const picture = new ImageData(count, ROWS);
  columns.forEach((column, x) => column.forEach((level, row) => {
    const [red, green, blue] = colorOf(1 + (level - loudest) / RANGE_DB);
    picture.data.set([red, green, blue, 255], 4 * ((ROWS - 1 - row) * count + x));
  }));
  const small = new OffscreenCanvas(count, ROWS);
  small.getContext("2d").putImageData(picture, 0, 0);
  pen.fillStyle = "rgb(8 6 26)";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(small, 0, 0, width * buffer.duration / duration, height);
  const top = Math.min(HIGHEST_HZ, buffer.sampleRate / 2);
  pen.font = "11px system-ui, sans-serif";
  for (const hertz of TICKS_HZ) {
    const y = height * (1 - Math.log(hertz / LOWEST_HZ) / Math.log(top / LOWEST_HZ));
    const text = hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz`;
    pen.fillStyle = "rgb(0 0 0 / 60%)";
    pen.fillRect(2, y - 7, pen.measureText(text).width + 6, 14);
    pen.fillStyle = "#fff";
    pen.fillText(text, 5, y + 4);
  }
}
