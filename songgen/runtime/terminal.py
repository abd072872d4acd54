"""Texts from anywhere on a terminal and in logs: captions, lyrics and file names must not drive it."""

import logging
import re

_ANSI_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_CONTROL_CHARACTERS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Remove terminal sequences and control characters; line breaks and tabs stay."""
    return _ANSI_SEQUENCE.sub("", text).translate(_CONTROL_CHARACTERS)


class PrintableFormatter(logging.Formatter):
    """Formats records without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text."""
        return printable(super().format(record))


def log_to_stderr(level: int | str) -> None:
    """Let every logger from this level on write to standard error, if nothing else was set up before."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
