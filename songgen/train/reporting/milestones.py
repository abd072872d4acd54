"""Next milestones of a run (a loss, an accuracy), and a robust estimate of the step at which each is reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from songgen.train.reporting.trackers import METRICS_FILE, read_metrics

LOSS_METRICS = ("train/unweighted_loss", "train/loss")
"""Training losses; the first that a run reports counts, since it does not depend on weights that change."""

ACCURACY_METRIC = "eval/accuracy"

MIN_POINTS = 4
"""Points from which a trend is estimated."""

MAX_POINTS = 48
"""Points that a trend is fitted to; more are merged to medians. All pairs of them are compared."""


def _same(step: float) -> float:
    return step


@dataclass(frozen=True)
class Fit:
    """Straight line through the logarithms of a curve's values, over the steps or over their logarithms.

    Slope and intercept are medians (Theil and Sen), which up to 29 % of outliers cannot move far.
    """

    scale: Callable[[float], float]
    """Scale of the steps: themselves, for an exponential law; their logarithms, for a power law."""
    slope: float
    """Change of the logarithm of the value with the scaled step."""
    intercept: float
    """Logarithm of the value where the scaled step is 0."""

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]], scale: Callable[[float], float]) -> Fit:
        """Fit points with different steps and values above 0."""
        logs = [(scale(step), math.log(value)) for step, value in points]
        slopes = [(right[1] - left[1]) / (right[0] - left[0]) for left, right in combinations(logs, 2)]
        slope = statistics.median(slopes)
        return cls(scale, slope, statistics.median(value - slope * step for step, value in logs))

    def at(self, step: float) -> float:
        """Return the value at a step."""
        return math.exp(self.intercept + self.slope * self.scale(step))

    def step_of(self, value: float) -> float:
        """Return the step at which the value is reached; infinity if it never is, or after 1e40 steps."""
        if self.slope >= 0:
            return math.inf
        scaled = (math.log(value) - self.intercept) / self.slope
        if self.scale is _same:
            return scaled
        return math.exp(scaled) if scaled < math.log(1e40) else math.inf


@dataclass(frozen=True)
class Trend:
    """Trend of a curve that falls, with an early and a late estimate of when it reaches a value.

    It is that of the later half of the steps, or of the last points if these are few. A model that learns a small data
    set by heart falls exponentially, one on much data as a power of the steps, and half of a run does not tell which.
    Of two runs of the demo, at half of the way to losses of 4, 3 and 2, the exponential law was at most 7 % early or
    late, and the power law 66 to 161 % late; both are given.
    """

    exponential: Fit
    """Exponential law, the early estimate."""
    power: Fit
    """Power law, the late one."""

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Trend | None:
        """Fit the later half of the steps; None if these are too few points, or values of 0 or less."""
        latest = points[-1][0] if points else 0
        half = [(step, value) for step, value in points if step >= latest / 2]
        window = _merged(half if len(half) >= MIN_POINTS else list(points[-MIN_POINTS:]))
        if len(window) < MIN_POINTS or window[0][0] <= 0 or min(value for _, value in window) <= 0:
            return None
        return cls(Fit.of(window, _same), Fit.of(window, math.log))

    def steps_of(self, value: float) -> tuple[float, float]:
        """Return the early and the late estimate of the step at which the value is reached; infinity for never."""
        early, late = sorted((self.exponential.step_of(value), self.power.step_of(value)))
        return early, late


def _merged(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return one point for each step, and at most `MAX_POINTS`: medians of equally many neighbours."""
    unique = sorted(dict(points).items())
    size = -(-len(unique) // MAX_POINTS)
    parts = [unique[start : start + size] for start in range(0, len(unique), max(1, size))]
    return [
        (statistics.median(step for step, _ in part), statistics.median(value for _, value in part)) for part in parts
    ]


@dataclass
class Milestones:
    """Milestones of a run and the curves that they are on."""

    losses: tuple[float, ...] = ()
    """Training losses, descending."""
    accuracies: tuple[float, ...] = ()
    """Accuracies in evaluation, ascending."""
    _loss: list[tuple[float, float]] = field(default_factory=list)
    _error: list[tuple[float, float]] = field(default_factory=list)

    def read(self, folder: Path) -> None:
        """Take the metrics that a resumed run has reported before; a file that cannot be read is left out."""
        try:
            rows = read_metrics(folder / METRICS_FILE)
        except OSError:
            return
        for row in rows:
            self.add({name: value for name, value in row.items() if isinstance(value, int | float)}, row["step"])

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics that are reported at a step."""
        loss = next((metrics[name] for name in LOSS_METRICS if name in metrics), math.nan)
        if self.losses and math.isfinite(loss):
            self._loss.append((step, loss))
        accuracy = metrics.get(ACCURACY_METRIC, math.nan)
        if self.accuracies and math.isfinite(accuracy):
            self._error.append((step, 1.0 - accuracy))  # falls as losses do
        for points in (self._loss, self._error):
            # Only the later half of the steps counts; the file of metrics keeps all of them.
            if len(points) > 4_000:
                del points[: len(points) // 4]

    def expected(self) -> list[Expectation]:
        """Return the next loss and the next accuracy, with the steps at which each is expected."""
        found = [
            _next("loss", self._loss, self.losses, lambda value: value),
            _next("accuracy", self._error, self.accuracies, lambda value: 1.0 - value),
        ]
        return [each for each in found if each is not None]


def describe(expected: Sequence[Expectation], total_steps: int, steps_per_second: float) -> str:
    """Return milestones, and when each is expected, as text; empty if there are none.

    Args:
        expected: the milestones.
        total_steps: optimizer steps of the run.
        steps_per_second: speed of the run.
    """
    texts = [each.text(total_steps, steps_per_second) for each in expected]
    return f"next: {', '.join(texts)}" if texts else ""


@dataclass(frozen=True)
class Expectation:
    """Next milestone of a curve."""

    metric: str
    """Metric: `loss` or `accuracy`."""
    value: float
    """Value that is to be reached."""
    step: float
    """Step of the curve's latest point."""
    steps: tuple[float, float] | None
    """Early and late estimate of the step at which it is reached, infinite for never; None if there are too few
    points."""

    @property
    def name(self) -> str:
        """Name of the milestone."""
        return f"{self.metric} {self.value:g}"

    def text(self, total_steps: int, steps_per_second: float) -> str:
        """Return the milestone and when it is expected as text."""
        if self.steps is None:
            return self.name
        early, late = (max(self.step + 1, step) for step in self.steps)
        if early > total_steps:
            return f"{self.name} not within this run"
        soon = self._duration(early, steps_per_second)
        if late > total_steps:
            return f"{self.name} in {soon} or later (step {early:,.0f}, perhaps not within this run)"
        if round(early) == round(late):
            return f"{self.name} in {soon} (step {early:,.0f})"
        return f"{self.name} in {soon} to {self._duration(late, steps_per_second)} (step {early:,.0f} to {late:,.0f})"

    def _duration(self, step: float, steps_per_second: float) -> str:
        return str(tqdm.format_interval((step - self.step) / steps_per_second)) if steps_per_second > 0 else "?"


def _next(
    metric: str,
    points: Sequence[tuple[float, float]],
    targets: Sequence[float],
    height: Callable[[float], float],
) -> Expectation | None:
    """Return the first target that a falling curve has not reached; None if there is no point or no such target.

    Args:
        metric: name of the metric.
        points: the curve.
        targets: targets, the nearest first.
        height: function from a target to its height on the curve.
    """
    if not points:
        return None
    step, trend = points[-1][0], Trend.of(points)
    # A single low value is not a milestone: that of the trend counts, or the middle of the last three.
    level = trend.power.at(step) if trend else statistics.median(value for _, value in points[-3:])
    target = next((target for target in targets if height(target) < level), None)
    if target is None:
        return None
    steps = trend.steps_of(height(target)) if trend and height(target) > 0 else None
    return Expectation(metric, target, step, steps)
