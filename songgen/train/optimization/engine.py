"""What makes, exchanges, clips and applies gradients: accelerate's wrappers here, DeepSpeed in its own module."""

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
    """Brings a model from losses to new weights. Every process must call its methods together.

    It decides nothing: whether a step changes the weights is agreed by the processes before `step` or
    `discard_gradients`.
    """

    @property
    def model(self) -> nn.Module:
        """The model as it is wrapped; it is called with the model's keywords."""

    @property
    def trainable(self) -> Trainable:
        """What of the model is trained."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters of the wrapped model by name: what a checkpoint holds."""

    @property
    def optimizer(self) -> Any:
        """Its `param_groups` hold the learning rates."""

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a micro-batch; the last one of a step completes its gradients."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss; the processes' gradients are averaged."""

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients of all processes down to a norm, and return the one that they had (scalar float32)."""

    def step(self) -> None:
        """Change the weights by the gradients, and drop these."""

    def discard_gradients(self) -> None:
        """Drop the gradients; nothing else changes."""

    def optimizer_tensors(self, *, keep: bool) -> dict[str, Tensor]:
        """The optimizer's state, whole and on the CPU, keys `<parameter>.<entry>`; empty where `keep` is false."""

    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Take weights and optimizer state of a checkpoint; hyper-parameters stay those of the optimizer.

        Raises:
            ValueError: they belong to other parameters than are trained.
        """


@dataclass
class AcceleratedEngine:
    """One process, DDP or FSDP2, as accelerate wraps them."""

    accelerator: Accelerator
    """Precision, backward pass."""
    model: nn.Module
    """Prepared by the accelerator."""
    optimizer: Any
    """Prepared by the accelerator."""
    trainable: Trainable
    """What of the model is trained."""

    def __post_init__(self) -> None:
        """Remember the parameters as they are now: while FSDP2 has gathered weights, a module shows other tensors."""
        self.parameters = self.trainable.parameters(self.model)

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """See `Engine`: gradients are exchanged in the backward pass of the last micro-batch alone."""
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
        """See `Engine`; in float16 the scaler learns of it."""
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
