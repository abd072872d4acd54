"""Text files of unknown origin: their encoding, their size, and lines that cannot be read."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from songgen.runtime.json_files import MAX_JSON_BYTES, limited_lines

MAX_TEXT_BYTES = 1 << 20
"""Maximum size of a song's text file, in bytes."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order mark -> encoding."""


def find_encoding(start: bytes) -> tuple[str, int]:
    """Return the encoding of a file and the length of its byte order mark, from its first bytes.

    Without a mark it is UTF-8, or UTF-16 if every second byte is 0, as in text of Latin letters.
    """
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding, len(mark)
    sample = start[: len(start) // 2 * 2]
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = sample[offset::2], sample[1 - offset :: 2]
        if len(sample) >= 4 and not any(zeros) and all(others):
            return encoding, 0
    return "utf-8", 0


def decode_text(content: bytes, name: str) -> str:
    """Return the text of a file.

    Raises:
        ValueError: if it is not UTF-8, and not UTF-16 or UTF-32 with a byte order mark; names the file and a command.
    """
    encoding, mark = find_encoding(content[:4096])
    try:
        return content[mark:].decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(not_readable(name, encoding, error)) from error


def not_readable(name: str, encoding: str, error: UnicodeDecodeError) -> str:
    """Return the message for text in another encoding."""
    return (
        f"{name} is not {encoding.upper()} (byte {error.start}); convert it from its own encoding, such as "
        f"WINDOWS-1252 or GB18030: iconv -f WINDOWS-1252 -t UTF-8 {name} > new.txt"
    )


def read_song_text(path: Path, root: Path) -> str:
    """Return the text of a song's file, without surrounding blanks.

    Raises:
        ValueError: if it is a link out of the folder, too large, or in another encoding; names the file.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{path.name} is a link to a file outside the folder")
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_TEXT_BYTES} bytes")
    return decode_text(content, path.name).replace("\r\n", "\n").replace("\r", "\n").strip()


def numbered_lines(path: Path) -> Iterator[tuple[int, str | None, str]]:
    """Yield number, text and problem of each line; a line that cannot be decoded does not hide those after it.

    Raises:
        ValueError: if the file is UTF-16 or UTF-32, and damaged.
    """
    with path.open("rb") as file:
        encoding, mark = find_encoding(file.read(4096))
        file.seek(mark)
        if encoding != "utf-8":
            # Line breaks of UTF-16 are two bytes, so the file is decoded as a whole.
            lines = read_table_text(path).replace("\r\n", "\n").split("\n")
            yield from ((number, line, "") for number, line in enumerate(lines, 1))
            return
        for number, line in enumerate(limited_lines(file), 1):
            try:
                yield number, line.decode("utf-8"), ""
            except UnicodeDecodeError as error:
                yield number, None, f"not UTF-8: {error}"


def read_table_text(path: Path) -> str:
    """Return the text of a file that is read as a whole.

    Raises:
        ValueError: if it is too large or in another encoding.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {size} bytes; write it as JSON lines (.jsonl), which are read one by one")
    return decode_text(path.read_bytes(), path.name)
