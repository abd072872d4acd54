"""One optimizer step: forward and backward passes, exact normalization, clipping, and the agreed decision to update.

All processes must come to the same decision in each step. One that skipped an update, saved or stopped by itself would
leave the others waiting in a collective operation, or with other weights. So all facts that decide are summed over the
processes in one reduction, `TrainingStep._agree`, and each process decides by the sums.

Shapes: D divisors, W values that depend on the position on the run's curve, as in `songgen.families.objective`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from songgen.families.objective import Objective
from songgen.runtime.processes.group import sum_over_processes
from songgen.train.optimization.engine import Engine, GradientLimit


class Outcome(enum.Enum):
    """Outcome of a step."""

    UPDATED = "updated"
    """The weights changed."""
    EMPTY = "no target"
    """No process had a target to predict; nothing changed."""
    NON_FINITE = "not finite"
    """A loss or gradient was NaN or infinite on some process; nothing changed anywhere."""
    HELD_BACK = "held back"
    """The caller did not allow the update; nothing changed."""
    OVERFLOW = "overflow"
    """float16 gradients overflowed and the loss scale was lowered; nothing changed."""


@dataclass(frozen=True)
class StepResult:
    """Result of one step. Tensors stay on the device."""

    outcome: Outcome
    """Whether the weights changed."""
    objective: Tensor
    """Scalar, this process's share of the minimized loss; the shares of all processes add up to it."""
    loss: float
    """Minimized loss: the sum of all processes' shares."""
    parts: Mapping[str, Tensor]
    """This process's shares of the named parts of the loss; see `songgen.families.objective.BatchLoss`."""
    gradient_norm: Tensor
    """Scalar, gradient norm over all processes, before clipping."""
    samples: int
    """Number of songs over all processes."""
    frames: int
    """Number of frames over all processes."""
    targets: int
    """Number of predicted values over all processes, as the objective counts them."""
    has_commands: bool
    """Whether any process has received commands, which the processes exchange then."""


@dataclass(frozen=True)
class _Agreed:
    """Facts about a step that are the same on all processes."""

    finite_loss: bool
    """Whether every process's loss is finite."""
    finite_norm: bool
    """Whether the gradient norm is finite on every process."""
    loss: float
    """Sum of the processes' shares of the loss."""
    has_commands: bool
    """Whether any process has received commands, which the processes exchange then."""
    samples: int
    """Number of songs over all processes."""
    frames: int
    """Number of frames over all processes."""
    targets: int
    """Number of predicted values over all processes."""


@dataclass(frozen=True)
class TrainingStep:
    """An optimizer step, with everything that it needs."""

    accelerator: Accelerator
    """Processes, device and loss scaler."""
    engine: Engine
    """Model, gradients and optimizer."""
    objective: Objective
    """Objective that counts the targets and computes the losses."""
    gradient_limit: GradientLimit
    """Limit to which larger gradients are clipped."""

    def run(
        self,
        batches: Sequence[Any],
        curve_values: Tensor,
        has_commands: Callable[[], bool] = lambda: False,
        allows_update: Callable[[float], bool] = lambda loss: True,
    ) -> StepResult:
        """Train on the micro-batches of one step.

        The loss is a mean over all targets of the step on all processes, whatever the sizes of the micro-batches: the
        targets are counted first, and each micro-batch adds its share.

        Args:
            batches: micro-batches of this process; every process must have the same number.
            curve_values: W, values of the loss that depend on the position on the run's curve.
            has_commands: called once, at the end; returns whether this process has received commands.
            allows_update: called before the weights change, with the loss over all processes; must return the same on
                every process.
        """
        device = self.accelerator.device
        divisors, sizes = self._count(batches)
        objective, parts = torch.zeros((), device=device), dict[str, Tensor]()
        values = curve_values.to(device)
        self.engine.model.train()
        for place, batch in enumerate(batches):
            is_last = place == len(batches) - 1
            with self.engine.micro_batch(is_last=is_last):
                loss = self.objective.loss(self.engine.model, batch.to(device, non_blocking=True), divisors, values)
                # DDP, FSDP and DeepSpeed average gradients over processes, but the loss is a sum of the processes'
                # shares: multiplying by their number undoes the division.
                self.engine.backward(loss.total * self.accelerator.num_processes)
            objective += loss.total.detach()
            for name, part in loss.parts.items():
                parts[name] = parts[name] + part.detach() if name in parts else part.detach()
        norm = self.engine.clip_gradients(self.gradient_limit)
        agreed = self._agree(objective, norm, has_commands(), sizes)
        outcome = self._update(agreed, allows_update)
        return StepResult(
            outcome=outcome,
            objective=objective,
            loss=agreed.loss,
            parts=parts,
            gradient_norm=norm,
            samples=agreed.samples,
            frames=agreed.frames,
            targets=agreed.targets,
            has_commands=agreed.has_commands,
        )

    def _count(self, batches: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return the divisors of the losses (D int64) and (songs, frames, targets), both over all processes."""
        counts = self.objective.count(batches)
        # One reduction for both, before the forward passes: [D + 3] int64, so that the sums are exact.
        own = torch.cat([counts.divisors, torch.tensor([counts.songs, counts.frames, counts.targets])])
        summed = sum_over_processes(own.to(self.accelerator.device))
        return summed[: len(counts.divisors)], summed[len(counts.divisors) :]

    def _agree(self, objective: Tensor, norm: Tensor, has_commands: bool, sizes: Tensor) -> _Agreed:
        """Combine what the processes found; `sizes` are sums already.

        Everything is copied to the host in one transfer, the only point of a step where the host waits for the device.
        Two exceptions: DeepSpeed's engine compares the order of its gradients, and float16's loss scale is read after
        the update.
        """
        # `full` writes on the device; a copy from host memory would wait for the device.
        asked = torch.full((), has_commands, dtype=torch.bool, device=objective.device)
        # float64 holds counts exactly up to 2**53. A flag that any process set gives a sum above zero. Layout of the
        # sum: [loss not finite, norm not finite, has commands, loss].
        found = torch.stack([~objective.isfinite(), ~norm.isfinite(), asked]).double()
        found = sum_over_processes(torch.cat([found, objective.double()[None]]))
        bad_losses, bad_norms, askers, loss, *counted = torch.cat([found, sizes.double()]).tolist()
        samples, frames, targets = (int(count) for count in counted)
        return _Agreed(bad_losses == 0, bad_norms == 0, loss, askers > 0, samples, frames, targets)

    def _update(self, agreed: _Agreed, allows_update: Callable[[float], bool]) -> Outcome:
        """Update the weights if the step allows it. Every process comes to the same outcome."""
        outcome = Outcome.UPDATED
        if agreed.targets == 0:
            outcome = Outcome.EMPTY
        elif not agreed.finite_loss or (not agreed.finite_norm and self.accelerator.scaler is None):
            outcome = Outcome.NON_FINITE
        elif not agreed.finite_norm:
            # Decided here, since neither the scaler nor accelerate reports it: a fused optimizer is called and skips
            # the update by itself.
            outcome = Outcome.OVERFLOW
        elif not allows_update(agreed.loss):
            outcome = Outcome.HELD_BACK
        if outcome is Outcome.UPDATED:
            self.engine.step()
        else:
            self.engine.discard_gradients()
        return outcome
