"""Speed of this machine: the precision in which it trains faster, the expected time, and other programs at work."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

_ROWS, _WIDTH, _ROUNDS = 1024, 512, 5
_WORTH_IT = 1.5

# The demo in float32 took 606 seconds on two otherwise idle cores (AMD EPYC), and a product 7.3 ms. About 200 seconds
# do not depend on the precision.
_FIXED_SECONDS = 200.0
_TRAINING_PER_SECOND = 5.6e4

_LOAD_SECONDS = 0.3
_BUSY_CORES = 0.25


@dataclass(frozen=True)
class Speed:
    """Precision to train in, and how fast this machine is in it."""

    dtype: str
    """"bfloat16" or "float32"."""
    product_seconds: float
    """Shortest time of a matrix product of fixed size."""

    @property
    def expected_minutes(self) -> int:
        """Expected time of the whole demo, if nothing else runs."""
        return round((_FIXED_SECONDS + _TRAINING_PER_SECOND * self.product_seconds) / 60)


def measure_speed(dtype: str | None = None) -> Speed:
    """Measure matrix products for a fraction of a second.

    Args:
        dtype: precision to train in; None: bfloat16 if this processor is clearly faster in it, else float32.
    """
    seconds = {name: _seconds(getattr(torch, name)) for name in ("float32", "bfloat16")}
    if dtype is None:
        dtype = "bfloat16" if seconds["float32"] > _WORTH_IT * seconds["bfloat16"] else "float32"
    return Speed(dtype, seconds[dtype])


def environment() -> Mapping[str, str]:
    """Return the environment of a step: on a busy machine, threads sleep while they wait for each other.

    By default, OpenMP's threads spin while they wait, which is faster on an idle machine (by 3 to 10 % in training) and
    much slower beside another program that computes (by 25 % and more), since they wait for one that is not running.
    """
    cores = os.cpu_count() or 1
    # The load average also counts the demo's own step before this one, which keeps at most all cores busy.
    busy = psutil.cpu_percent(_LOAD_SECONDS) / 100 * cores > _BUSY_CORES or psutil.getloadavg()[0] > cores + _BUSY_CORES
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"} if busy and "OMP_WAIT_POLICY" not in os.environ else os.environ


def _seconds(dtype: torch.dtype) -> float:
    """Return the shortest time of a matrix product."""
    left, right = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _ROWS, dtype=dtype)
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return min(times)
