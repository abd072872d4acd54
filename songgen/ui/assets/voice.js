// The voice of a song: a file that is chosen, uploaded or recorded, with a player to check it.

import { act, setText, showProblem, t } from "./page.js";
import { fileUrl, makePlayer } from "./player.js";
import { startRecording } from "./recorder.js";
import { sendFile } from "./uploads.js";

const FOLDER = "voices"; // of the uploads
const LONGEST_SECONDS = 60; // of a recording; no model hears more than 30 s

const input = document.getElementById("field-voice");
const status = document.getElementById("voice-status");
const button = document.getElementById("record");
const meter = document.getElementById("record-level");
let player = null;
let recording = null;

async function upload(name, file) {
  status.textContent = t("uploading {name}…", { name });
  const { path } = await sendFile(FOLDER, name, file, () => {}, undefined, "?rename=1");
  input.value = path;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  input.dispatchEvent(new Event("input", { bubbles: true }));
  status.textContent = t("saved as {path}", { path });
}

function show() {
  player?.remove();
  const path = input.value.trim();
  document.getElementById("voice-empty").hidden = Boolean(path);
  player = path ? makePlayer(document.getElementById("voice-player"), { title: path, tracks: [{ label: t("Voice"), url: fileUrl(path) }] }) : null;
}
input.addEventListener("change", show);
if (input.value) show();

document.getElementById("voice-file").addEventListener("change", ({ currentTarget }) => {
  const [file] = currentTarget.files;
  currentTarget.value = ""; // so that the same file can be taken again
  if (file) upload(file.name, file).catch(fail);
});

function fail(error) {
  status.textContent = "";
  showProblem(error);
}

async function stop() {
  const ended = recording;
  recording = null;
  meter.hidden = true;
  button.textContent = t("Record");
  const stamp = new Date().toISOString().slice(0, 19).replace(/[^\d]/g, "");
  await ended.stop().then((file) => upload(`recording-${stamp}.wav`, file)).catch(fail);
}

async function start() {
  player?.pause();
  recording = await startRecording((seconds, level) => {
    meter.value = level;
    setText(status, t("recording: {seconds} s", { seconds: Math.floor(seconds) }));
    if (seconds >= LONGEST_SECONDS && recording) stop();
  });
  meter.hidden = false;
  button.textContent = t("Stop recording");
}

button.addEventListener("click", () => act(button, () => (recording ? stop() : start())));
