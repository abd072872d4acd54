"""Lines of JSON with checksums, and lines that are damaged.

The program writes some JSON that a later run reads and relies on: results, corrections, records. A flipped bit in a
digit would go unnoticed, so such a line ends with a checksum over the rest of it. A line without one was written by an
earlier version, and is accepted if it has exactly the form of that version.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from songgen.runtime.files import write_bytes_atomic
from songgen.runtime.json_files import parse_json

logger = logging.getLogger(__name__)

CHECKSUM_KEY = "checksum"
"""Last key of a sealed object."""

_DIGITS = 16
_MARK = f', "{CHECKSUM_KEY}": "'.encode()
_TAIL_LENGTH = len(_MARK) + _DIGITS + len('"}')
_SHOWN_LINES = 8

_DAMAGED = ".damaged"

LINE_ERRORS = (ValueError, TypeError, LookupError, AttributeError)
"""Errors that a line of the wrong form leads to."""

Line = TypeVar("Line")


def seal(values: Mapping[str, Any]) -> str:
    """Return an object as one line of ASCII JSON with a checksum, without a line break."""
    assert values and CHECKSUM_KEY not in values
    return seal_text(json.dumps(values))


def seal_text(text: str) -> str:
    """Return the text of a JSON object, which is not empty, with a checksum at its end."""
    return f'{text[:-1]}, "{CHECKSUM_KEY}": "{_checksum(text.encode("ascii"))}"}}'


def unseal(line: bytes, is_plain: Callable[[Mapping[str, Any]], bool] | None = None) -> dict[str, Any]:
    """Parse what `seal` wrote.

    Args:
        line: the JSON text, with or without a line break at its end.
        is_plain: function that tells whether an object without a checksum has the form that earlier versions wrote;
            None to refuse all of them.

    Returns:
        The object, without the checksum.

    Raises:
        ValueError: if the line is damaged.
    """
    text = line.removesuffix(b"\n")
    content, tail = text[:-_TAIL_LENGTH] + b"}", text[-_TAIL_LENGTH:]
    if tail.startswith(_MARK) and tail[len(_MARK) :] == _checksum(content).encode() + b'"}':
        values: dict[str, Any] = json.loads(content)  # what this program wrote needs no limits
        return values
    if is_plain is None or _MARK in tail:
        raise ValueError("its checksum does not match")
    values = parse_json(text, max_bytes=None, constants=True)
    if not isinstance(values, dict) or not is_plain(values):
        raise ValueError("it has neither a checksum nor the form of an earlier version")
    return values


def has_keys(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return the function for `unseal` that accepts objects with exactly these keys."""
    return lambda values: values.keys() == set(names)


@dataclass
class Lines(Generic[Line]):
    """Complete lines of a file."""

    path: Path
    """The file."""

    values: list[Line] = field(default_factory=list)
    """Lines that can be read, in order."""

    damaged: list[int] = field(default_factory=list)
    """Numbers of the other lines, from 1."""

    def require_intact(self, fix: str) -> list[Line]:
        """Return all lines.

        Args:
            fix: suggested fix for the message.

        Raises:
            ValueError: if a line is damaged; names the file and the lines.
        """
        if self.damaged:
            raise ValueError(f"{self.path}: damaged {numbered(self.damaged)}; {fix}")
        return self.values


def read_lines(path: Path, read: Callable[[bytes], Line]) -> Lines[Line]:
    """Read a file of lines; a last line without a line break was cut off by a kill and is ignored.

    Args:
        path: the file; it may be missing.
        read: function that parses a line and raises one of `LINE_ERRORS` if it is damaged.

    Raises:
        OSError: if the file exists and cannot be read.
    """
    lines: Lines[Line] = Lines(path)
    if not path.exists():
        return lines
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                if not was_complete(line, read):
                    break
                lines.damaged.append(number)
                continue
            try:
                lines.values.append(read(line))
            except LINE_ERRORS:
                lines.damaged.append(number)
    return lines


def set_damaged_aside(path: Path, read: Callable[[bytes], object], consequence: str) -> None:
    """Move the damaged lines of a file into `NAME.damaged.jsonl` next to it, with a warning that names them.

    No process may be appending to the file.

    Args:
        path: the file; it may be missing.
        read: as in `read_lines`.
        consequence: what the missing lines mean, for the warning.

    Raises:
        OSError: if a file cannot be read or written.
    """
    damaged = frozenset(read_lines(path, read).damaged)
    if not damaged:
        return
    with path.open("rb") as content:
        lines = list(content)
    with damaged_file(path).open("ab") as file:
        file.writelines(lines[number - 1].rstrip(b"\n") + b"\n" for number in sorted(damaged))
    write_bytes_atomic(path, b"".join(line for number, line in enumerate(lines, 1) if number not in damaged))
    logger.warning(
        "%s: damaged %s moved to %s; %s", path, numbered(sorted(damaged)), damaged_file(path).name, consequence
    )


def damaged_file(path: Path) -> Path:
    """Return the file for the damaged lines of a file."""
    return path.with_name(f"{path.stem}{_DAMAGED}{path.suffix}")


def is_damaged_file(path: Path) -> bool:
    """Return whether a file holds damaged lines of another one."""
    return path.stem.endswith(_DAMAGED)


def numbered(lines: list[int]) -> str:
    """Return numbers of lines as text."""
    shown = ", ".join(map(str, lines[:_SHOWN_LINES])) + (", ..." if len(lines) > _SHOWN_LINES else "")
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}"


def was_complete(line: bytes, read: Callable[[bytes], object]) -> bool:
    """Return whether a last line is complete but for its line break, which was changed to another character."""
    try:
        read(line[:-1] + b"\n")
    except LINE_ERRORS:
        return False
    return True


def _checksum(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:_DIGITS]
