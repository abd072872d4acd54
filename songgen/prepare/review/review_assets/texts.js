// Texts in the language of the page.

const texts = JSON.parse(document.getElementById("texts").textContent);

/** Returns the translation of an English text, with `{name}` replaced by values. */
export function t(english, values = {}) {
  const text = texts[english] ?? english;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}
