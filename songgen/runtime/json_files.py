"""The one reader of JSON that comes from outside, with limits; writing and hashing of JSON objects.

Configurations, manifests, side files, answers of servers and posts of browsers may come from anyone. `json.loads` ends
in a RecursionError for deep nesting, takes the last of repeated keys, and turns `NaN` and `1e999` into numbers that
JSON does not have. All of these are a ValueError here.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from songgen.runtime.files import read_regular

MAX_JSON_BYTES = 64 * 1024**2
"""Maximum size of a file, a line or an answer. Parsed, it takes up to about 25 times as much memory."""

MAX_NESTING = 64
"""Maximum number of nested objects and lists; many functions that write and copy such values are recursive."""

_MIN_INTEGER, _MAX_INTEGER = -(1 << 63), (1 << 64) - 1
"""Integers that fit 64 bits, signed or not; larger ones end in an OverflowError in numpy and torch."""

_MAX_DIGITS = 20
_SHOWN_KEYS = 5


def parse_json(text: str | bytes, *, max_bytes: int | None = MAX_JSON_BYTES, constants: bool = False) -> Any:
    """Parse JSON of unknown origin.

    Args:
        text: the JSON; bytes are UTF-8, with or without a byte order mark.
        max_bytes: maximum length; None for no limit.
        constants: whether `NaN`, `Infinity` and numbers beyond the range of floats are read, as `json.dumps` writes
            them.

    Raises:
        ValueError: if it is not JSON, is larger or more deeply nested than the limits, has a key twice, or has a
            number that does not fit 64 bits.
    """
    if max_bytes is not None and len(text) > max_bytes:
        raise ValueError(f"larger than {max_bytes:,} bytes")
    content = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = _decoder(constants=constants).decode(content)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_NESTING} times") from None
    # Counting brackets is faster than following the values; most files have fewer than the limit.
    if content.count("[") + content.count("{") > MAX_NESTING:
        require_shallow(value)
    return value


def parse_json_values(text: str) -> list[Any]:
    """Parse the JSON values of a text that follow each other, with or without white space between them.

    Raises:
        ValueError: as in `parse_json`.
    """
    decoder, values, at = _decoder(constants=False), [], 0
    try:
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            value, at = decoder.raw_decode(text, at)
            values.append(value)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_NESTING} times") from None
    for value in values:
        require_shallow(value)
    return values


def parse_flat_objects(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Parse lines of JSON at once, each an object of numbers and texts: several times as fast as `parse_json`.

    `NaN`, `Infinity` and numbers beyond the range of floats are read.

    Raises:
        ValueError: if a line is something else, is refused by `parse_json`, or has a colon in a text, which leaves open
            whether a key is there twice.
    """
    joined = b"[%b]" % b",".join(lines)
    # Each line begins with its only brace. So one that is cut off, or goes on in the next, changes what is read.
    if joined.count(b"[") != 1 or not all(line[:1] == b"{" and line.count(b"{") == 1 for line in lines):
        raise ValueError("not one flat object a line")
    objects = _FLAT_DECODER.decode(joined.decode())
    # Every key has a colon: if there are no more of them than keys that were read, no key is there twice.
    if len(objects) != len(lines) or not all(type(each) is dict for each in objects):
        raise ValueError("not one flat object a line")
    if joined.count(b":") != sum(map(len, objects)):
        raise ValueError("a key may be there twice")
    return list(objects)


def _decoder(*, constants: bool) -> json.JSONDecoder:
    """Return a decoder with limits; `constants` as in `parse_json`."""
    hooks: dict[str, Any] = {} if constants else {"parse_constant": _refuse_constant, "parse_float": _finite}
    return json.JSONDecoder(object_pairs_hook=_unique_keys, parse_int=_limited_integer, **hooks)


def require_shallow(value: Any) -> None:
    """Check how deeply a value is nested.

    Raises:
        ValueError: if it is nested more than `MAX_NESTING` times.
    """
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [entry for each in level for entry in _entries(each) if isinstance(entry, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_NESTING} times")


def parse_json_object(text: str | bytes, *, max_bytes: int | None = MAX_JSON_BYTES) -> dict[str, Any]:
    """Parse a JSON object of unknown origin.

    Raises:
        ValueError: as in `parse_json`, or if it is not an object.
    """
    content = parse_json(text, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise ValueError(f"not a JSON object but a {type(content).__name__}")
    return content


def limited_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; of a line that is larger than `MAX_JSON_BYTES`, only the first bytes are kept."""
    while line := file.readline(MAX_JSON_BYTES + 1):
        rest = line
        while len(line) > MAX_JSON_BYTES and rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_JSON_BYTES)
        yield line


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of unknown origin.

    Raises:
        ValueError: if it is missing, is not a regular file, or as in `parse_json`; the message names the file.
    """
    try:
        return parse_json(read_regular(path, max_bytes))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ValueError: as in `read_json`, or if it does not hold an object.
    """
    content = read_json(path, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object to a file, indented."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def json_sha256(value: Any) -> str:
    """Return the hash of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _entries(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names: set[str] = set()
        repeated = sorted({name for name, _ in pairs if name in names or names.add(name)})  # type: ignore[func-returns-value]
        shown = ", ".join(name[:40] for name in repeated[:_SHOWN_KEYS])
        raise ValueError(f"given twice: {shown}; keep one of them")
    return values


def _limited_integer(text: str) -> int:
    # `int` takes a time that grows with the square of the digits, and raises for more than 4,300 of them.
    number = int(text) if len(text) <= _MAX_DIGITS + 1 else _MAX_INTEGER + 1
    if not _MIN_INTEGER <= number <= _MAX_INTEGER:
        raise ValueError(f"the number {text[:_MAX_DIGITS]}... does not fit 64 bits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:_MAX_DIGITS]} is too large")
    return number


def _refuse_constant(name: str) -> None:
    """Refuse `NaN` and `Infinity`, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is not a JSON number")


_FLAT_DECODER = json.JSONDecoder(parse_int=_limited_integer)
