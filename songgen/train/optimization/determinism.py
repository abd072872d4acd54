"""Deterministic operations, on request."""

from __future__ import annotations

import os

import torch

CUBLAS_WORKSPACE = ":4096:8"
"""Buffer setting with which cuBLAS uses the same algorithms in every call."""


def use_deterministic_operations() -> None:
    """Make this process compute deterministically. Operations without a deterministic form raise an error from then on.

    Call it before anything runs on a GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
