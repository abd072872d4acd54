"""Metrics of a run as curves, thinned for drawing: means, with the lowest and highest value behind each.

The range shows spikes that a mean hides, and that a choice of single points would show or not by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from songgen.train.reporting.plots.buckets import Buckets, Vector
from songgen.train.reporting.plots.tail import MetricsTail
from songgen.train.reporting.trackers import METRICS_FILE


@dataclass(frozen=True)
class Curve:
    """A metric over the steps of a run."""

    steps: Vector
    """Steps, ascending."""
    values: Vector
    """Values, or means of neighbouring values; all finite."""
    last: tuple[float, float]
    """Newest step and value."""
    lowest: Vector | None = None
    """Lowest of the values behind each mean; None if nothing was thinned."""
    highest: Vector | None = None
    """Highest of the values behind each mean."""

    def __bool__(self) -> bool:
        """Return whether there is a point."""
        return len(self.steps) > 0


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
    """Read the metrics of a run, finished or running; damaged lines are counted and left out."""
    tail = MetricsTail(folder / METRICS_FILE)
    tail.refresh()
    return curves_of(tail, folder)


def curves_of(tail: MetricsTail, folder: Path) -> RunCurves:
    """Return the curves that were read of a run so far."""
    with tail.lock:
        curves = {name: _curve(buckets) for name, buckets in tail.curves.items()}
        return RunCurves(folder.resolve().name, folder, curves, tail.damaged)


def _curve(buckets: Buckets) -> Curve:
    """Return a curve with ascending steps, also if the lines of a damaged file are in another order."""
    steps, values, lowest, highest = buckets.columns()
    order = np.argsort(steps, kind="stable")
    if buckets.width == 1:
        return Curve(steps[order], values[order], buckets.last)
    return Curve(steps[order], values[order], buckets.last, lowest[order], highest[order])
