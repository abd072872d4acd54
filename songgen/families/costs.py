"""Costs of training a model, computed from its configuration before it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from songgen.config import RunConfig
from songgen.data.schema import DatasetInfo
from songgen.families.objective import DataNeeds

FLOAT32 = 4
"""Bytes of a float32 number."""

HALF = 2
"""Bytes of a bfloat16 or float16 number."""


@dataclass(frozen=True)
class BatchSize:
    """Size of a micro-batch, padding included."""

    clips: int
    """Number of clips."""
    frames: int
    """Frames of the longest clip."""
    caption: int
    """Tokens of the longest caption."""
    lyrics: int
    """Tokens of the longest lyrics."""
    voice_samples: int
    """Samples of the longest reference voice; 0 without voices."""


@dataclass(frozen=True)
class AdapterPlan:
    """LoRA adapters that a run trains in place of the weights of a model."""

    ranks: Mapping[str, int]
    """Name of each adapted linear layer -> rank of its adapter."""
    dropout: float = 0.0
    """Dropout rate in front of the adapters."""
    saved: frozenset[str] = frozenset()
    """Names of the parameters of layers that are trained whole."""
    has_magnitudes: bool = False
    """Whether the magnitudes of the outputs are trained too (DoRA)."""
    quantized: frozenset[str] = frozenset()
    """Names of the linear layers of the base that are quantized."""
    quantization: str = "none"
    """How they are quantized: `nf4` in 4 bits, `int8` in 8."""


@dataclass(frozen=True)
class WeightCounts:
    """Numbers of weights, and their bytes where they are not stored in the precision of the others."""

    trained: int
    """Trained weights, adapters included."""
    frozen: int
    """Weights of the model that are neither trained nor quantized."""
    quantized_bytes: int = 0
    """Bytes of quantized weights with their scales."""
    largest_block: int = 0
    """Weights of the largest part that is gathered at once when weights are sharded over processes."""
    total: int = 0
    """Weights of the model as its folder stores it, without adapters."""
    written: int = 0
    """Weights that the run writes at its end: those of the model, or of the adapter."""
    bytes_each: int = FLOAT32
    """Bytes of a weight in memory. With fewer than four, the optimizer keeps a float32 copy of the trained ones."""


LOSSES = "heads and losses"
"""Name in `BatchCosts.kept` of what the losses keep: it is free again when the backward pass comes to the layers."""

LAYERS = "decoder layers"
"""Name in `BatchCosts.kept` of what the layers keep, which the backward pass frees layer by layer."""


@dataclass(frozen=True)
class BatchCosts:
    """Costs of the forward and backward pass of one micro-batch.

    Memory is highest at the end of the forward pass, at the beginning of the backward pass, or while that computes the
    last layer (the first one that it comes to) or the first one: in between, layers free as much as their gradients
    take, or the other way round.
    """

    kept: Mapping[str, int] = field(default_factory=dict)
    """Bytes kept from the forward pass for the backward pass, by what they belong to."""
    forward: Mapping[str, int] = field(default_factory=dict)
    """Further bytes at the end of the forward pass."""
    backward: Mapping[str, int] = field(default_factory=dict)
    """Further bytes at the beginning of the backward pass."""
    layer: Mapping[str, int] = field(default_factory=dict)
    """Further bytes while the backward pass computes a layer."""
    gradients_before_layers: int = 0
    """Trained weights that have gradients when the backward pass comes to the last layer."""
    gradients_after_layers: int = 0
    """Trained weights that have gradients when it comes to the first layer."""
    operations: float = 0.0
    """Floating-point operations of the matrix products of both passes."""
    kernels: int = 0
    """Operations on tensors in both passes, each of which has to be started."""
    moved: int = 0
    """Bytes that operations other than matrix products read and write in both passes."""


@dataclass(frozen=True)
class OwnChoice:
    """Value of a key that a kind of model has in a new configuration."""

    value: Any
    """The value."""
    reason: str
    """Reason, in one line."""


class ModelCosts(Protocol):
    """Costs of a model in a run, whose configuration says what is trained and in which precision."""

    @property
    def weights(self) -> WeightCounts:
        """Numbers of weights."""

    @property
    def data_needs(self) -> DataNeeds:
        """Requirements on a data set."""

    def misfits(self, info: DatasetInfo) -> list[str]:
        """Return why the model cannot be trained on a data set, as far as no network has to be loaded for it."""

    @property
    def is_trained(self) -> bool:
        """Whether the model was trained before, so that a run continues with what it knows."""

    @property
    def encoders(self) -> Mapping[str, int | None]:
        """Bytes of each frozen network in memory while the model trains; None for a size that is not known."""

    @property
    def unused_keys(self) -> frozenset[str]:
        """Keys of the configuration that mean nothing for this model."""

    @property
    def own_choices(self) -> Mapping[str, OwnChoice]:
        """Values that keys have in a new configuration for this model, in place of those for any model."""

    def with_settings(self, config: RunConfig) -> ModelCosts:
        """Return the costs of the same model with other settings of its computation; what is trained stays."""

    def with_captions(self, tokens: int) -> ModelCosts:
        """Return the costs with captions of so many tokens in all, whose features may be computed before training."""

    def batch(self, size: BatchSize, device: str) -> BatchCosts:
        """Return the costs of a micro-batch.

        Args:
            size: size of the micro-batch.
            device: type of the device, `cpu` or `cuda`; their attention kernels keep different tensors.
        """
