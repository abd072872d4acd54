"""Options of an adapter, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

QUANTIZATIONS = ("none", "nf4", "int8")
"""Precisions of a base model in memory; see `songgen.adapters.quantization`."""


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """What is attached to a base model, and how the base is kept in memory."""

    targets: tuple[str, ...]
    """Layers that get an adapter; see `songgen.adapters.targets` for how they are named here and below."""
    rank: int
    """Rank of the adapters."""
    alpha: int
    """Numerator of the scale of their outputs."""
    dropout: float = 0.0
    """Dropout rate of their inputs."""
    use_rslora: bool = False
    """Whether the scale is alpha / sqrt(rank) instead of alpha / rank."""
    use_dora: bool = False
    """Whether magnitudes are trained separately from directions."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Other ranks of some layers."""
    alpha_pattern: Mapping[str, int] = field(default_factory=dict)
    """Other numerators of some layers."""
    modules_to_save: tuple[str, ...] = ()
    """Layers that are trained whole."""
    quantization: str = "none"
    """Precision of the base, one of `QUANTIZATIONS`."""
