// Runs where sound is processed: sends what the microphone hears, as the mean of the channels, in blocks of 0.1 s.

class Recorder extends AudioWorkletProcessor {
  #block = new Float32Array(Math.round(sampleRate / 10));
  #filled = 0;

  process([channels]) {
    const length = channels[0]?.length ?? 0;
    for (let i = 0; i < length; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      this.#block[this.#filled] = sum / channels.length;
      this.#filled += 1;
      if (this.#filled === this.#block.length) {
        this.port.postMessage(this.#block.slice());
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
