"""JSON as language models write it: inside of other text, with quotes of any kind, commas too many, brackets too few.

A reader of its own instead of repairs by pattern: a pattern that mends one answer breaks the text inside another.
"""

import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

MAX_ANSWER_LENGTH = 20_000
"""Characters that are looked at."""

MAX_STARTS = 200
"""Opening braces at which an object is looked for."""

LOOK_AHEAD = 200
"""Characters behind a quote that tell whether it closes a text."""

MAX_DEPTH = 12
"""Objects and lists inside of each other that are followed."""

_CLOSING = {'"': '"„“”', "'": "'‘’", "“": '”“"', "”": '”"', "„": '“”"', "‘": "’'", "’": "’'", "`": "`'"}
"""Opening quote -> quotes that may close it."""

_LITERALS = {"true": True, "false": False, "null": None, "none": None, "nan": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\n", "b": "", "f": ""}
_BARE = re.compile(r"[^\s,:{}\[\]\"]+(?:[ \t]+[^\s,:{}\[\]\"]+)*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BARE_KEY = re.compile(r"[A-Za-z_][\w ]*\s*:|[\w.+-]+\s*[,\]}]")
_AFTER_COMMA = "{[}]/" + "".join(_CLOSING)
_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NON_ASCII = re.compile(r"[^\x00-\x7f]{2,}")


class _NotAnObject(Exception):
    """What begins here is no JSON, however loosely."""


def repair_encoding(text: str) -> str:
    """Return a text in which UTF-8 that was read as Windows-1252 (three odd letters for an arrow) is mended."""
    return _NON_ASCII.sub(lambda found: _read_again(found[0]), text)


def _read_again(run: str) -> str:
    try:
        # The five bytes that Windows-1252 leaves open come through as control characters.
        return b"".join(_one_byte(character) for character in run).decode("utf-8")
    except UnicodeError:
        return run


def _one_byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def find_object(text: str, keys: Collection[str]) -> dict[str, Any] | None:
    """Return the object in an answer that has most of the keys; of several the last, since models correct themselves.

    Args:
        text: answer of a model.
        keys: names as `plain_key` gives them.

    Returns:
        None when no object has any of the keys.
    """
    text = repair_encoding(text[:MAX_ANSWER_LENGTH])
    best: dict[str, Any] | None = None
    most = 0
    for found in _objects(text):
        count = sum(plain_key(key) in keys for key in found)
        if count and count >= most:
            best, most = found, count
    return best


def plain_key(key: str) -> str:
    """Return a key without case, blanks and other signs: `Use Cases` and `use_cases` are the same."""
    return re.sub(r"[\W_]+", "", key.casefold())


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield every object, also those inside of objects that were yielded."""
    for found in islice(re.finditer(r"\{", text), MAX_STARTS):
        reader = _Reader(text, found.start())
        try:
            value = reader.value(0)
        except _NotAnObject:
            continue
        if isinstance(value, dict):
            yield value


class _Reader:
    """Reads one value from a place in a text."""

    def __init__(self, text: str, position: int) -> None:
        self.text = text
        self.position = position

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _NotAnObject
        character = self._peek()
        if character == "{":
            return self._object(depth)
        if character == "[":
            return self._list(depth)
        if character in _CLOSING:
            return self._string(ends=",}]")
        return self._bare()

    def _peek(self) -> str:
        """Next character that is no blank and no comment; empty at the end."""
        found = _SPACE.match(self.text, self.position)
        assert found is not None
        self.position = found.end()
        return self.text[self.position : self.position + 1]

    def _object(self, depth: int) -> dict[str, Any]:
        self.position += 1
        made: dict[str, Any] = {}
        while (character := self._peek()) not in ("}", ""):
            if character == ",":
                self.position += 1
                continue
            if character in "{[]":
                raise _NotAnObject
            key = self._string(ends=":") if character in _CLOSING else str(self._bare())
            character = self._peek()
            if not character:
                break  # cut off inside of a key
            if character != ":":
                raise _NotAnObject
            self.position += 1
            if self._peek() in ("", ",", "}"):
                continue  # a key without a value
            made[key] = self.value(depth + 1)
        self.position += 1
        return made

    def _list(self, depth: int) -> list[Any]:
        self.position += 1
        made: list[Any] = []
        while (character := self._peek()) not in ("]", "}", ""):
            if character in ",:":
                self.position += 1
                continue
            start = self.position
            made.append(self._string(ends=",}]:") if character in _CLOSING else self.value(depth + 1))
            if character in _CLOSING and self._peek() == ":":
                self.position = start  # a key: the list was not closed
                made.pop()
                return made
        if character != "}":  # the bracket that is missing here belongs to the object around
            self.position += 1
        return made

    def _string(self, ends: str) -> str:
        """Read a quoted text; it ends at a quote after which the object goes on, so quotes inside may be left bare."""
        closing = _CLOSING[self.text[self.position]]
        self.position += 1
        made: list[str] = []
        while self.position < len(self.text):
            character = self.text[self.position]
            self.position += 1
            if character == "\\":
                made.append(self._escape())
            elif character in closing and self._is_end(ends):
                break
            else:
                made.append(character)
        # Escapes of four digits give a character beyond them in two halves.
        return "".join(made).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def _is_end(self, ends: str) -> bool:
        """Whether what stands behind a quote can follow a text; a comma only if a new text or a bracket follows it."""
        rest = self.text[self.position : self.position + LOOK_AHEAD]
        following = rest.lstrip()
        if not following or following.startswith("```"):
            return True
        if following[0] == "," and "," in ends:
            after = following[1:].lstrip()
            return not after or after[0] in _AFTER_COMMA or _BARE_KEY.match(after) is not None
        # A comma that was forgotten at the end of a line.
        is_new_line = "\n" in rest[: len(rest) - len(following)] and "," in ends
        return following[0] in ends or (is_new_line and following[0] in _CLOSING)

    def _escape(self) -> str:
        character = self.text[self.position : self.position + 1]
        self.position += 1
        if character == "u":
            digits = self.text[self.position : self.position + 4]
            try:
                made = chr(int(digits, 16))
            except ValueError:
                return ""
            self.position += 4
            return made
        return _ESCAPES.get(character, character)

    def _bare(self) -> Any:
        """Read a number, true, false, null, or words that should have stood in quotes."""
        found = _BARE.match(self.text, self.position)
        if found is None:
            raise _NotAnObject
        self.position = found.end()
        word = found[0]
        if word.casefold() in _LITERALS:
            return _LITERALS[word.casefold()]
        return float(word) if _NUMBER.fullmatch(word) else word
