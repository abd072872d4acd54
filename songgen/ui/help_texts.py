"""Answers to what users ask, in both languages: the page /help, and the `?` next to fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from songgen.runtime.json_files import read_json_object
from songgen.ui.translation import TEXTS

HELP_FILE = TEXTS / "help.json"
"""File with all entries."""

SECTIONS = ("start", "data", "training", "problems", "adapters", "page")
"""Groups of entries, in the order of the page."""


@dataclass(frozen=True)
class HelpEntry:
    """A question and its answer."""

    id: str
    """Name in addresses and in `data-help`."""

    section: str
    """One of `SECTIONS`."""

    link: str
    """Address of the part of the page that it is about."""

    fields: tuple[str, ...]
    """Keys and options next to which a `?` shows it."""

    questions: Mapping[str, str]
    """Language -> question."""

    answers: Mapping[str, str]
    """Language -> answer: paragraphs in lines, with code in backticks."""

    def shown(self, language: str) -> dict[str, Any]:
        """Return the entry in one language, as pages and scripts take it."""
        return {
            "id": self.id,
            "link": self.link,
            "question": self.questions[language],
            "paragraphs": [segments(line) for line in self.answers[language].splitlines()],
        }


@cache
def help_entries() -> tuple[HelpEntry, ...]:
    """Return all entries."""
    return tuple(_entry(values) for values in read_json_object(HELP_FILE)["entries"])


def help_entry(entry_id: str) -> HelpEntry:
    """Return one entry.

    Raises:
        ValueError: if there is none of this name.
    """
    for entry in help_entries():
        if entry.id == entry_id:
            return entry
    raise ValueError("there is no such question")


@cache
def help_of(field: str) -> str | None:
    """Return the id of the entry about a key or option; None if there is none."""
    return next((entry.id for entry in help_entries() if field in entry.fields), None)


def segments(text: str) -> list[dict[str, Any]]:
    """Return a text split at its backticks: every second part is code."""
    return [
        {"text": part, "is_code": bool(number % 2)} for number, part in enumerate(text.split("`")) if part
    ]  # fmt: skip


def _entry(values: dict[str, Any]) -> HelpEntry:
    languages = [name for name in values if isinstance(values[name], dict)]
    return HelpEntry(
        values["id"],
        values["section"],
        values["link"],
        tuple(values["fields"]),
        {language: values[language]["question"] for language in languages},
        {language: values[language]["answer"] for language in languages},
    )
