"""Choice of the precision in which this processor trains faster."""

from __future__ import annotations

import time

import torch

_ROWS, _WIDTH, _ROUNDS = 1024, 512, 5
_WORTH_IT = 1.5


def training_dtype() -> str:
    """Return "bfloat16" if the processor multiplies matrices clearly faster in it than in float32, else "float32"."""
    return "bfloat16" if _seconds(torch.float32) > _WORTH_IT * _seconds(torch.bfloat16) else "float32"


def _seconds(dtype: torch.dtype) -> float:
    """Return the shortest time of a few matrix products."""
    left, right = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _ROWS, dtype=dtype)
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return min(times)
