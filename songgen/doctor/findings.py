"""Findings in a folder, as data, as text and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

TEXT_WIDTH = 120
"""Width of the text, in columns."""

WAY_OUT_MARK = "-> "


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    """No problem, or a fact."""
    WARNING = "warning"
    """Worth knowing, but nothing is damaged."""
    ERROR = "error"
    """A part that cannot be used."""


class Kind(StrEnum):
    """Kind of a folder."""

    RUN = "output folder of a run"
    CHECKPOINT = "checkpoint"
    DATASET = "data set"
    WORK = "unfinished data set"
    PREPARED = "prepared data set"
    PREPARING = "work folder of a preparation"
    MODEL = "model folder"
    ADAPTER = "adapter"
    CODEC = "codec"
    ENCODER = "frozen encoder"
    TOKENIZERS = "tokenizers"


@dataclass(frozen=True)
class Finding:
    """One finding."""

    level: Level
    """Severity."""
    where: str
    """Part of the folder."""
    what: str
    """State of the part, or the problem and its reason."""
    way_out: str = ""
    """Suggested fix; empty if there is nothing to do."""


@dataclass(frozen=True)
class Diagnosis:
    """All findings in a folder."""

    folder: Path
    """Folder that was examined."""
    kind: Kind
    """Kind of the folder."""
    findings: tuple[Finding, ...]
    """Findings, in reading order."""

    @property
    def is_fine(self) -> bool:
        """Whether every part can be used."""
        return all(finding.level is not Level.ERROR for finding in self.findings)

    def to_json(self) -> str:
        """Return all findings as JSON text."""
        record = {
            "folder": str(self.folder),
            "kind": self.kind.name.lower(),
            "fine": self.is_fine,
            "findings": [asdict(finding) for finding in self.findings],
        }
        return json.dumps(record, indent=2, ensure_ascii=True)

    def lines(self) -> Iterator[str]:
        """Yield the lines of a text: level, part and finding in columns, with the suggested fix below."""
        yield f"{self.folder}: {self.kind.value}"
        level_width = max(len(level) for level in Level)
        where_width = max((len(finding.where) for finding in self.findings), default=0)
        margin = " " * (level_width + where_width + 4)
        for finding in self.findings:
            head = f"{finding.level:<{level_width}}  {finding.where:<{where_width}}  "
            yield from _wrapped(finding.what, head, margin)
            if finding.way_out:
                yield from _wrapped(finding.way_out, margin + WAY_OUT_MARK, margin + " " * len(WAY_OUT_MARK))
        counts = {level: sum(finding.level is level for finding in self.findings) for level in Level}
        yield (
            f"{'fine' if self.is_fine else 'something is wrong'}: {_counted(counts[Level.ERROR], 'error')}, "
            f"{_counted(counts[Level.WARNING], 'warning')}"
        )


def _wrapped(text: str, head: str, margin: str) -> list[str]:
    """Wrap a text, keeping its line breaks."""
    lines = []
    for number, part in enumerate(text.splitlines() or [""]):
        start = head if number == 0 else margin
        lines += textwrap.wrap(
            part,
            width=max(TEXT_WIDTH, len(margin) + 40),
            initial_indent=start,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [start.rstrip()]
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ok(where: str, what: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(Level.OK, where, what)


def warning(where: str, what: str, way_out: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(Level.WARNING, where, what, way_out)


def error(where: str, what: str, way_out: str = "") -> Finding:
    """Return a finding about a part that cannot be used."""
    return Finding(Level.ERROR, where, what, way_out)
