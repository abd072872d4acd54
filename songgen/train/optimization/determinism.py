"""Operations that give the same bits every time, on request."""

from __future__ import annotations

import os

import torch

CUBLAS_WORKSPACE = ":4096:8"
"""Fixed buffers, without which cuBLAS picks other algorithms from call to call."""


def use_deterministic_operations() -> None:
    """Compute everything in this process deterministically; an operation without such a form raises from then on.

    Must be called before anything has run on a GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
