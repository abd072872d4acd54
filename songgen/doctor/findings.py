"""What was found in a folder, as data, as text and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

TEXT_WIDTH = 120
"""Columns of the text."""

WAY_OUT_MARK = "-> "


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    """As it should be, or a plain fact."""
    WARNING = "warning"
    """Nothing is broken; worth knowing."""
    ERROR = "error"
    """A part that cannot be used."""


class Kind(StrEnum):
    """What a folder can be."""

    RUN = "output folder of a run"
    CHECKPOINT = "checkpoint"
    DATASET = "data set"
    WORK = "unfinished data set"
    PREPARED = "prepared data set"
    PREPARING = "work folder of a preparation"
    MODEL = "model folder"


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    level: Level
    """How much it matters."""
    where: str
    """Part of the folder."""
    what: str
    """What is there, or what is wrong with it and why."""
    way_out: str = ""
    """What to do about it; empty where there is nothing to do."""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found in a folder."""

    folder: Path
    """The folder."""
    kind: Kind
    """What it is."""
    findings: tuple[Finding, ...]
    """In the order of reading."""

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
        """Yield the text for people: level, place and fact in columns, the way out below."""
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
    """Break a text into lines; its own line breaks stay."""
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
    """Return a plain fact."""
    return Finding(Level.OK, where, what)


def warning(where: str, what: str, way_out: str = "") -> Finding:
    """Return something worth knowing."""
    return Finding(Level.WARNING, where, what, way_out)


def error(where: str, what: str, way_out: str = "") -> Finding:
    """Return a part that cannot be used."""
    return Finding(Level.ERROR, where, what, way_out)
