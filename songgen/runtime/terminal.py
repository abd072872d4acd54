"""Safe output of untrusted text: captions, lyrics and file names must not send control sequences to a terminal."""

import logging
import re

_ANSI_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_CONTROL_CHARACTERS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Remove terminal sequences and control characters, except line breaks and tabs."""
    return _ANSI_SEQUENCE.sub("", text).translate(_CONTROL_CHARACTERS)


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
