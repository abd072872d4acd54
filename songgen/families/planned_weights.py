"""Numbers of weights of a model in a run, from their shapes and what is trained of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from songgen.families.costs import FLOAT32, AdapterPlan, WeightCounts
from songgen.runtime.tensor_files import opened_tensors

QUANTIZED_BYTES = {"none": 0.0, "nf4": 4.127 / 8, "int8": 1.0}
"""Quantization -> bytes of a weight. nf4 has a scale for 64 weights, stored in 8 bits; int8 one for each output."""

_ENTRY_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1}
"""Name of a type in a safetensors file -> bytes."""


@dataclass(frozen=True)
class PlannedWeights:
    """Weights of a model in a run."""

    shapes: Mapping[str, torch.Size]
    """Name of each parameter -> its shape."""
    trained: frozenset[str]
    """Names of the trained parameters, without those of adapters."""
    plan: AdapterPlan | None
    """Adapters; None if the weights themselves are trained."""

    def counts(self, block: str, bytes_each: int) -> WeightCounts:
        """Count the weights.

        Args:
            block: beginning of the names of the largest part that is gathered at once when weights are sharded.
            bytes_each: bytes of a weight in memory.
        """
        plan = self.plan or AdapterPlan({})
        total, trained = (sum(self.shapes[name].numel() for name in names) for names in (self.shapes, self.trained))
        quantized = sum(self.shapes[f"{name}.weight"].numel() for name in plan.quantized)
        adapters = self._adapters(plan, plan.ranks)
        return WeightCounts(
            trained=trained + adapters,
            frozen=total - trained - quantized,
            quantized_bytes=round(quantized * QUANTIZED_BYTES[plan.quantization]),
            largest_block=sum(shape.numel() for name, shape in self.shapes.items() if name.startswith(block)),
            total=total,
            written=total if self.plan is None else trained + adapters,
            bytes_each=bytes_each,
        )

    def trained_in(self, prefixes: tuple[str, ...]) -> int:
        """Return the trained weights of parameters whose names begin with one of the prefixes, adapters included."""
        plan = self.plan or AdapterPlan({})
        own = sum(self.shapes[name].numel() for name in self.trained if name.startswith(prefixes))
        return own + self._adapters(plan, (name for name in plan.ranks if name.startswith(prefixes)))

    def _adapters(self, plan: AdapterPlan, modules: Iterable[str]) -> int:
        """Return the weights of adapters: two matrices around the narrow side, and magnitudes of the outputs."""
        count = 0
        for module in modules:
            outputs, *inputs = self.shapes[f"{module}.weight"]
            count += plan.ranks[module] * (outputs + math.prod(inputs)) + outputs * plan.has_magnitudes
        return count


def stored_bytes(files: Iterable[Path], left_out: tuple[str, ...] = (), bytes_each: int | None = None) -> int:
    """Return the bytes of the weights in files, from their headers.

    Args:
        files: safetensors files.
        left_out: beginnings of the names of weights that are not used.
        bytes_each: bytes of a weight in memory; None for those in the files.
    """
    size = 0
    for path in files:
        with opened_tensors(path) as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                if not (left_out and key.startswith(left_out)):
                    part = opened.get_slice(key)
                    each = bytes_each or _ENTRY_BYTES.get(part.get_dtype(), FLOAT32)
                    size += torch.Size(part.get_shape()).numel() * each
    return size
