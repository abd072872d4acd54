// Records the microphone as a WAV file: 16 bits, one channel, at the rate of the device.

import { t } from "./page.js";

/** Returns samples from -1 to 1 as a WAV file. */
export function wavOf(blocks, rate) {
  const count = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const write = (place, text) => [...text].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * count, true);
  let place = 44;
  for (const block of blocks) {
    for (const sample of block) {
      view.setInt16(place, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
      place += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

/** Starts to record; `onBlock(seconds, level)` is called ten times a second. The result has `stop()`, which returns the file. */
export async function startRecording(onBlock) {
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
    throw new Error(t("This browser cannot record here: open the page as https:// or on this machine as 127.0.0.1"));
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  } catch (error) {
    throw new Error(t("The microphone cannot be used: {reason}", { reason: error.message }));
  }
  const context = new AudioContext();
  const blocks = [];
  const end = async () => {
    for (const track of stream.getTracks()) track.stop();
    await context.close();
  };
  try {
    await context.audioWorklet.addModule("/assets/recorder_worklet.js");
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => {
      blocks.push(data);
      onBlock(blocks.length / 10, data.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0));
    };
    context.createMediaStreamSource(stream).connect(node);
  } catch (error) {
    await end();
    throw error;
  }
  return {
    async stop() {
      const rate = context.sampleRate;
      await end();
      if (!blocks.length) throw new Error(t("Nothing was recorded; is the microphone on?"));
      return wavOf(blocks, rate);
    },
  };
}
