"""Estimate of the memory that a process of a run needs on its device, term by term, before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from songgen.families.costs import FLOAT32, LAYERS, LOSSES, BatchCosts, ModelCosts, WeightCounts

MOMENTS = FORWARD, BACKWARD, LAST_LAYER, FIRST_LAYER, UPDATE = (
    "at the end of the forward pass",
    "at the beginning of the backward pass",
    "in the backward pass of the last layer",
    "in the backward pass of the first layer",
    "while the weights are updated",
)
"""Moments of a step at which memory can be highest."""

ALWAYS = frozenset(MOMENTS)

OPTIMIZER_BYTES = {"adamw": 8, "adamw_8bit": 2}
"""Optimizer -> bytes of its state for each trained weight. The 8-bit one adds a scale of 4 bytes for 256 weights and
moment, and keeps small tensors in 32 bits, which is less than 3 % of it."""

CUDA_CONTEXT = 600 * 2**20
"""Bytes of the CUDA context and of cuBLAS's work space, which are not allocated by torch."""

CUDA_FRAGMENTATION = 0.05
"""Share of the tensors' bytes that the allocator holds besides, because pieces do not fit together."""

CPU_PROGRAM = 550 * 2**20
"""Bytes of the program and its libraries in main memory."""

EXCHANGE_BYTES = 200_000_000
"""Bytes of the buckets in which DeepSpeed exchanges gradients (`songgen.train.optimization.deepspeed`)."""

Sharding = Literal["none", "gradients", "weights"]
"""What processes share: nothing (DDP), gradients and optimizer state (ZeRO-2), or the weights too (FSDP2)."""


@dataclass(frozen=True)
class Processes:
    """Processes of a run, as far as memory depends on them."""

    count: int = 1
    """Number of processes."""
    sharding: Sharding = "none"
    """What the processes share."""
    exchanges_in_buckets: bool = False
    """Whether DeepSpeed exchanges the gradients."""


@dataclass(frozen=True)
class StepSettings:
    """Settings of a run that decide what is in memory besides the model."""

    optimizer: str = "adamw"
    """Name of the optimizer."""
    keeps_average: bool = False
    """Whether a moving average of the weights is kept."""
    accumulates: bool = False
    """Whether a step has several micro-batches, so that gradients exist during their forward passes."""


@dataclass(frozen=True)
class Term:
    """Part of the memory."""

    name: str
    """What needs it."""
    size: int
    """Bytes."""
    moments: frozenset[str] = ALWAYS
    """Moments at which it is there."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated memory of a process on its device."""

    terms: tuple[Term, ...]
    """All parts."""
    outside: tuple[Term, ...] = ()
    """What the process needs besides its tensors: context, libraries, fragmentation."""

    def at(self, moment: str) -> int:
        """Return the bytes of tensors at a moment."""
        return sum(term.size for term in self.terms if moment in term.moments)

    @property
    def peak_moment(self) -> str:
        """Moment at which most memory is needed."""
        return max(MOMENTS, key=self.at)

    @property
    def tensors(self) -> int:
        """Most bytes of tensors at one moment, as `torch.cuda.max_memory_allocated` counts them."""
        return self.at(self.peak_moment)

    @property
    def total(self) -> int:
        """Most bytes of the process on its device."""
        return self.tensors + sum(term.size for term in self.outside)

    def rows(self) -> list[tuple[str, int, bool]]:
        """Return name, bytes, and whether it is there at the peak, of every part."""
        moment = self.peak_moment
        return [(term.name, term.size, moment in term.moments) for term in (*self.terms, *self.outside) if term.size]


def estimate_memory(
    costs: ModelCosts, batch: BatchCosts, settings: StepSettings, processes: Processes, device: str
) -> MemoryEstimate:
    """Estimate the memory of one process.

    Args:
        costs: costs of the model.
        batch: costs of its largest micro-batch.
        settings: settings of the run.
        processes: processes of the run.
        device: type of the device, `cpu` or `cuda`.
    """
    terms = tuple(
        term
        for term in (
            *_weights(costs.weights, batch, settings, processes),
            *(Term(f"frozen {name.replace('_', ' ')}", size or 0) for name, size in costs.encoders.items()),
            *_batch(batch),
        )
        if term.size
    )
    tensors = MemoryEstimate(terms).tensors
    if device == "cpu":
        return MemoryEstimate(terms, (Term("program and libraries", CPU_PROGRAM),))
    fragmentation = Term("fragmentation of the allocator", round(CUDA_FRAGMENTATION * tensors))
    return MemoryEstimate(terms, (Term("CUDA context", CUDA_CONTEXT), fragmentation))


def _weights(counts: WeightCounts, batch: BatchCosts, settings: StepSettings, processes: Processes) -> Iterator[Term]:
    """Yield weights, gradients, optimizer state and average."""
    shards = processes.count if processes.sharding != "none" else 1
    weight_shards = processes.count if processes.sharding == "weights" else 1
    each = counts.bytes_each
    yield Term("trained weights", each * counts.trained // weight_shards)
    yield Term("frozen weights", each * counts.frozen // weight_shards)
    yield Term("quantized weights", counts.quantized_bytes)
    if weight_shards > 1:  # a layer that computes, and the next one
        yield Term("gathered layers", 2 * FLOAT32 * counts.largest_block)
    # Between steps there are no gradients, unless other processes or further micro-batches need them to stay.
    lasting = settings.accumulates or processes.count > 1
    yield Term("gradients", each * counts.trained // shards, ALWAYS if lasting else frozenset({UPDATE}))
    if not lasting:
        yield Term("gradients of the heads' weights", each * batch.gradients_before_layers, frozenset({LAST_LAYER}))
        yield Term("gradients of heads and layers", each * batch.gradients_after_layers, frozenset({FIRST_LAYER}))
    if processes.exchanges_in_buckets:
        yield Term("exchange of gradients", EXCHANGE_BYTES)
    elif processes.count > 1 and shards == 1:
        yield Term("exchange of gradients", FLOAT32 * counts.trained)
    if each < FLOAT32:
        yield Term("float32 copies of the trained weights", FLOAT32 * counts.trained)
    yield Term("optimizer state", OPTIMIZER_BYTES[settings.optimizer] * counts.trained // shards)
    if settings.keeps_average:
        yield Term("moving average", FLOAT32 * counts.trained // weight_shards)


def _batch(batch: BatchCosts) -> Iterator[Term]:
    """Yield what a micro-batch needs."""
    gone = {LOSSES: {LAST_LAYER, FIRST_LAYER, UPDATE}, LAYERS: {FIRST_LAYER, UPDATE}}
    for name, size in batch.kept.items():
        kind = name if name.startswith("copies") else f"activations: {name}"
        yield Term(kind, size, ALWAYS - gone.get(name, {UPDATE}))
    for found, moments in (
        (batch.forward, {FORWARD}),
        (batch.backward, {BACKWARD}),
        (batch.layer, {LAST_LAYER, FIRST_LAYER}),
    ):
        yield from (Term(name, size, frozenset(moments)) for name, size in found.items())


def shown_bytes(size: float) -> str:
    """Return a number of bytes as text."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}" if size < 100 * scale else f"{size / scale:.0f} {unit}"
    return f"{size / 1e3:.0f} kB"
