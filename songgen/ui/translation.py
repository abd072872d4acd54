"""Texts of the page in other languages: catalogs whose ids are the English texts of the program.

`texts/LANGUAGE/*.json` are objects of English text -> translated text. A text that has changed in the program has no
translation any more, which a test finds. Ids with `{0}`, `{1}`, ... are templates of messages: the numbers stand for
the values that the program filled in, in order of appearance. Ids with names in braces are formatted by the page.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter

from songgen.runtime.json_files import read_json_object

LANGUAGES = {"en": "English", "zh": "中文"}
"""Code of each language of the page -> its name in that language. English needs no catalog."""

TEXTS = Path(__file__).with_name("texts")
"""Folder with one folder of catalogs for each language except English."""

SCRIPTS_PREFIX = "scripts_"
"""Beginning of the names of catalogs with texts that scripts of the page show."""


SPECIFIC_LENGTH = 16
"""Characters of a template from which on its values may be any text, such as the message of another program."""

MAX_PARTS = 16
"""Most parts of an enumeration that are translated one by one."""

SEPARATORS = {"; ": "；", ", ": "，"}
"""Separators of enumerations, and what they become."""

MAX_DEPTH = 4
"""Number of messages in each other that are translated: a value may be a message itself."""

_PROSE = re.compile(r"\b[A-Za-z]{2,} [a-z]{2,}\b")
"""Two words of a sentence. Numbers, names, paths and lists of them have none."""

_ITEM = re.compile(r" *(?:- |\d{1,9}\. )?")
"""Beginning of a line that is an item of a list."""


@dataclass(frozen=True)
class Template:
    """A message with values, and its translation."""

    literals: tuple[str, ...]
    """Text before, between and after the values, in English."""

    fields: tuple[int, ...]
    """Number of the value after each literal except the last."""

    translated: str
    """Translated text, to be formatted with the values."""

    @property
    def literal_length(self) -> int:
        """Number of characters that are not values."""
        return sum(map(len, self.literals))

    @property
    def is_specific(self) -> bool:
        """Whether its literals alone show that a message is this one; those of `{0} has no {1}` are in many others."""
        return self.literal_length >= SPECIFIC_LENGTH

    @property
    def reason(self) -> int | None:
        """Number of the value that follows a colon at the end, and may be any text; None if there is none."""
        return self.fields[-1] if self.literals[-2].endswith(": ") and not self.literals[-1] else None

    def values_of(self, message: str) -> list[str] | None:
        """Return the values in a message by their numbers, or None if the template does not match all of it.

        Each literal is searched after the one before it. The first occurrence is always a right one, since a value may
        be any text; so no backtracking is needed and the time is linear in the length of the message.
        """
        first, *between, last = self.literals
        if len(message) < len(first) + len(last) or not (message.startswith(first) and message.endswith(last)):
            return None
        start, end = len(first), len(message) - len(last)
        values = []
        for literal in between:
            found = message.find(literal, start, end)
            if found < 0:
                return None
            values.append(message[start:found])
            start = found + len(literal)
        values.append(message[start:end])
        by_number = dict(zip(self.fields, values, strict=True))
        return [by_number[number] for number in range(len(values))]


class Translator:
    """Texts of the page in one language."""

    language: str
    """Key of `LANGUAGES`."""

    def __init__(self, language: str, texts: Mapping[str, str], scripts: Mapping[str, str]) -> None:
        self.language = language
        self._texts = texts
        self._scripts = scripts
        templates = [Template(*parsed, texts[english]) for english in texts if (parsed := parse_template(english))]
        # The most specific template first; a stable order if two are equally long.
        self._templates = sorted(templates, key=lambda template: -template.literal_length)

    def __call__(self, english: str, **values: object) -> str:
        """Return the translation of a text of the page or the program, or the text itself if it has none.

        Args:
            english: English text, with names in braces where values are to be filled in.
            values: values by name.
        """
        text = self._texts.get(english, english)
        return text.format(**values) if values else text

    def message(self, text: str) -> str:
        """Return the translation of a message that a program has printed, with its values, or the message itself.

        A value that is a message is translated too. Several lines are translated one by one.
        """
        return "\n".join(map(self._line, text.split("\n")))

    def scripts(self) -> dict[str, str]:
        """Return English text -> translation of the texts that scripts of the page show."""
        return dict(self._scripts)

    def _line(self, line: str) -> str:
        """Return the translation of a line, which may be an item of a list, or the line itself."""
        found = _ITEM.match(line)
        assert found is not None  # every line begins with nothing
        # Two passes: first, every sentence in a value must have a translation (strict); then, sentences without one are
        # left in English (lenient). A message all of which is known is the right one, even if a more specific template
        # matches with a value that is not, such as one that begins with the indentation of the line.
        for in_part in (False, True):
            for mark in dict.fromkeys(("", found[0])):
                if translated := self._translation(line[len(mark) :], in_part=in_part):
                    return mark + translated
        return line

    def _translation(self, text: str, depth: int = 0, *, in_part: bool) -> str | None:
        """Return the translation of a message, or None if there is none.

        Args:
            text: one line.
            depth: number of messages that it is a value of.
            in_part: whether values of specific messages may be sentences without a translation.
        """
        if text in self._texts:
            return self._texts[text]
        if depth == MAX_DEPTH:
            return None
        for template in self._templates:
            values = template.values_of(text)
            if values is None:
                continue
            inner = [
                self._value(value, depth + 1, in_part=in_part, is_reason=number == template.reason)
                for number, value in enumerate(values)
            ]
            known = (
                found is not None or number == template.reason or not _PROSE.search(value)
                for number, (value, found) in enumerate(zip(values, inner, strict=True))
            )
            if (in_part and template.is_specific) or all(known):
                shown = (value if found is None else found for value, found in zip(values, inner, strict=True))
                return template.translated.format(*shown)
        return self._enumeration(text, depth, in_part=in_part)

    def _value(self, value: str, depth: int, *, in_part: bool, is_reason: bool) -> str | None:
        """Return the translation of a value, or None: single words may be names of keys, commands and files."""
        if " " not in value:
            return None
        found = self._translation(value, depth, in_part=in_part)
        # A reason is a message of its own.
        return self._translation(value, depth, in_part=True) if found is None and is_reason else found

    def _enumeration(self, text: str, depth: int, *, in_part: bool) -> str | None:
        """Return the translation of several messages in a line, or None if one of them has none."""
        for separator, translated in SEPARATORS.items():
            parts = text.split(separator, MAX_PARTS)
            if 1 < len(parts) <= MAX_PARTS:
                found = [self._translation(part, depth + 1, in_part=in_part) for part in parts]
                known = all(other or not _PROSE.search(part) for part, other in zip(parts, found, strict=True))
                if known and any(found):
                    return translated.join(other or part for part, other in zip(parts, found, strict=True))
        return None


def parse_template(english: str) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Return the literals and the numbers of the values of a template; None for a text that is not a template."""
    literals, fields = [""], []
    try:
        for literal, name, *_ in Formatter().parse(english):
            literals[-1] += literal
            if name is not None:
                if not name.isdecimal():
                    return None
                fields.append(int(name))
                literals.append("")
    except ValueError:  # a brace of its own, as in an example of JSON
        return None
    return (tuple(literals), tuple(fields)) if fields else None


@cache
def translator(language: str) -> Translator:
    """Return the translator of a language, which reads all catalogs once.

    Raises:
        ValueError: if the page does not have the language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language: {language!r} is not a language of the page; expected one of {list(LANGUAGES)}")
    catalogs = read_catalogs(sorted((TEXTS / language).glob("*.json")))
    texts = {english: text for catalog in catalogs.values() for english, text in catalog.items()}
    scripts = {english: text for name, catalog in catalogs.items() if name.startswith(SCRIPTS_PREFIX)
               for english, text in catalog.items()}  # fmt: skip
    return Translator(language, texts, scripts)


def read_catalogs(paths: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Return the catalogs of some files by file name."""
    return {path.name: read_json_object(path) for path in paths}
