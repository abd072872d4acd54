"""What a command has printed: the end of its log, or what was added since an earlier call."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from songgen.jobs.record import LOG_FILE
from songgen.runtime.terminal import printable

MAX_READ_BYTES = 256 * 1024
"""Maximum number of bytes that one call reads, from the end of the log."""


@dataclass(frozen=True)
class LogPart:
    """Part of a log, without control characters."""

    text: str
    """Whole lines, each with its line break; of a progress bar, its last state."""
    offset: int
    """Position in the file after these lines, for the next call."""
    unfinished: str = ""
    """Line after `text` that is not finished, such as a progress bar in its present state. The next call from `offset`
    has it again, as far as it has come by then."""


def read_log(folder: Path, *, max_lines: int, offset: int | None = None) -> LogPart:
    """Read the end of the log of a job.

    Args:
        folder: folder of the job.
        max_lines: maximum number of whole lines; the last ones are returned.
        offset: position from which to read, as an earlier call returned it; None for the end of the log.
    """
    return read_text_end(folder / LOG_FILE, max_lines=max_lines, offset=offset)


def read_text_end(path: Path, *, max_lines: int, offset: int | None = None) -> LogPart:
    """Read the end of a file of text that grows; see `read_log`."""
    content, start, is_cut = _read_end(path, offset)
    whole, line_break, rest = content.rpartition(b"\n")
    lines = whole.split(b"\n") if line_break else []
    if is_cut and lines:  # the first line lacks its beginning
        del lines[0]
    text = "".join(f"{_shown(line)}\n" for line in lines[max(0, len(lines) - max_lines) :])
    return LogPart(text, start + len(content) - len(rest), _shown(rest))


def _read_end(path: Path, offset: int | None) -> tuple[bytes, int, bool]:
    """Read a file from a position on, at most its last `MAX_READ_BYTES`.

    Returns:
        The content, its position, and whether it begins within a line, because the file is larger; nothing if there is
        no regular file. Links are not followed, and a pipe cannot block this process.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b"", 0, False
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b"", 0, False
        wanted = 0 if offset is None or not 0 <= offset <= found.st_size else offset
        start = max(wanted, found.st_size - MAX_READ_BYTES)
        return os.pread(descriptor, min(MAX_READ_BYTES, found.st_size - start), start), start, start > wanted
    except OSError:  # a disk that does not answer
        return b"", offset or 0, False
    finally:
        os.close(descriptor)


def _shown(line: bytes) -> str:
    """Return a line as a terminal would show it in the end: a carriage return begins the line again."""
    return printable(line.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2])
