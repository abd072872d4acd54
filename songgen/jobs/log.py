"""What a command has printed: the end of its log, or what was added since an earlier call."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from songgen.jobs.record import LOG_FILE
from songgen.runtime.terminal import printable

MAX_READ_BYTES = 256 * 1024
"""Maximum number of bytes that one call reads."""


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


def read_log(folder: Path, *, max_lines: int) -> LogPart:
    """Read the end of the log of a job.

    Args:
        folder: folder of the job.
        max_lines: maximum number of whole lines; the last ones are returned.
    """
    return read_text_end(folder / LOG_FILE, max_lines=max_lines)


def read_text_end(path: Path, *, max_lines: int) -> LogPart:
    """Read the end of a file of text that grows; see `read_log`."""
    content, start = _read(path, None)
    whole, line_break, rest = content.rpartition(b"\n")
    lines = whole.split(b"\n") if line_break else []
    if start and lines:  # the first line lacks its beginning
        del lines[0]
    text = "".join(f"{_shown(line)}\n" for line in lines[max(0, len(lines) - max_lines) :])
    return LogPart(text, start + len(content) - len(rest), _shown(rest))


def read_added(folder: Path, offset: int) -> LogPart:
    """Read what was added to the log of a job, or the first `MAX_READ_BYTES` of it; its offset shows whether it moved.

    Args:
        folder: folder of the job.
        offset: position from which to read, as an earlier call returned it. A log that is shorter was replaced, and is
            read from its beginning.
    """
    content, start = _read(folder / LOG_FILE, offset)
    whole, line_break, rest = content.rpartition(b"\n")
    if line_break:
        text = "".join(f"{_shown(line)}\n" for line in whole.split(b"\n"))
        return LogPart(text, start + len(content) - len(rest), _shown(rest))
    if len(content) < MAX_READ_BYTES:
        return LogPart("", start, _shown(content))
    # A longer line: of a progress bar, only its last state is needed; any other is returned in pieces.
    if (last := content.rfind(b"\r")) > 0:
        return LogPart("", start + last, _shown(content))
    return LogPart(f"{_shown(content)}\n", start + len(content))


def _read(path: Path, offset: int | None) -> tuple[bytes, int]:
    """Read at most `MAX_READ_BYTES` of a file.

    Args:
        path: the file. Links are not followed, and a pipe cannot block this process.
        offset: position from which to read; None for the end of the file.

    Returns:
        The content and its position; nothing if there is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b"", 0
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b"", 0
        start = max(0, found.st_size - MAX_READ_BYTES) if offset is None else offset
        start = start if 0 <= start <= found.st_size else 0
        return os.pread(descriptor, MAX_READ_BYTES, start), start
    except OSError:  # a disk that does not answer
        return b"", offset or 0
    finally:
        os.close(descriptor)


def _shown(line: bytes) -> str:
    """Return a line as a terminal would show it in the end: a carriage return begins the line again."""
    return printable(line.decode("utf-8", errors="replace").rstrip("\r").rpartition("\r")[2])
