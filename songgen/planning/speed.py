"""Estimate of a run's time: a short measurement of the machine, and the operations of the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from songgen.families.costs import FLOAT32, BatchCosts

MEASURED_SECONDS, MIN_CALLS = 0.01, 3
"""Seconds and calls of each of the three measurements."""

CERTAINTY = 2.0
"""Factor by which a run may be slower or faster than estimated. Measured on one core of a CPU, in CPU time: models of
width 16 to 512 took 0.7 to 1.4 times the estimate. On GPUs it is not measured."""

PRODUCT_EFFICIENCY = {"cpu": 0.6, "cuda": 0.5}
"""Share of the speed of a large product that the model's products reach: they have other shapes."""

HOST_FACTOR = 10.0
"""Time to start an operation of the model, in that of a bare one: modules, autograd and the optimizer."""

UPDATE_MOVES = 5
"""Times that an update reads or writes each trained weight and its moments and gradients, in float32 numbers."""

_MATRIX = {"cpu": 256, "cuda": 4096}
"""Rows and columns of the measured product: large enough for the full speed of the device."""

_VECTOR = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Numbers of the measured copy: more than the caches of one core hold."""


@dataclass(frozen=True)
class Speed:
    """Speed of a device."""

    operations: float
    """Floating-point operations of matrix products in a second."""
    bandwidth: float
    """Bytes read or written in a second."""
    start: float
    """Seconds to start one operation."""

    def seconds(self, batch: BatchCosts) -> float:
        """Return the time of the passes of a micro-batch."""
        return batch.operations / self.operations + batch.moved / self.bandwidth + batch.kernels * self.start


@dataclass(frozen=True)
class TimeEstimate:
    """Estimated time of a run."""

    step: float
    """Seconds of an optimizer step."""
    steps: int
    """Number of steps that are left."""

    @property
    def seconds(self) -> float:
        """Seconds of all steps, without evaluations and checkpoints."""
        return self.step * self.steps


def measured_speed(device: str, dtype: str) -> Speed:
    """Measure a device; it takes about a twentieth of a second.

    Args:
        device: type of the device.
        dtype: precision of the matrix products.
    """
    kind, size = getattr(torch, dtype), _MATRIX[device]
    matrix = torch.ones(size, size, dtype=kind, device=device)
    vector = torch.ones(_VECTOR[device], device=device)
    small = torch.ones(8, device=device)
    return Speed(
        operations=PRODUCT_EFFICIENCY[device] * 2.0 * size**3 / _seconds(lambda: matrix @ matrix, device),
        bandwidth=2.0 * vector.numel() * FLOAT32 / _seconds(lambda: vector * 1.5, device),
        start=HOST_FACTOR * _seconds(lambda: small * 1.5, device),
    )


def estimate_time(speed: Speed, batch: BatchCosts, *, accumulation: int, trained: int, steps: int) -> TimeEstimate:
    """Estimate the time of the steps of a run.

    Args:
        speed: speed of the device.
        batch: costs of a micro-batch of average size.
        accumulation: micro-batches of a process in a step.
        trained: number of trained weights of a process.
        steps: number of steps that are left.
    """
    update = UPDATE_MOVES * FLOAT32 * trained / speed.bandwidth
    return TimeEstimate(accumulation * speed.seconds(batch) + update, steps)


def shown_seconds(seconds: float) -> str:
    """Return a duration as text, rounded to what an estimate can know."""
    for text, size in (("{:.2g} days", 86_400), ("{:.2g} hours", 3_600), ("{:.2g} minutes", 60)):
        if seconds >= 1.5 * size:
            return text.format(seconds / size)
    return f"{max(1.0, seconds):.2g} s"


def _seconds(call: Callable[[], object], device: str) -> float:
    """Return the shortest time of a call within `MEASURED_SECONDS`, of at least three.

    On a CPU the time of this thread counts, which other programs on the machine do not change.
    """
    clock = time.perf_counter if device == "cuda" else time.thread_time
    call()
    best, begin, calls = math.inf, clock(), 0
    while calls < MIN_CALLS or clock() - begin < MEASURED_SECONDS:
        started = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - started)
        calls += 1
    return max(best, 1e-9)
