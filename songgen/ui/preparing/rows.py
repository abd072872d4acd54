"""Rows of a prepared data set: pages of them, clips without lyrics, and their texts in the form of LJSpeech."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from songgen.prepare.output.writers import FILE_NAME_COLUMNS, LJSPEECH_FILES, METADATA_FILES, ljspeech_line
from songgen.runtime.json_files import parse_json_object

PAGE_ROWS = 50
"""Rows of a data set on one page."""

MAX_LINE = 1 << 20
"""Most characters of a line of a manifest that are read."""

SHOWN_LINES = 5
"""Lines of a list in LJSpeech format that are shown."""

LISTS = {name: split for split, name in LJSPEECH_FILES.items()}
"""Name of a list in LJSpeech format -> the part of the data set that it has."""


@dataclass(frozen=True)
class Lyrics:
    """What the rows of one part of a data set have of lyrics."""

    missing: int = 0
    """Number of clips without words that are not marked as instrumental."""

    lines: tuple[str, ...] = ()
    """First lines of the list in LJSpeech format."""


def read_lyrics(folder: Path, split: str) -> Lyrics:
    """Return what the rows of a part have of lyrics; nothing if there is no such part."""
    path = folder / METADATA_FILES[split]
    if not path.is_file():
        return Lyrics()
    status = path.stat()
    return _lyrics(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _lyrics(path: Path, time: int, size: int) -> Lyrics:
    """Read all rows, once for each state of the file: 100,000 of them take a second."""
    missing = 0
    shown: list[str] = []
    for row in _rows(path):
        line = _list_line(row)
        missing += not line and row.get("instrumental") is not True
        if line and len(shown) < SHOWN_LINES:
            shown.append(line)
    return Lyrics(missing, tuple(shown))


def list_lines(folder: Path, name: str) -> Iterator[str]:
    """Yield the lines of a list in LJSpeech format, made of the rows as `export.formats` does.

    Raises:
        ValueError: if there is no such part.
    """
    path = folder / METADATA_FILES.get(LISTS.get(name, ""), "-")
    if not path.is_file():
        raise ValueError(f"there is no list {name} of this data set")
    return (f"{line}\n" for line in map(_list_line, _rows(path)) if line)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a manifest; damaged ones are left out."""
    for line in read_lines(path):
        try:
            yield parse_json_object(line)
        except ValueError:
            continue


def _list_line(row: dict[str, Any]) -> str:
    """Return the line of a row; empty without words, or if the row is not one that preparing has written."""
    try:
        return ljspeech_line(row)
    except (KeyError, AttributeError):
        return ""


def read_rows(folder: Path, split: str, page: int) -> dict[str, Any]:
    """Return one page of the rows of a prepared data set.

    Args:
        folder: prepared data set.
        split: `train` or `eval`.
        page: number, from 1.

    Raises:
        ValueError: if there is no such part.
    """
    path = folder / METADATA_FILES.get(split, "-")
    if not path.is_file():
        raise ValueError(f"split: there is no {split} part in this data set")
    first = (max(page, 1) - 1) * PAGE_ROWS
    shown = [_row(line) for line in islice(read_lines(path), first, first + PAGE_ROWS + 1)]
    return {"rows": shown[:PAGE_ROWS], "first": first + 1, "page": max(page, 1), "has_more": len(shown) > PAGE_ROWS}


def _row(line: str) -> dict[str, Any]:
    """Return what is shown of a row; a damaged one is named."""
    try:
        values = parse_json_object(line)
    except ValueError:
        return {"id": "?", "caption": line[:80], "lyrics": "", "tracks": {}, "duration": None, "language": ""}
    tracks = {
        track: values[column] for track, column in FILE_NAME_COLUMNS.items() if isinstance(values.get(column), str)
    }
    texts = {name: str(values.get(name) or "")[:2_000] for name in ("caption", "lyrics", "language")}
    duration = values.get("duration")
    return {"id": str(values.get("fname", "")), "tracks": tracks, **texts,
            "duration": duration if isinstance(duration, int | float) else None}  # fmt: skip


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file; a line without an end is cut."""
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(MAX_LINE):
            yield line.rstrip("\n")
