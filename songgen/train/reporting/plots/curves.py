"""Metrics of a run as curves: read from its file, thinned for drawing."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songgen.runtime.json_lines import read_lines
from songgen.train.reporting.trackers import METRICS_FILE, read_metric

MAX_POINTS = 1_000
"""Points of a curve above which neighbours are drawn as one: a picture has no more columns."""

_NOT_METRICS = frozenset({"step", "epoch", "time"})

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of a run."""

    steps: Vector
    """Steps, ascending."""
    values: Vector
    """Values, or means of neighbouring values; all finite."""
    lowest: Vector | None = None
    """Lowest of the values behind each mean; None if nothing was thinned."""
    highest: Vector | None = None
    """Highest of the values behind each mean."""

    def __bool__(self) -> bool:
        """Return whether there is a point."""
        return len(self.steps) > 0

    def thinned(self, max_points: int = MAX_POINTS) -> Curve:
        """Return a curve of at most `max_points`: means over equally long parts, with the lowest and highest value.

        The range shows spikes that a mean hides, and that a choice of single points would show or not by chance.
        """
        if len(self.steps) <= max_points:
            return self
        starts = np.unique(np.linspace(0, len(self.steps), max_points, endpoint=False).astype(int))
        sizes = np.diff([*starts, len(self.steps)])
        return Curve(
            np.add.reduceat(self.steps, starts) / sizes,
            np.add.reduceat(self.values, starts) / sizes,
            np.minimum.reduceat(self.values, starts),
            np.maximum.reduceat(self.values, starts),
        )


@dataclass(frozen=True)
class RunCurves:
    """All metrics of a run."""

    name: str
    """Name of the run."""
    folder: Path
    """Folder of the run."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """Metric, such as `train/loss` -> curve."""
    damaged_lines: int = 0
    """Number of lines that could not be read."""

    def first_of(self, *names: str) -> Curve | None:
        """Return the curve of the first metric that the run has; None if it has none of them."""
        return next((self.curves[name] for name in names if name in self.curves), None)


def read_curves(folder: Path) -> RunCurves:
    """Read the metrics of a run, finished or running; damaged lines are counted and left out.

    Values are kept as plain numbers, 16 bytes each: 100,000 lines of 30 metrics take 48 MB.
    """
    steps: dict[str, array[float]] = defaultdict(lambda: array("d"))
    values: dict[str, array[float]] = defaultdict(lambda: array("d"))

    def take(line: bytes) -> None:
        record = read_metric(line)
        for name, value in record.items():
            if name not in _NOT_METRICS and _is_finite(value):
                steps[name].append(record["step"])
                values[name].append(value)

    lines = read_lines(folder / METRICS_FILE, take)
    curves = {name: _in_order(np.array(steps[name]), np.array(values[name])) for name in values}
    return RunCurves(folder.resolve().name, folder, curves, len(lines.damaged))


def _is_finite(value: Any) -> bool:
    """Return whether a value is a finite number; a JSON integer can be too large for a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _in_order(steps: Vector, values: Vector) -> Curve:
    """Return a curve with ascending steps. A step that a damaged line repeats counts as often as it is written."""
    order = np.argsort(steps, kind="stable")
    return Curve(steps[order], values[order])
