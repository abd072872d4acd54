"""Safe output: no control sequences of untrusted texts, and no failure if the terminal is closed."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_ANSI_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_CONTROL_CHARACTERS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Remove terminal sequences and control characters, except line breaks and tabs."""
    return _ANSI_SEQUENCE.sub("", text).translate(_CONTROL_CHARACTERS)


def printable_lines(text: str) -> str:
    """Return a text of unknown origin as lines that can be printed and encoded, without empty ones."""
    clean = printable(text).encode("utf-8", "replace").decode()
    return "\n".join(line for line in map(str.rstrip, clean.splitlines()) if line)


class PrintableFormatter(logging.Formatter):
    """Log formatter that removes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return printable(super().format(record))


def log_to_stderr(level: int | str) -> None:
    """Log to standard error from this level on, if logging is not configured yet."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def say(message: str) -> None:
    """Print a line to standard error, on the main process and on others; it is lost if standard error is closed."""
    with suppress(OSError):
        print(printable(message), file=sys.stderr, flush=True)


class _OutlivingStream:
    """Text stream that is sent to the null device once its reader is gone.

    Every attribute that is not defined here is that of the stream itself.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Redirect the descriptor itself: what is still buffered, and what libraries write to it, must not fail either.

        Otherwise Python would end with exit code 120, since it cannot flush its streams.
        """
        with suppress(OSError, ValueError), open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outliving_terminal() -> Iterator[None]:
    """Let work continue in this context when standard output or error is closed: a terminal or the end of a pipe.

    Writing to a closed terminal fails with EIO, to a closed pipe with EPIPE; either would end a run in the middle of a
    save that a closed terminal (SIGHUP) has just requested.
    """
    streams = sys.stdout, sys.stderr
    outliving = [_OutlivingStream(stream) for stream in streams]
    sys.stdout, sys.stderr = outliving  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in outliving:
            stream.flush()
        sys.stdout, sys.stderr = streams
