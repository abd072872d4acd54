"""One optimizer step: micro-batches forward and backward, exact normalization, clipping, the agreed decision to update.

Shapes: D divisors, W values that follow the curve, as in `songgen.families.objective`.
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
from songgen.runtime.processes.commands import Action, Command, actions_of, agreed_actions
from songgen.runtime.processes.group import sum_over_processes
from songgen.train.optimization.engine import Engine


class Outcome(enum.Enum):
    """What became of a step."""

    UPDATED = "updated"
    """The weights changed."""
    EMPTY = "no target"
    """No process had anything to predict; nothing changed."""
    NON_FINITE = "not finite"
    """A loss or gradient was NaN or infinite on some process; nothing changed anywhere."""
    HELD_BACK = "held back"
    """The caller did not allow the update; nothing changed."""
    OVERFLOW = "overflow"
    """float16 gradients overflowed and the loss scale was lowered; nothing changed."""


@dataclass(frozen=True)
class StepResult:
    """What one step gave. Tensors stay on the device."""

    outcome: Outcome
    """Whether the weights changed."""
    objective: Tensor
    """Scalar, this process's share of what was minimized: the processes' shares add up to the whole."""
    loss: float
    """The whole: the sum of all processes' objectives."""
    parts: Mapping[str, Tensor]
    """This process's shares of the named parts of the loss: see `songgen.families.objective.BatchLoss`."""
    gradient_norm: Tensor
    """Scalar, before clipping, of all processes together."""
    samples: int
    """Songs of all processes."""
    frames: int
    """Frames of all processes."""
    targets: int
    """Values predicted by all processes, as the objective counts them."""
    actions: frozenset[Action]
    """What any process was asked to do."""


@dataclass(frozen=True)
class _Agreed:
    """What all processes know of a step alike."""

    finite_loss: bool
    """Whether every process's loss is finite."""
    finite_norm: bool
    """Whether the gradient norm is, on every process."""
    loss: float
    """Sum of the processes' objectives."""
    actions: frozenset[Action]
    """What any process was asked to do."""
    samples: int
    """As in `StepResult`."""
    frames: int
    """As in `StepResult`."""
    targets: int
    """As in `StepResult`."""


@dataclass(frozen=True)
class TrainingStep:
    """Everything that an optimizer step needs."""

    accelerator: Accelerator
    """Processes, device, loss scaler."""
    engine: Engine
    """The model, its gradients, its optimizer."""
    objective: Objective
    """Counts the targets and computes the losses."""
    max_gradient_norm: float
    """Gradients are scaled down to it."""

    def run(
        self,
        batches: Sequence[Any],
        curve_values: Tensor,
        commands: Callable[[], Sequence[Command]] = tuple,
        allows_update: Callable[[float], bool] = lambda loss: True,
    ) -> StepResult:
        """Train on the micro-batches of one step.

        The loss is a mean over every target of the step on all processes, whatever the micro-batches' sizes: the counts
        are summed first, and each micro-batch adds its share.

        Args:
            batches: this process's micro-batches; every process must have as many.
            curve_values: W, what the loss takes from the place on the curve of the run.
            commands: asked once, at the end, for what this process was asked to do; the processes agree on it.
            allows_update: asked before the weights change, with the loss of all processes together; must answer alike
                on every process.
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
                # The wrappers average gradients over processes; the objective is a sum.
                self.engine.backward(loss.total * self.accelerator.num_processes)
            objective += loss.total.detach()
            for name, part in loss.parts.items():
                parts[name] = parts[name] + part.detach() if name in parts else part.detach()
        norm = self.engine.clip_gradients(self.max_gradient_norm)
        agreed = self._agree(objective, norm, commands(), sizes)
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
            actions=agreed.actions,
        )

    def _count(self, batches: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return what the losses are divided by (D int64) and (songs, frames, targets), of all processes together."""
        counts = self.objective.count(batches)
        own = torch.cat([counts.divisors, torch.tensor([counts.songs, counts.frames, counts.targets])])
        summed = sum_over_processes(own.to(self.accelerator.device))
        return summed[: len(counts.divisors)], summed[len(counts.divisors) :]

    def _agree(self, objective: Tensor, norm: Tensor, commands: Sequence[Command], sizes: Tensor) -> _Agreed:
        """Combine what the processes found; `sizes` are combined already.

        All of it comes to the host in one transfer, for which the device is waited for: the only one of a step, except
        that DeepSpeed's engine compares the order of its gradients, and float16's scale is read after the update.
        """
        # Filled on the device: a copy from the host would wait for it.
        asked = [torch.full((), flag, dtype=torch.bool, device=objective.device) for flag in actions_of(commands)]
        found = torch.stack([~objective.isfinite(), ~norm.isfinite(), *asked]).double()
        found = sum_over_processes(torch.cat([found, objective.double()[None]]))
        bad_losses, bad_norms, *rest = torch.cat([found, sizes.double()]).tolist()
        actions, (loss, *counted) = agreed_actions(rest[: len(asked)]), rest[len(asked) :]
        samples, frames, targets = (int(count) for count in counted)
        return _Agreed(bad_losses == 0, bad_norms == 0, loss, actions, samples, frames, targets)

    def _update(self, agreed: _Agreed, allows_update: Callable[[float], bool]) -> Outcome:
        """Change the weights if the step allows it; every process comes to the same outcome."""
        outcome = Outcome.UPDATED
        if agreed.targets == 0:
            outcome = Outcome.EMPTY
        elif not agreed.finite_loss or (not agreed.finite_norm and self.accelerator.scaler is None):
            outcome = Outcome.NON_FINITE
        elif not agreed.finite_norm:
            # The scaler and accelerate would not say so: a fused optimizer is called, and skips the update by itself.
            outcome = Outcome.OVERFLOW
        elif not allows_update(agreed.loss):
            outcome = Outcome.HELD_BACK
        if outcome is Outcome.UPDATED:
            self.engine.step()
        else:
            self.engine.discard_gradients()
        return outcome
