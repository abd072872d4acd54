"""Engines, which compute, exchange, clip and apply gradients: accelerate's here, DeepSpeed's in its own module."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from songgen.families.trainable import Trainable
from songgen.train.optimization.named_tensors import (
    copy_tensors,
    gather_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
)


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
        """Trained parameters of the wrapped model by name, as a checkpoint holds them."""

    @property
    def optimizer(self) -> Any:
        """Optimizer, whose `param_groups` hold the learning rates."""

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Return the context of a micro-batch's passes; the last micro-batch of a step completes its gradients."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; gradients are averaged over the processes."""

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm over all processes, and return their original norm (scalar float32)."""

    def step(self) -> None:
        """Update the weights and clear the gradients."""

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

    def __post_init__(self) -> None:
        """Keep references to the parameters: while FSDP2 has gathered weights, a module shows other tensors."""
        self.parameters = self.trainable.parameters(self.model)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """See `Engine`. Gradients are exchanged in the backward pass of the last micro-batch only."""
        self.accelerator.sync_gradients = is_last
        return nullcontext() if is_last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        self.accelerator.backward(loss)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """See `Engine`."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return torch.as_tensor(whole, device=self.accelerator.device).detach().float()

    def step(self) -> None:
        """See `Engine`."""
        self.optimizer.step()
        self.optimizer.zero_grad()

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
