// Checks of a page as a person sees it; each returns a list of complaints.

function shown(element) {
  return element.checkVisibility({ opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true })
    && !element.closest(".unseen, .skip, dialog:not([open]), [aria-hidden=true]");
}

function named(element) {
  const text = (element.textContent || element.value || "").trim().replace(/\s+/g, " ").slice(0, 40);
  const mark = element.id ? `#${element.id}` : element.className && typeof element.className === "string"
    ? `.${element.className.split(" ").join(".")}` : "";
  return `${element.tagName.toLowerCase()}${mark}${element.name ? `[name=${element.name}]` : ""} "${text}"`;
}

/** Text nodes that can be seen, with the element that they are in. */
function* texts() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const element = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE", "OPTION", "OPTGROUP", "CANVAS", "NOSCRIPT"].includes(element.tagName)) continue;
    if (shown(element)) yield { node, element };
  }
}

function structure() {
  const found = [];
  const ids = new Map();
  for (const element of document.querySelectorAll("[id]")) ids.set(element.id, (ids.get(element.id) ?? 0) + 1);
  for (const [id, count] of ids) if (count > 1) found.push(`${count} elements have the id ${id}`);
  for (const name of ["for", "aria-describedby", "aria-labelledby", "aria-controls"]) {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      for (const id of element.getAttribute(name).split(/\s+/)) {
        if (!ids.has(id)) found.push(`${named(element)}: ${name}="${id}" names nothing`);
      }
    }
  }
  if (!document.querySelector("main h2, main h1")) found.push("the page has no heading");
  if (!document.title.trim()) found.push("the page has no title");
  for (const input of document.querySelectorAll(".field :is(input, select, textarea)")) {
    if (!shown(input) || !(input.dataset.kind || input.closest(".field").querySelector("small"))) continue;
    const help = (input.getAttribute("aria-describedby") ?? "").split(/\s+/).map((id) => document.getElementById(id));
    if (!help.some((element) => element && element.textContent.trim())) found.push(`${named(input)} has no help`);
  }
  for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) found.push(`${image.src}: no alt`);
  for (const table of document.querySelectorAll("table")) {
    if (shown(table) && !table.querySelector("th")) found.push(`${named(table)} has no headings`);
  }
  return found;
}

function channels(color) {
  const numbers = color.match(/-?[\d.]+(e-?\d+)?%?/g) ?? [];
  const values = numbers.map((text) => (text.endsWith("%") ? Number(text.slice(0, -1)) / 100 : Number(text)));
  const isUnit = color.startsWith("color(");
  const [r, g, b] = values.slice(0, 3).map((value) => (isUnit ? value * 255 : value));
  return [r ?? 0, g ?? 0, b ?? 0, values[3] ?? 1];
}

const over = (top, ground) => [0, 1, 2].map((i) => top[i] * top[3] + ground[i] * (1 - top[3])).concat(1);

function luminance([r, g, b]) {
  const [x, y, z] = [r, g, b].map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}

function groundOf(element) {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color[3] > 0) layers.push(color);
    if (color[3] === 1) break;
  }
  const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  return layers.reverse().reduce((ground, layer) => over(layer, ground), canvas);
}

function contrast() {
  const found = new Set();
  for (const { element } of texts()) {
    if (element.closest(":disabled, [aria-disabled=true], svg")) continue;
    const style = getComputedStyle(element);
    const ground = groundOf(element);
    let opacity = 1;
    for (let at = element; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    const ink = channels(style.color);
    const [a, b] = [luminance(over([...ink.slice(0, 3), ink[3] * opacity], ground)), luminance(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5) - 0.005) found.add(`${named(element)}: contrast ${ratio.toFixed(2)}`);
  }
  return [...found];
}

/** The part of a rectangle that its scrolling ancestors show. */
function clipped(rect, element) {
  let { left, top, right, bottom } = rect;
  for (let at = element; at && at !== document.body; at = at.parentElement) {
    if (getComputedStyle(at).overflow === "visible") continue;
    const box = at.getBoundingClientRect();
    left = Math.max(left, box.left); right = Math.min(right, box.right);
    top = Math.max(top, box.top); bottom = Math.min(bottom, box.bottom);
  }
  return { left, top, right, bottom };
}

function layout() {
  const found = new Set();
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth + 1) {
    found.add(`the page is ${root.scrollWidth} wide, the window ${root.clientWidth}`);
    for (const element of document.querySelectorAll("body *")) {
      if (element.checkVisibility() && clipped(element.getBoundingClientRect(), element).right > root.clientWidth + 1
        && shown(element)) found.add(`too wide: ${named(element)}`);
    }
  }
  const leaves = [];
  for (const { node, element } of texts()) {
    const style = getComputedStyle(element);
    const isCut = ["hidden", "clip"].includes(style.overflowX) && element.scrollWidth > element.clientWidth + 1;
    if (isCut && !element.title) found.add(`cut: ${named(element)}`);
    if (["BUTTON", "A"].includes(element.tagName) && style.overflowX === "visible" && element.clientWidth
      && element.scrollWidth > element.clientWidth + 2) found.add(`wider than its button: ${named(element)}`);
    if (element.closest("svg, .log, [data-overlay]")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) leaves.push({ element, rect: clipped(rect, element) });
  }
  for (const element of document.querySelectorAll("input, select, textarea, button, audio")) {
    if (shown(element)) leaves.push({ element, rect: clipped(element.getBoundingClientRect(), element), isControl: true });
  }
  const floating = (element) => {
    for (let at = element; at; at = at.parentElement) {
      if (["fixed", "sticky", "absolute"].includes(getComputedStyle(at).position)) return true;
    }
    return false;
  };
  const flowing = leaves.filter(({ element }) => !floating(element)).sort((a, b) => a.rect.top - b.rect.top);
  for (let i = 0; i < flowing.length; i += 1) {
    const { element: first, rect: a } = flowing[i];
    for (let k = i + 1; k < flowing.length && flowing[k].rect.top < a.bottom; k += 1) {
      const { element: second, rect: b } = flowing[k];
      if (first === second || first.contains(second) || second.contains(first)) continue;
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 3 && height > 5) found.add(`${named(first)} and ${named(second)} overlap by ${width.toFixed()} x ${height.toFixed()}`);
    }
  }
  return [...found].slice(0, 12);
}

const WORDS = /(?:[A-Za-z][a-z]+ ){2,}[A-Za-z][a-z]+/;

/** Texts that are English although the page is not; code, names and texts of users are marked. */
function english() {
  const found = new Set();
  const mine = ".mono, code, pre, kbd, samp, textarea, [lang=en], [translate=no]";
  for (const { node, element } of texts()) {
    if (!element.closest(mine) && WORDS.test(node.data)) found.add(`${named(element)}: ${node.data.trim().slice(0, 80)}`);
  }
  for (const name of ["aria-label", "title", "placeholder", "alt"]) {
    for (const element of document.querySelectorAll(`body [${name}]`)) {
      const text = element.getAttribute(name);
      if (!element.closest(mine) && WORDS.test(text)) found.add(`${name} of ${named(element)}: ${text.slice(0, 80)}`);
    }
  }
  return [...found].slice(0, 20);
}

/** Notes each element that gets the focus, and whether that can be seen. */
function watchFocus() {
  const all = [...document.querySelectorAll("*")];
  window.focusSeen = [];
  document.addEventListener("focusin", ({ target }) => {
    const style = getComputedStyle(target);
    const isSeen = (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 && channels(style.outlineColor)[3] > 0)
      || style.boxShadow !== "none";
    window.focusSeen.push({ at: all.indexOf(target), name: named(target), isSeen });
  });
  const radios = new Set();
  window.focusExpected = all.map((element, at) => ({ element, at })).filter(({ element }) => {
    if (element.tabIndex < 0 || element.disabled || !element.checkVisibility({ visibilityProperty: true })) return false;
    if (!element.matches("a[href], button, input, select, textarea, summary, audio, video, [tabindex]")) return false;
    if (element.matches("summary") && element !== element.parentElement.querySelector(":scope > summary")) return false;
    if (element.type !== "radio") return true;
    if (radios.has(element.name)) return false;
    const isTaken = element.checked || !document.querySelector(`input[type=radio][name="${element.name}"]:checked`);
    if (isTaken) radios.add(element.name);
    return isTaken;
  });
  document.activeElement.blur();
  window.getSelection().removeAllRanges();
  window.scrollTo(0, 0);
  return window.focusExpected.length;
}

function focusComplaints() {
  const seen = [...new Map(window.focusSeen.map((entry) => [entry.at, entry])).values()];
  const found = seen.filter((entry) => !entry.isSeen).map((entry) => `focus cannot be seen: ${entry.name}`);
  for (let i = 1; i < seen.length; i += 1) {
    if (seen[i].at < seen[i - 1].at) found.push(`Tab goes back from ${seen[i - 1].name} to ${seen[i].name}`);
  }
  const reached = new Set(seen.map((entry) => entry.at));
  for (const { at, element } of window.focusExpected) {  // what has been hidden since, such as options of another model, is not missed
    if (!reached.has(at) && element.checkVisibility() && !element.disabled) found.push(`Tab does not reach ${named(element)}`);
  }
  return found.slice(0, 12);
}
