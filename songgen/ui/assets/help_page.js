// The page with all questions: search, and the question that an address names is opened.

const search = document.getElementById("help-search");

function filter() {
  const words = search.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const section of document.querySelectorAll(".help-section")) {
    let shown = 0;
    for (const question of section.querySelectorAll(".question")) {
      const text = question.textContent.toLocaleLowerCase();
      question.hidden = !words.every((word) => text.includes(word));
      if (!question.hidden) shown += 1;
    }
    section.hidden = shown === 0;
    count += shown;
  }
  document.getElementById("help-none").hidden = count > 0;
}

function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
    named.querySelector("summary").focus();
  }
}

search.addEventListener("input", filter);
window.addEventListener("hashchange", openNamed);
openNamed();
