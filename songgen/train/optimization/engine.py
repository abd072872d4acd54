"""Engines, which compute, exchange, clip and apply gradients: accelerate's here, DeepSpeed's in its own module."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from songgen.families.trainable import Trainable
from songgen.train.optimization.master_weights import MasterWeights
from songgen.train.optimization.named_tensors import (
    copy_tensors,
    gather_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
)


@dataclass(frozen=True)
class GradientLimit:
    """Limit of the gradients of a step, applied to the sums over all its micro-batches and processes."""

    bound: float
    """Largest norm, or largest absolute value of an element."""
    by_element: bool = False
    """Whether each element is clipped by itself; otherwise all gradients are scaled down together."""

    @property
    def max_norm(self) -> float:
        """Largest norm."""
        return math.inf if self.by_element else self.bound

    def clip_elements(self, gradients: Iterable[Tensor]) -> None:
        """Clip each element, in place, if that is the limit. Shards of a gradient are clipped as they are."""
        if not self.by_element:
            return
        for gradient in gradients:
            own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            own.clamp_(-self.bound, self.bound)


class Engine(Protocol):
    """Computes gradients and updates the weights of a model. Every process must call its methods together.

    It decides nothing: the processes agree whether a step changes the weights, and then call `step` or
    `discard_gradients`.
    """

    @property
    def model(self) -> nn.Module:
        """Wrapped model, called with the model's keyword arguments."""

    @property
    def trainable(self) -> Trainable:
        """Trained parameters of the model."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name, as the optimizer updates and a checkpoint holds them."""

    @property
    def optimizer(self) -> Any:
        """Optimizer, whose `param_groups` hold the learning rates."""

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Return the context of a micro-batch's passes; the last micro-batch of a step completes its gradients."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; gradients are averaged over the processes."""

    def clip_gradients(self, limit: GradientLimit) -> Tensor:
        """Clip the gradients, and return their norm over all processes before that (scalar float32)."""

    def step(self) -> None:
        """Update the weights and clear the gradients."""

    def show_weights(self) -> None:
        """Let the model compute with the values of `parameters`, after these were changed by others than `step`."""

    def discard_gradients(self) -> None:
        """Clear the gradients; nothing else changes."""

    def optimizer_tensors(self, *, keep: bool) -> dict[str, Tensor]:
        """Return the whole optimizer state on the CPU by `<parameter>.<entry>`; empty if `keep` is false."""

    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Load weights and optimizer state of a checkpoint; the optimizer keeps its own hyper-parameters.

        Raises:
            ValueError: if they belong to other parameters than those that are trained.
        """


@dataclass
class AcceleratedEngine:
    """Engine for a single process, DDP or FSDP2, as wrapped by accelerate."""

    accelerator: Accelerator
    """Accelerator, for precision and the backward pass."""
    model: nn.Module
    """Model prepared by the accelerator."""
    optimizer: Any
    """Optimizer prepared by the accelerator."""
    trainable: Trainable
    """Trained parameters of the model."""
    masters: MasterWeights | None = None
    """float32 weights of a model that has them in 16 bits; None if the model's own are trained."""

    def __post_init__(self) -> None:
        """Keep references to the parameters: while FSDP2 has gathered weights, a module shows other tensors."""
        self.parameters = self.masters.parameters if self.masters else self.trainable.parameters(self.model)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """See `Engine`. Gradients are exchanged in the backward pass of the last micro-batch only."""
        self.accelerator.sync_gradients = is_last
        return nullcontext() if is_last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        self.accelerator.backward(loss)

    def clip_gradients(self, limit: GradientLimit) -> Tensor:
        """See `Engine`. In float16 the gradients are divided by the loss scale first."""
        if self.masters is not None:
            self.masters.take_gradients()
        parameters = list(self.model.parameters() if self.masters is None else self.parameters.values())
        norm = self.accelerator.clip_grad_norm_(parameters, limit.max_norm)
        limit.clip_elements(entry.grad for entry in parameters if entry.grad is not None)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return torch.as_tensor(whole, device=self.accelerator.device).detach().float()

    def step(self) -> None:
        """See `Engine`."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.show_weights()

    def show_weights(self) -> None:
        """See `Engine`."""
        if self.masters is not None:
            self.masters.show()

    def discard_gradients(self) -> None:
        """See `Engine`. In float16 the loss scaler is told, and lowers its scale after an overflow."""
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()
        self.optimizer.zero_grad()

    def optimizer_tensors(self, *, keep: bool) -> dict[str, Tensor]:
        """See `Engine`."""
        return gather_tensors(optimizer_tensors(self.parameters, self.optimizer.optimizer), keep=keep)

    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """See `Engine`."""
        copy_tensors(self.parameters, weights)
        load_optimizer_tensors(self.parameters, self.optimizer.optimizer, optimizer)
        self.show_weights()
