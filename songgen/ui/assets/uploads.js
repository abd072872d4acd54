// Uploads: files and folders that are dropped or chosen, one after the other, with progress.

import { formatBytes, request, t } from "./page.js";

/** Returns the files of a drop as {file, name}; names of files in folders have the folders in them. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, name: file.name }));
  const found = [];
  const read = (entry) => new Promise((resolve, reject) => { entry.file(resolve, reject); });
  const visit = async (entry, prefix) => {
    if (entry.isFile) found.push({ file: await read(entry), name: prefix + entry.name });
    else {
      const reader = entry.createReader();
      // A reader gives a hundred entries at a time, and none at the end.
      for (;;) {
        const part = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
        if (!part.length) break;
        for (const child of part) await visit(child, `${prefix}${entry.name}/`);
      }
    }
  };
  for (const entry of entries) await visit(entry, "");
  return found;
}

/** Returns the files of an input as {file, name}. */
export function chosenFiles(input) {
  return [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
}

/**
 * Sends files to a folder of uploads; returns {path, problems}: the folder, and what was not sent and why.
 * `onProgress` gets (sent bytes, all bytes, name of the file); `signal` stops it.
 */
export async function uploadFiles(folder, files, { onProgress = () => {}, signal } = {}) {
  const limits = await request("/api/uploads");
  const problems = [];
  const accepted = files.filter(({ file, name }) => {
    const isHidden = name.split("/").some((part) => part.startsWith("."));
    const isKnown = limits.suffixes.some((suffix) => name.toLowerCase().endsWith(suffix));
    if (!isHidden && !isKnown) problems.push(t("{name} is not a song, a text or a manifest", { name }));
    else if (!isHidden && file.size > limits.max_bytes) problems.push(t("{name} is too large", { name }));
    return !isHidden && isKnown && file.size <= limits.max_bytes;
  });
  const all = accepted.reduce((sum, { file }) => sum + file.size, 0);
  if (all > limits.free_bytes) {
    throw new Error(t("The disk has room for {free}, and the files have {size}", {
      free: formatBytes(limits.free_bytes), size: formatBytes(all),
    }));
  }
  let done = 0;
  let path = null;
  for (const { file, name } of accepted) {
    if (signal?.aborted) break;
    try {
      path = (await sendFile(folder, name, file, (sent) => onProgress(done + sent, all, name), signal)).folder;
    } catch (error) {
      if (!signal?.aborted) problems.push(`${name}: ${error.message}`);
    }
    done += file.size;
  }
  onProgress(done, all, "");
  return { path, problems };
}

/** Sends one file; returns {path, folder}: its path in the workspace, and that of the folder of uploads. */
export function sendFile(folder, name, file, onProgress = () => {}, signal = undefined, query = "") {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch does not tell how much was sent
    sending.open("POST", `/api/uploads/${encodeURIComponent(folder)}/${encodeURIComponent(name)}${query}`);
    sending.setRequestHeader("Content-Type", "application/octet-stream");
    sending.responseType = "json";
    sending.upload.onprogress = (event) => onProgress(event.loaded);
    sending.onload = () => (sending.status === 200 ? resolve(sending.response)
      : reject(new Error(sending.response?.error ?? t("The request failed with status {status}", { status: sending.status }))));
    sending.onerror = () => reject(new Error(t("The upload was interrupted; send it again")));
    sending.onabort = () => reject(new Error(t("stopped")));
    const abort = () => sending.abort();
    signal?.addEventListener("abort", abort);
    sending.onloadend = () => signal?.removeEventListener("abort", abort); // one signal serves thousands of files
    sending.send(file);
  });
}
