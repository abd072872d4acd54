"""One optimizer step: micro-batches forward and backward, exact normalization, clipping, the agreed decision to update.

Shapes: K codebooks, H heads.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from songgen.data.collate import Batch
from songgen.layout import TokenLayout
from songgen.runtime.commands import Action, Command, actions_of, agreed_actions
from songgen.runtime.distributed import sum_over_processes
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
    head_losses: Tensor
    """H, shares of each head's mean cross-entropy."""
    vocal_losses: Tensor
    """H, the same of the auxiliary vocal heads (zero when there are none)."""
    gradient_norm: Tensor
    """Scalar, before clipping, of all processes together."""
    samples: int
    """Songs of all processes."""
    frames: int
    """Frames of all processes."""
    targets: int
    """Tokens predicted by all processes, over all heads (the auxiliary ones aside)."""
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
    layout: TokenLayout
    """Counts the targets."""
    train_every_eos: bool
    """Which ends are targets, as the model has it."""
    max_gradient_norm: float
    """Gradients are scaled down to it."""
    vocal_loss_weight: float
    """Factor of the auxiliary loss; 0 leaves it out."""

    def run(
        self,
        batches: Sequence[Batch],
        codebook_weights: Tensor,
        commands: Callable[[], Sequence[Command]] = tuple,
        allows_update: Callable[[float], bool] = lambda loss: True,
    ) -> StepResult:
        """Train on the micro-batches of one step.

        The objective is, for each head, the mean over every target of the step on all processes, whatever the
        micro-batches' sizes: the counts are summed first, and each micro-batch adds its share.

        Args:
            batches: this process's micro-batches; every process must have as many.
            codebook_weights: K.
            commands: asked once, at the end, for what this process was asked to do; the processes agree on it.
            allows_update: asked before the weights change, with the loss of all processes together; must answer alike
                on every process.
        """
        device = self.accelerator.device
        counts, sizes = self._counts(batches)
        head_losses = torch.zeros(self.layout.num_heads, device=device)
        vocal_losses, objective = torch.zeros_like(head_losses), torch.zeros((), device=device)
        weights = codebook_weights.to(device)
        self.engine.model.train()
        for place, batch in enumerate(batches):
            is_last = place == len(batches) - 1
            with self.engine.micro_batch(is_last=is_last):
                inputs = batch.to(device, non_blocking=True).model_inputs()
                output = self.engine.model(
                    **inputs, codebook_weights=weights, target_counts=counts, return_logits=False
                )
                loss = output.loss
                if output.vocal_loss is not None:
                    loss = loss + self.vocal_loss_weight * output.vocal_loss
                    vocal_losses += output.vocal_codebook_losses.detach()
                # The wrappers average gradients over processes; the objective is a sum.
                self.engine.backward(loss * self.accelerator.num_processes)
            objective += loss.detach()
            head_losses += output.codebook_losses.detach()
        norm = self.engine.clip_gradients(self.max_gradient_norm)
        agreed = self._agree(objective, norm, commands(), sizes)
        outcome = self._update(agreed, allows_update)
        return StepResult(
            outcome=outcome,
            objective=objective,
            loss=agreed.loss,
            head_losses=head_losses,
            vocal_losses=vocal_losses,
            gradient_norm=norm,
            samples=agreed.samples,
            frames=agreed.frames,
            targets=agreed.targets,
            actions=agreed.actions,
        )

    def _counts(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Targets of each head (H int64) and (songs, frames, targets), over all micro-batches and processes."""
        frames = torch.cat([batch.frames for batch in batches])
        heads = self.layout.target_counts(frames, train_every_eos=self.train_every_eos)
        own = torch.cat([heads, (frames > 0).sum()[None], frames.sum()[None], heads.sum()[None]])
        summed = sum_over_processes(own.to(self.accelerator.device))
        return summed[: self.layout.num_heads], summed[self.layout.num_heads :]

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
