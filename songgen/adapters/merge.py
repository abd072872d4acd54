"""Merging adapters into the base: whole weights that need no peft, and what the merging changed by rounding."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from songgen.adapters.apply import adapter_layers
from songgen.adapters.quantization import quantize

_PROBES = 64


@dataclass(frozen=True)
class MergeDifference:
    """How far the merged layers are from the base with its adapters, for random inputs of unit variance."""

    layers: int
    """Merged layers."""
    largest: float
    """Largest difference of a value that a layer computes."""
    relative: float
    """Largest ratio of a layer's difference to what it computes, both as Euclidean norms."""
    quantized: float | None = None
    """The same ratio to the quantized base with the adapter, as it was trained; None for a base that was not."""

    def __str__(self) -> str:
        """Return one line, and a second one for a base that was quantized."""
        text = (
            f"{self.layers} layers merged; they differ from the base with its adapter by at most {self.largest:.2g} in "
            f"a value and {self.relative:.2g} of a layer's output"
        )
        if self.quantized is None:
            return text
        return (
            f"{text}\nthe adapter was trained next to a quantized base, and is merged into the base's own weights: "
            f"from what was trained, a layer differs by at most {self.quantized:.2g} of its output, the rounding of "
            "the quantization"
        )


@torch.no_grad()
def merge_adapters(
    model: nn.Module, precisions: Mapping[str, torch.dtype] | None = None, *, quantization: str | None = None
) -> MergeDifference:
    """Add the attached adapters to the weights of their layers, and put the plain layers back, in place.

    Args:
        model: a model with attached adapters, with plain weights (not quantized).
        precisions: name of a weight -> precision to which it is rounded, that of the stored base; others stay as they
            are.
        quantization: quantization of the base while the adapters were trained, to measure what it makes of the
            adapted linear layers; None for none.

    Raises:
        ValueError: if a merged weight is not finite.
    """
    layers = adapter_layers(model)
    largest = relative = 0.0
    rounding: list[float] = []
    for name, layer in layers.items():
        probe = _probe(layer.get_base_layer())
        before = layer(probe).float()
        if quantization is not None and isinstance(layer.get_base_layer(), nn.Linear):
            rounding.append(_quantization_error(layer.get_base_layer(), probe, quantization, before))
        layer.merge(safe_merge=True)
        plain = layer.get_base_layer()
        for key, parameter in plain.named_parameters():
            precision = (precisions or {}).get(f"{name}.{key}")
            if precision is not None:
                parameter.data = parameter.data.to(precision).to(parameter.dtype)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, plain)
        difference = plain(probe).float() - before
        largest = max(largest, difference.abs().max().item())
        relative = max(relative, _ratio(difference, before))
    return MergeDifference(len(layers), largest, relative, max(rounding) if rounding else None)


def _quantization_error(layer: nn.Linear, probe: Tensor, kind: str, output: Tensor) -> float:
    """Return how far a layer's quantized copy is from the layer, as a ratio to what the layer computes adapted."""
    holder = nn.ModuleDict({"layer": copy.deepcopy(layer)})
    quantize(holder, ["layer"], kind, compute_dtype=torch.float32, device=layer.weight.device)
    return _ratio(holder["layer"](probe).float() - layer(probe).float(), output)


def _ratio(difference: Tensor, whole: Tensor) -> float:
    return (difference.norm() / whole.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()


def _probe(layer: Any) -> Tensor:
    """Return random inputs of a layer, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Embedding):
        return torch.randint(layer.num_embeddings, (_PROBES,), generator=generator).to(layer.weight.device)
    if isinstance(layer, nn.Conv1d):
        shape: tuple[int, ...] = (1, layer.in_channels, _PROBES)
    else:
        shape = (_PROBES, layer.in_features)
    return torch.randn(shape, generator=generator).to(layer.weight)
