"""JSON as language models write it: inside other text, with any kind of quotes, extra commas, missing brackets.

The package json-repair reads it. It replaced a reader of our own: of 3,000 answers with one or two damaged characters,
it read 691 that the reader did not, and failed on 32 that the reader did read.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from songgen.runtime.json_files import require_shallow

MAX_ANSWER_LENGTH = 20_000
"""Characters of an answer that are read."""

_NON_ASCII = re.compile(r"[^\x00-\x7f]{2,}")

_CURLY_START = re.compile(r"\{\s*[“”„‘’]")
"""An object whose first key is in curly quotes."""

_STRAIGHT_QUOTES = str.maketrans("“”„‘’", '"""\'\'')


def require_json_repair() -> None:
    """Check that answers can be read.

    Raises:
        ValueError: If json-repair is not installed.
    """
    try:
        import json_repair  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"reading the answers of a model needs json-repair, which cannot be imported ({error}): "
            'pip install -c constraints.txt -e ".[prepare]", or set tag.backend to "none"'
        ) from error


def repair_encoding(text: str) -> str:
    """Repair UTF-8 that was decoded as Windows-1252 (three odd letters in place of an arrow)."""
    return _NON_ASCII.sub(lambda found: _decode_again(found[0]), text)


def _decode_again(run: str) -> str:
    try:
        # The five bytes that Windows-1252 leaves undefined come through as control characters.
        return b"".join(_one_byte(character) for character in run).decode("utf-8")
    except UnicodeError:
        return run


def _one_byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def find_object(text: str, keys: Collection[str]) -> dict[str, Any] | None:
    """Return the object in an answer that has most of the keys, the last of several: models correct themselves.

    Args:
        text: Answer of a model.
        keys: Names as `plain_key` returns them.

    Returns:
        None if no object has any of the keys.
    """
    import json_repair

    text = repair_encoding(text[:MAX_ANSWER_LENGTH])
    if _CURLY_START.search(text):
        # json-repair knows curly quotes, but not all of their mixtures with straight ones. They are replaced only if
        # the object itself is written in them, since curly quotes inside a text are part of the text.
        text = text.translate(_STRAIGHT_QUOTES)
    try:
        found = json_repair.loads(text)
        require_shallow(found)
    except (ValueError, RecursionError):  # brackets that open without end
        return None
    best: dict[str, Any] | None = None
    most = 0
    for candidate in _objects(found):
        count = sum(plain_key(key) in keys for key in candidate)
        if count and count >= most:
            best, most = candidate, count
    return best


def plain_key(key: str) -> str:
    """Return a key without case, blanks and punctuation: `Use Cases` and `use_cases` are the same."""
    return re.sub(r"[\W_]+", "", key.casefold())


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object, including nested ones."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from _objects(entry)
