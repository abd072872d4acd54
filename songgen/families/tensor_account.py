"""Account of the tensors that a forward pass keeps for the backward pass, from sizes alone.

A family walks through its model operation by operation, as `forward` does, and the account notes what PyTorch's
autograd keeps of each. It must follow the rules below; tests compare it with the saved tensors of real models:

- a linear layer keeps its input if its weight is trained, and its weight if a gradient passes through. With autocast
  these are copies in lower precision, one for each layer that reads the tensor;
- a layer norm keeps its input and two statistics, dropout a mask, an activation its input;
- fused attention keeps queries, keys, values and its result; attention in plain operations keeps all weights.

Formulas per layer would be shorter, but what is kept depends on which weights are frozen, quantized or adapted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from songgen.families.costs import FLOAT32, AdapterPlan

MASK = 1
"""Bytes of an entry of a dropout mask."""

FUSED_BACKWARD = 2.5
"""Operations of the backward pass of fused attention, in those of its forward pass: the weights are computed again."""

PLAIN_BLOCK = 256
"""Queries that attention in plain operations computes at once."""


@dataclass(frozen=True)
class Flow:
    """Tensor between two operations."""

    key: str
    """Name; tensors of one name are one tensor."""
    numbers: int
    """Number of entries."""
    width: int
    """Bytes of an entry."""
    has_gradient: bool
    """Whether a gradient passes back through it."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.numbers * self.width


@dataclass(frozen=True)
class AttentionShape:
    """Shape of an attention operation."""

    clips: int
    """Sequences, B."""
    heads: int
    """Attention heads, A."""
    queries: int
    """Queries of a sequence."""
    keys: int
    """Keys of a sequence."""
    causal: bool = False
    """Whether a query sees only the keys up to its own position."""
    mask: int = 0
    """Entries of the mask, which is stored in the precision of the computation."""

    @property
    def weights(self) -> int:
        """Number of attention weights."""
        return self.clips * self.heads * self.queries * self.keys


class TensorAccount:
    """Account of one forward pass."""

    def __init__(
        self,
        is_trained: Callable[[str], bool],
        device: str,
        *,
        computed: int,
        stream: int = FLOAT32,
        plan: AdapterPlan | None = None,
    ) -> None:
        """Start with nothing.

        Args:
            is_trained: whether the parameter of a name is trained.
            device: type of the device, `cpu` or `cuda`.
            computed: bytes of a number in matrix products.
            stream: bytes of a number between layers, and of a weight.
            plan: adapters; None if there are none.
        """
        self.is_trained = is_trained
        self.device = device
        self.computed = computed
        self.stream = stream
        self.plan = plan or AdapterPlan({})
        self.tensors: dict[str, int] = {}
        self.casts: dict[str, int] = {}
        """Bytes of weights in the precision of the computation, which are kept too."""
        self.cached = 0
        """Bytes of such weights that autocast holds to the end of the forward pass, whether they are kept or not."""
        self.forward_operations = self.backward_operations = 0.0
        self.kernels = 0
        self.moved = 0

    @property
    def kept(self) -> int:
        """Bytes of all tensors that are kept, without weights."""
        return sum(self.tensors.values())

    @property
    def kept_weights(self) -> int:
        """Bytes of copies of weights that are kept."""
        return sum(self.casts.values())

    def include(self, other: TensorAccount, *, tensors: bool) -> None:
        """Add what another account counted; what it keeps only with `tensors`."""
        if tensors:
            self.tensors.update(other.tensors)
            self.casts.update(other.casts)
        self.cached += other.cached
        self.forward_operations += other.forward_operations
        self.backward_operations += other.backward_operations
        self.kernels += other.kernels
        self.moved += other.moved

    def keep(self, flow: Flow) -> None:
        """Note that a tensor is kept; one that is kept already costs nothing."""
        self.tensors[flow.key] = flow.size

    def new(self, key: str, numbers: int, width: int, *sources: Flow, trained: bool = False) -> Flow:
        """Return the result of an operation on other tensors."""
        self.kernels += 1
        self.moved += numbers * width + sum(flow.size for flow in sources)
        return Flow(key, numbers, width, trained or any(flow.has_gradient for flow in sources))

    def cast(self, flow: Flow, reader: str) -> Flow:
        """Return a tensor in the precision of the computation: itself, or a copy for its reader."""
        if flow.width == self.computed:
            return flow
        return replace(flow, key=f"{flow.key} for {reader}", width=self.computed)

    def linear(self, module: str, flow: Flow, inputs: int, outputs: int) -> Flow:
        """Note a linear layer, with its adapter if it has one."""
        trained, rank = self.is_trained(f"{module}.weight"), self.plan.ranks.get(module)
        rows, weight = flow.numbers // inputs, inputs * outputs
        read = self.cast(flow, module)
        if trained:
            self.keep(read)
        is_quantized = module in self.plan.quantized
        if self.computed != self.stream and not is_quantized:
            self.cached += weight * self.computed if trained else 0  # autocast caches copies of trained weights only
            if flow.has_gradient:
                self.casts[module] = weight * self.computed
        self._count(2.0 * rows * weight, times_back=flow.has_gradient + trained)
        if rank is not None:
            self._adapter(module, flow, inputs, outputs, rank)
        return self.new(module, rows * outputs, self.computed, flow, trained=trained or rank is not None)

    def _adapter(self, module: str, flow: Flow, inputs: int, outputs: int, rank: int) -> None:
        """Note the two layers of an adapter. PEFT brings their input to the precision of their weights, float32."""
        rows, read = flow.numbers // inputs, flow
        if flow.width != FLOAT32:
            read = replace(flow, key=f"{module} adapter", width=FLOAT32)
        if self.plan.dropout:
            read = self.dropout(f"{module} adapter dropout", read, self.plan.dropout)
        self.keep(self.cast(read, f"{module} adapter"))
        self.keep(Flow(f"{module} narrow", rows * rank, self.computed, True))
        self._count(2.0 * rows * rank * (inputs + outputs), times_back=2)
        self.kernels += 4

    def _count(self, operations: float, *, times_back: float) -> None:
        """Count the operations of a matrix product, and how often the backward pass takes as many."""
        self.forward_operations += operations
        self.backward_operations += operations * times_back

    def norm(self, module: str, flow: Flow, width: int) -> Flow:
        """Note a layer norm over `width` entries."""
        result = self.new(module, flow.numbers, self.stream, flow, trained=self.is_trained(f"{module}.weight"))
        if result.has_gradient:
            self.keep(flow if flow.width == self.stream else replace(flow, key=f"{module} input", width=self.stream))
            self.keep(Flow(f"{module} statistics", 2 * (flow.numbers // width), self.stream, False))
        return result

    def dropout(self, key: str, flow: Flow, rate: float) -> Flow:
        """Note dropout; without a rate, nothing happens. On a CPU, the mask is a factor for each number."""
        if not rate:
            return flow
        if flow.has_gradient:
            self.keep(Flow(f"{key} mask", flow.numbers, flow.width if self.device == "cpu" else MASK, False))
        return self.new(key, flow.numbers, flow.width, flow)

    def activation(self, key: str, flow: Flow, *, keeps_result: bool = False) -> Flow:
        """Note an activation, which keeps its input (or its result, as relu does)."""
        result = self.new(key, flow.numbers, flow.width, flow)
        if flow.has_gradient:
            self.keep(result if keeps_result else flow)
        return result

    def add(self, key: str, first: Flow, second: Flow) -> Flow:
        """Note a sum of two tensors of one shape."""
        return self.new(key, first.numbers, max(first.width, second.width), first, second)

    def fused_attention(self, key: str, query: Flow, keys: Flow, values: Flow, shape: AttentionShape) -> Flow:
        """Note attention in one kernel."""
        result = self.new(key, query.numbers, self.computed, query, keys, values)
        if result.has_gradient:
            for flow in (query, keys, values):
                self.keep(self.cast(flow, key))
            self.keep(result)
            self.keep(Flow(f"{key} sums", shape.clips * shape.heads * shape.queries, FLOAT32, False))
            self.keep(Flow(f"{key} mask", shape.mask, self.computed, False))
        self._attention_operations(shape, query, FUSED_BACKWARD if result.has_gradient else 0.0)
        return result

    def plain_attention(
        self, key: str, query: Flow, keys: Flow, values: Flow, shape: AttentionShape, *, dropout: float = 0.0
    ) -> Flow:
        """Note attention in plain operations, block by block as `songgen.models.attention` computes it."""
        result = self.new(key, query.numbers, self.computed, query, keys, values)
        blocks = -(-shape.queries // PLAIN_BLOCK)
        # Of causal attention, each block of queries reads the keys up to its end: (n + 1) / 2n of them on average.
        share = (blocks + 1) / (2 * blocks) if shape.causal else 1.0
        if result.has_gradient:
            weights = round(shape.weights * share)
            for name, numbers, width in (
                ("queries", query.numbers, self.computed),
                ("keys", round(keys.numbers * blocks * share), self.computed),
                ("values", round(values.numbers * blocks * share), self.computed),
                ("weights", weights, self.computed),
                ("dropout mask", weights * bool(dropout), self.computed if self.device == "cpu" else MASK),
                ("dropped weights", weights * bool(dropout), self.computed),
            ):
                self.keep(Flow(f"{key} {name}", numbers, width, False))
        self._attention_operations(shape, query, 2.0 if result.has_gradient else 0.0)
        self.kernels += 5 * blocks
        # The heads are brought next to each other again, which copies the result.
        return replace(result, key=f"{key} joined")

    def _attention_operations(self, shape: AttentionShape, query: Flow, times_back: float) -> None:
        """Count the two products of attention."""
        operations = 4.0 * query.numbers * shape.keys * (0.5 if shape.causal else 1.0)
        self._count(operations, times_back=times_back)
