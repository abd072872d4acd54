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

/** Returns the class of the badge of a state, whose colour is in look.css. */
export const badgeClass = (state) => `badge ${state}`;

/** Returns the badge of a state. */
export const badge = (state) => el("span", { class: badgeClass(state) }, t(state));

/** Sets a text unless it is there already: screen readers say a status again whenever it is set. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const ANSWER_SECONDS = 60; // of a question: the first one may wait for imports; others are asked with another `seconds`
const NOTICE_SECONDS = 20; // until a server that stalls is noticed, on every page
let isLoggedOut = false;

/**
 * Sends a request; returns the JSON of the answer, or throws an error with the message of the server.
 *
 * A question (without a body) that is not answered in time counts as a lost connection. What a request with a body
 * starts may take any time.
 */
export async function request(path, body = undefined, { seconds = ANSWER_SECONDS, ...options } = {}) {
  const settings = body !== undefined ? {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options,
  } : { signal: AbortSignal.timeout(seconds * 1000), ...options };
  let response;
  let text;
  try {
    response = await fetch(path, settings);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    setConnected(false);
    throw Object.assign(new Error(t("The server does not answer; is it running?")), { isLost: true });
  }
  setConnected(true);
  isLoggedOut &&= response.status === 401;
  const values = parsed(text);
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

/** Returns the value of a JSON text; an empty object for another text. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
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
  const hadFocus = document.activeElement === button;
  document.getElementById("problem").hidden = true; // that of an earlier try
  button.disabled = true; // which takes the focus away
  try {
    return await action();
  } catch (error) {
    showProblem(error);
    return undefined;
  } finally {
    button.disabled = false;
    if (hadFocus && [button, document.body].includes(document.activeElement)) button.focus({ preventScroll: true });
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
        if (error.status === 401 && !isLoggedOut) showProblem(error); // once, not each time that any poll asks
        else if (error.status !== undefined) console.warn(error.message);
        else if (!error.isLost && error.name !== "AbortError") console.error(error); // a fault of the script
        isLoggedOut ||= error.status === 401;
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

/** Returns a number of bytes with a unit. */
export function formatBytes(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let power = 0;
  while (bytes >= 1000 && power < units.length - 1) { bytes /= 1000; power += 1; }
  return `${bytes.toLocaleString(language, { maximumFractionDigits: power ? 1 : 0 })} ${units[power]}`;
}

for (const element of document.querySelectorAll("[data-seconds]")) {
  element.textContent = formatDuration(Number(element.dataset.seconds));
}
for (const element of document.querySelectorAll("[data-bytes]")) {
  element.textContent = formatBytes(Number(element.dataset.bytes));
}

/** Returns a whole number, such as one of steps or clips. */
export const formatCount = (count) => count.toLocaleString(language);

/** Returns the address of the page of a folder. */
export const addressOf = (folder) => `/models/${encodeURIComponent(folder)}`;

/** Returns the name of a track for a reader; the label of a whole song is empty. */
export function trackName(label) {
  return { "": t("Mix"), mix: t("Mix"), acc: t("Accompaniment"), vocal: t("Vocals") }[label] ?? label;
}

/** Returns a number as in a table: at most four significant digits. */
export function formatNumber(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6)
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
  const { jobs } = await request("/api/jobs", undefined, { seconds: NOTICE_SECONDS });
  const running = jobs.filter((job) => job.is_active).length;
  setText(document.getElementById("jobs-count"), running ? t("Jobs ({n} running)", { n: running }) : t("Jobs"));
}, 5);
