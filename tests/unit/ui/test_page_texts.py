"""Every text that templates and scripts of the page show has a translation, and every translation is used."""

import json
import re
from pathlib import Path

import pytest

from songgen.prepare.report.histograms import FIGURES
from songgen.ui.preparing.form import RECIPES
from songgen.ui.preparing.labels import LABELS, OPTION_LABELS
from songgen.ui.translation import LANGUAGES

UI = Path(__file__).resolve().parents[3] / "songgen" / "ui"
TEXTS = UI / "texts"
OTHER_LANGUAGES = sorted(set(LANGUAGES) - {"en"})

LITERAL = re.compile(r"""(?<![\w.])t\(\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""")
"""`t("...")` in templates and scripts."""

ANY_CALL = re.compile(r"""(?<![\w.])t\(\s*([^"'\s)])""")
"""`t(` with something other than a literal text."""

VALUES = {
    "parts": ["Data", "Configure", "Train", "Listen", "Models", "Settings"],
    "recipes": [*RECIPES.values()],
    "labels": [*LABELS.values(), *OPTION_LABELS.values()],
    "figures": [text for _, label, unit, *_ in FIGURES for text in (label, unit) if text],
    "states": ["running", "finished", "stopped", "failed", "lost", "unfinished"],
}
"""Texts that are values in the program, and shown by `t(value)`."""

SHARED_FILES = {"keys.json", "prepare.json", "commands.json", "messages.json"}
"""Catalogs of what the program itself declares and prints; tests/unit/ui/test_translation.py checks them."""


def literals(files: list[Path]) -> dict[str, Path]:
    """English text -> a file that shows it."""
    found = {}
    for path in files:
        for first, second in LITERAL.findall(path.read_text(encoding="utf-8")):
            text = json.loads(f'"{first}"') if first else second.replace("\\'", "'")
            found[text] = path
    return found


def catalog(language: str, *, of_scripts: bool) -> dict[str, str]:
    """The translations of templates or scripts."""
    merged: dict[str, str] = {}
    for path in sorted((TEXTS / language).glob("*.json")):
        if path.name.startswith("scripts_") == of_scripts:
            merged |= json.loads(path.read_text(encoding="utf-8"))
    return merged


REVIEW = UI.parent / "prepare" / "review" / "review_assets"
TEMPLATES = sorted([*(UI / "templates").glob("*.html"), *REVIEW.glob("*.html")])
SCRIPTS = sorted([*(UI / "assets").glob("*.js"), *REVIEW.glob("*.js")])


def test_texts_are_found() -> None:
    assert len(literals(TEMPLATES)) > 20
    assert len(literals(SCRIPTS)) > 5


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
@pytest.mark.parametrize("of_scripts", [False, True])
def test_every_text_is_translated(language: str, of_scripts: bool) -> None:
    shown = literals(SCRIPTS if of_scripts else TEMPLATES)
    known = catalog(language, of_scripts=of_scripts)
    values = {text for texts in VALUES.values() for text in texts} if not of_scripts else set(VALUES["states"])
    missing = {text: shown[text].name for text in shown if text not in known} | {text: "" for text in values - {*known}}
    assert missing == {}


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_both_have_the_same_names_in_braces(language: str) -> None:
    texts = catalog(language, of_scripts=False) | catalog(language, of_scripts=True)
    wrong = [english for english, text in texts.items()
             if sorted(re.findall(r"\{(\w+)\}", english)) != sorted(re.findall(r"\{(\w+)\}", text))]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_every_translation_is_used(language: str) -> None:
    """A text that is no longer shown leaves the catalog; texts of Python modules count as shown."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in UI.rglob("*.py"))
    for of_scripts, files in ((False, TEMPLATES), (True, SCRIPTS)):
        shown = {*literals(files), *(text for texts in VALUES.values() for text in texts)}
        own = [path for path in (TEXTS / language).glob("*.json")
               if path.name.startswith("scripts_") == of_scripts and path.name not in SHARED_FILES]  # fmt: skip
        unused = [
            (path.name, english)
            for path in own
            for english in json.loads(path.read_text(encoding="utf-8"))
            if english not in shown and english not in code
        ]
        assert unused == []


def test_texts_are_written_literally_where_they_are_translated() -> None:
    """Else no test would find them; values of the program are listed in `VALUES`."""
    allowed = re.compile(
        r"t\((f\.help|help|name|state|job\.state|[a-z_.]*(label|help|state|title|group|text|name|meaning|advice|unit|summary)\b)"
    )
    found = [
        f"{path.name}: {match.group(0)}"
        for path in (*TEMPLATES, *SCRIPTS)
        for match in ANY_CALL.finditer(path.read_text(encoding="utf-8"))
        if not allowed.match(path.read_text(encoding="utf-8")[match.start() :])
        and not path.read_text(encoding="utf-8")[: match.start()].endswith(("function ", "macro "))
    ]
    assert found == []
