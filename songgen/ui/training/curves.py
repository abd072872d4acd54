"""Curves of runs for the page: what is new since a browser's last question, and how it is arranged in panels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from songgen.train.reporting.plots.curves import RunCurves, curves_of
from songgen.train.reporting.plots.panels import Line, Panel, all_panels
from songgen.train.reporting.plots.tail import MetricsTail, part_of
from songgen.train.reporting.trackers import METRICS_FILE
from songgen.ui.training.health import findings_of
from songgen.ui.translation import Translator
from songgen.ui.workspace import Workspace

MAX_TAILS = 24
"""Number of files of metrics that are followed; of the others, what was read is forgotten."""

MAX_RUNS = 8
"""Number of runs that can be laid over each other: as many as there are colours."""

READ_SECONDS = 0.4
"""Time for reading in one answer; the browser asks again for the rest."""


NAMES = ("training", "evaluation", "rate", "norm", "all", "mix", "vocals", "accompaniment")
"""Names of curves that the page translates; others are numbered, or of tracks that it does not know."""


@dataclass(frozen=True)
class Seen:
    """What a browser has of a run."""

    folder: Path
    """Folder of the run."""
    key: str = ""
    """Name of the reading of the file, from the last answer."""
    lines: int = 0
    """Number of lines, from the last answer."""


class Curves:
    """The files of metrics that browsers look at. Threads may share it."""

    def __init__(self, workspace: Workspace) -> None:
        """Follow nothing yet."""
        self._workspace = workspace
        self._tails: OrderedDict[Path, MetricsTail] = OrderedDict()
        self._lock = Lock()

    def answer(self, runs: Sequence[Seen], layout: str, texts: Translator) -> dict[str, Any]:
        """Return what is new in some runs, and their panels if these are not those of `layout`.

        `health` is what the metrics of the first run say; None if nothing was added to them.
        """
        parts, curves, health = {}, [], None
        for number, run in enumerate(runs):
            tail = self._tail(run.folder)
            tail.refresh(READ_SECONDS / len(runs))
            with tail.lock:  # parts and panels must be of the same lines
                parts[self._workspace.shown(run.folder)] = tail.since(run.key, run.lines)
                curves.append(curves_of(tail, run.folder))
                if number == 0 and (run.key, run.lines) != (tail.key, tail.lines):
                    health = _health(curves[0])
        panels = [self._panel(panel, texts) for panel in all_panels(_named(curves))]
        name = hashlib.sha256(json.dumps(panels).encode()).hexdigest()[:16]
        return {"runs": parts, "layout": name, "panels": None if name == layout else panels, "health": health}

    def zoom(self, runs: Mapping[Path, Sequence[str]], first: float, last: float) -> dict[str, Any]:
        """Return metrics of runs between two steps in detail."""
        found = {}
        for folder, names in runs.items():
            window = self._tail(folder).window(names, first, last, 2 * READ_SECONDS / len(runs))
            found[self._workspace.shown(folder)] = {
                name: part for name, curve in window.items() if (part := part_of(curve)) is not None
            }
        return {"runs": found}

    def _tail(self, folder: Path) -> MetricsTail:
        with self._lock:
            tail = self._tails.setdefault(folder, MetricsTail(folder / METRICS_FILE))
            self._tails.move_to_end(folder)
            if len(self._tails) > MAX_TAILS:
                self._tails.popitem(last=False)
            return tail

    def _panel(self, panel: Panel, texts: Translator) -> dict[str, Any]:
        return {
            "key": panel.key,
            "title": texts.message(panel.title),
            "is_logarithmic": panel.is_logarithmic,
            "top": panel.top,
            "guides": [{"value": guide.value, "label": texts.message(guide.label)} for guide in panel.guides],
            "lines": [self._line(line, texts) for line in panel.lines],
        }

    def _line(self, line: Line, texts: Translator) -> dict[str, Any]:
        return {
            "run": self._workspace.shown(line.run.folder),
            "metric": line.metric,
            "name": texts(line.name) if line.name in NAMES else texts.message(line.name),
            "has_label": bool(line.label),
            "color": line.color,
            "opacity": line.opacity,
            "has_markers": line.has_markers,
        }


def _health(run: RunCurves) -> list[dict[str, Any]]:
    """Return what the evaluations of a run say."""
    series = {
        name: list(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
        for name, curve in run.curves.items()
        if name.startswith("eval/")
    }
    return [dataclasses.asdict(finding) for finding in findings_of(series)]


def _named(runs: Sequence[RunCurves]) -> list[RunCurves]:
    """Return runs with a metric at least; one that has just begun has no panel of its own."""
    return [run for run in runs if run.curves] or list(runs)
