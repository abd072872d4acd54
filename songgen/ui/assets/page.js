// What every page shares: texts, elements, requests, problems, polling, the language, the chooser, the count of jobs.

const texts = JSON.parse(document.getElementById("texts").textContent);

/** Returns the translation of an English text, with `{name}` replaced by values. */
export function t(english, values = {}) {
  const text = texts[english] ?? english;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Returns an element. Texts are never read as HTML: children are elements or plain texts. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const BADGES = { running: "running", finished: "good", failed: "bad", lost: "bad", stopped: "warn", unfinished: "warn" };

/** Returns the class of the badge of a state. */
export const badgeClass = (state) => `badge ${BADGES[state] ?? ""}`;

/** Returns the badge of a state. */
export const badge = (state) => el("span", { class: badgeClass(state) }, t(state));

/** Sends a request; returns the JSON of the answer, or throws an error with the message of the server. */
export async function request(path, body = undefined, options = {}) {
  const settings = body === undefined ? { ...options } : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options,
  };
  let response;
  try {
    response = await fetch(path, settings);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    setConnected(false);
    throw new Error(t("The server does not answer; is it running?"));
  }
  setConnected(true);
  const values = await response.json().catch(() => ({}));
  if (!response.ok) {
    const other = values.error ?? t("The request failed with status {status}", { status: response.status });
    const login = t("The server was started again with another token: load this page again to log in");
    const problem = new Error(response.status === 401 ? login : other);
    problem.values = values;
    problem.status = response.status;
    throw problem;
  }
  return values;
}

function setConnected(isConnected) {
  document.getElementById("connection").hidden = isConnected;
}

/** Shows a problem until it is closed. */
export function showProblem(error) {
  document.getElementById("problem-text").textContent = error.message ?? String(error);
  document.getElementById("problem").hidden = false;
}

document.getElementById("problem-close").addEventListener("click", () => {
  document.getElementById("problem").hidden = true;
});

/** Runs an action of the user; problems are shown, and the button cannot be pressed twice meanwhile. */
export async function act(button, action) {
  button.disabled = true;
  try {
    return await action();
  } catch (error) {
    showProblem(error);
    return undefined;
  } finally {
    button.disabled = false;
  }
}

/** Calls a function now and every few seconds while the page is visible; it goes on after a lost connection. */
export function poll(action, seconds) {
  let timer = null;
  let isRunning = false; // two calls at once would both set a timer, and go on side by side
  const ending = new AbortController();
  const run = async () => {
    clearTimeout(timer);
    if (isRunning || ending.signal.aborted) return;
    isRunning = true;
    if (!document.hidden) {
      try {
        if ((await action()) === false) ending.abort();
      } catch (error) {
        if (error.status === 401) showProblem(error);
        else if (error.status !== undefined) console.warn(error.message);
      }
    }
    isRunning = false;
    if (!ending.signal.aborted) timer = setTimeout(run, seconds * 1000);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) run(); }, { signal: ending.signal });
  run();
  return () => { ending.abort(); clearTimeout(timer); };
}

const language = document.documentElement.lang;

/** Returns a time in seconds since 1970 as date and time of this place. */
export function formatTime(seconds) {
  return new Date(seconds * 1000).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}

/** Returns a number of seconds as hours, minutes and seconds. */
export function formatDuration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return t("{n} s", { n: whole });
  if (whole < 5400) return t("{n} min", { n: Math.round(whole / 60) });
  return t("{n} h", { n: (whole / 3600).toFixed(1) });
}

for (const element of document.querySelectorAll("[data-seconds]")) {
  element.textContent = formatDuration(Number(element.dataset.seconds));
}

/** Returns a number of bytes with a unit. */
export function formatBytes(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let power = 0;
  while (bytes >= 1000 && power < units.length - 1) { bytes /= 1000; power += 1; }
  return `${bytes.toLocaleString(language, { maximumFractionDigits: power ? 1 : 0 })} ${units[power]}`;
}

/** Returns a number as in a table: at most four significant digits. */
export function formatNumber(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6
    ? value.toLocaleString(language, { maximumSignificantDigits: 4 }) : value.toExponential(2);
}

export function fillTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-time]")) {
    element.textContent = formatTime(Number(element.dataset.time));
  }
}
fillTimes();

/** Copies a text, and returns true; where the browser has no clipboard for it, the text is selected. */
export async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return false;
  }
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => act(button, async () => {
    await request("/api/language", { language: button.dataset.language });
    location.reload();
  }));
}

// The chooser: any button with `data-choose="ID"` fills the input with that id.
const chooser = document.getElementById("chooser");
let chosenInput = null;
let shownFolder = "";

let askedFolder = 0;

async function showFolder(path) {
  askedFolder += 1;
  const number = askedFolder;
  const { path: folder, parent, entries, more } = await request(`/api/folders?path=${encodeURIComponent(path)}`);
  if (number !== askedFolder) return; // another one was opened meanwhile
  shownFolder = folder;
  document.getElementById("chooser-path").textContent = folder || t("Folders of this page");
  document.getElementById("chooser-take").hidden = !folder;
  const rows = entries.map((entry) => el("li", {}, el("button", {
    type: "button", class: "plain",
    onclick: () => (entry.is_folder ? showFolder(entry.path).catch(showInChooser) : take(entry.path)),
  }, entry.is_folder ? `📁 ${entry.name}` : entry.name)));
  if (parent !== null) {
    rows.unshift(el("li", {}, el("button", {
      type: "button", class: "plain", onclick: () => showFolder(parent).catch(showInChooser),
    }, t("‹ Folder above"))));
  }
  if (more) rows.push(el("li", { class: "soft" }, t("{n} more are not shown: type the path of one of them", { n: more })));
  document.getElementById("chooser-list").replaceChildren(...rows);
}

/** Shows a problem in the chooser itself: the rest of the page is behind it. */
function showInChooser(error) {
  document.getElementById("chooser-path").textContent = error.message;
}

function take(path) {
  chosenInput.value = path;
  chosenInput.dispatchEvent(new Event("input", { bubbles: true }));
  chosenInput.dispatchEvent(new Event("change", { bubbles: true }));
  chooser.close();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-choose]");
  if (!button) return;
  chosenInput = document.getElementById(button.dataset.choose);
  const start = chosenInput.value.trim();
  showFolder(start).catch(() => showFolder("")).then(() => chooser.showModal()).catch(showProblem);
});
document.getElementById("chooser-take").addEventListener("click", () => take(shownFolder));
document.getElementById("chooser-close").addEventListener("click", () => chooser.close());

poll(async () => {
  const { jobs } = await request("/api/jobs");
  const running = jobs.filter((job) => job.is_active).length;
  document.getElementById("jobs-count").textContent = running ? t("Jobs ({n} running)", { n: running }) : t("Jobs");
}, 5);
