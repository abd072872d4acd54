"""Steps that went wrong: values that are not finite, and losses far above the recent ones.

Both are found in sums over all processes, before the weights change, so every process decides alike.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from songgen.config.training_arguments import TrainingArguments
from songgen.families.objective import MicroBatch
from songgen.runtime.processes.agreement import gather_lists
from songgen.train.checkpoints.state import TrainerState
from songgen.train.step import Outcome, StepResult

logger = logging.getLogger(__name__)

NON_FINITE_FILE = "non_finite_steps.jsonl"
LOSS_SPIKES_FILE = "loss_spikes.jsonl"

WINDOW = 100
"""Latest losses that a loss is compared with."""

MIN_LOSSES = 20
"""Nothing is called a spike before there are so many."""

MIN_RELATIVE_SPREAD = 0.01
"""Share of the median that the losses are taken to spread at least: a run that has learned its songs by heart hardly
spreads at all."""

NORMAL_SPREAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


class NonFiniteError(RuntimeError):
    """Loss or gradients were NaN or infinite and the run may not go on."""


def robust_deviations(loss: float, recent: Sequence[float]) -> float:
    """How far a loss lies above the median of the recent ones, in robust standard deviations.

    Median and median absolute deviation are not moved by the spikes among the recent losses, as mean and standard
    deviation would be.
    """
    median = statistics.median(recent)
    spread = NORMAL_SPREAD * statistics.median(abs(value - median) for value in recent)
    return (loss - median) / max(spread, MIN_RELATIVE_SPREAD * abs(median), 1e-12)


@dataclass(frozen=True)
class AnomalyPolicy:
    """What a run does about steps that went wrong; the keys of the configuration."""

    non_finite: Literal["stop", "skip"]
    """Values that are not finite: end the run, or leave the step out."""
    max_skipped_steps: int
    """Steps in a row that may be left out for that."""
    spikes: Literal["off", "warn", "skip", "rewind"]
    """Spikes of the loss."""
    spike_threshold: float
    """Robust deviations from which a loss is a spike."""
    spike_budget: int
    """Updates in a row that are left out for spikes, or rewinds of the whole run."""

    @classmethod
    def of(cls, training: TrainingArguments) -> AnomalyPolicy:
        """The policy of a configuration."""
        return cls(
            non_finite=training.non_finite,
            max_skipped_steps=training.max_skipped_steps,
            spikes=training.loss_spike_policy,
            spike_threshold=training.loss_spike_threshold,
            spike_budget=training.loss_spike_budget,
        )


@dataclass(frozen=True)
class AnomalyWatch:
    """Decides about each step before its update, and writes down what went wrong."""

    policy: AnomalyPolicy
    """What to do."""
    folder: Path
    """Of the run."""
    data_sets: Sequence[str]
    """Folders that the clips' ids belong to; they stand in every record."""
    is_main_process: bool
    """Whether this process writes."""

    def is_spike(self, loss: float, state: TrainerState) -> bool:
        """Whether a loss of all processes together is far above the recent ones."""
        if self.policy.spikes == "off" or len(state.recent_losses) < MIN_LOSSES:
            return False
        return robust_deviations(loss, state.recent_losses) > self.policy.spike_threshold

    def allows_update(self, loss: float, state: TrainerState) -> bool:
        """Whether a step with this loss may change the weights; when the budget is used up, it may."""
        used = {"skip": state.spikes_in_a_row, "rewind": state.rewinds}.get(self.policy.spikes)
        return used is None or used >= self.policy.spike_budget or not self.is_spike(loss, state)

    def after_step(self, batches: Sequence[MicroBatch], result: StepResult, state: TrainerState) -> bool:
        """Note what a step was like. Every process must call this after each step, before the step is counted.

        Args:
            batches: this process's micro-batches of the step.
            result: of the step.
            state: its counters and its recent losses are kept up.

        Returns:
            whether the weights shall go back to the latest checkpoint.

        Raises:
            NonFiniteError: values were not finite, and the configuration says to stop.
        """
        if result.outcome is Outcome.EMPTY:
            return False
        if result.outcome is Outcome.NON_FINITE:
            self._note_non_finite(batches, result, state)
            return False
        state.consecutive_nonfinite_steps = 0
        spiked = self.is_spike(result.loss, state)
        if spiked:
            self._note_spike(batches, result, state)
        state.spikes_in_a_row = state.spikes_in_a_row + 1 if spiked else 0
        # Spikes are taken in as well: a level that lasts is no spike any more after half a window.
        state.recent_losses = [*state.recent_losses, result.loss][-WINDOW:]
        return self.policy.spikes == "rewind" and result.outcome is Outcome.HELD_BACK

    def _note_non_finite(self, batches: Sequence[MicroBatch], result: StepResult, state: TrainerState) -> None:
        """Write the step down and end the run if it is one too many.

        Raises:
            NonFiniteError: it is.
        """
        shares = gather_lists([str(float(result.objective))])
        norm = str(float(result.gradient_norm))
        self._write(NON_FINITE_FILE, batches, state, losses=[share[0] for share in shares], gradient_norm=norm)
        state.consecutive_nonfinite_steps += 1
        in_a_row = state.consecutive_nonfinite_steps
        message = f"step {state.step}: loss or gradients are not finite (gradient norm {norm})"
        if self.policy.non_finite == "skip" and in_a_row <= self.policy.max_skipped_steps:
            logger.warning("%s; the step is skipped, its clips are in %s", message, NON_FINITE_FILE)
            return
        state.consecutive_nonfinite_steps = 0
        raise NonFiniteError(
            f"{message}, {in_a_row} step(s) in a row. Its clips are in {self.folder / NON_FINITE_FILE}; the weights "
            "are those from before it. Lower learning_rate, remove the clips, or set non_finite to skip."
        )

    def _note_spike(self, batches: Sequence[MicroBatch], result: StepResult, state: TrainerState) -> None:
        """Write the step down and warn."""
        deviations = robust_deviations(result.loss, state.recent_losses)
        made = result.outcome is not Outcome.HELD_BACK
        action = "the update is made" if made else f"the update is left out ({self.policy.spikes})"
        self._write(
            LOSS_SPIKES_FILE, batches, state,
            loss=result.loss, median=statistics.median(state.recent_losses), deviations=round(deviations, 2),
            gradient_norm=str(float(result.gradient_norm)), action=action,
        )  # fmt: skip
        logger.warning(
            "step %d: the loss %.4g lies %.1f robust deviations above the recent ones; %s, the step's clips are in %s",
            state.step, result.loss, deviations, action, LOSS_SPIKES_FILE,
        )  # fmt: skip

    def _write(self, name: str, batches: Sequence[MicroBatch], state: TrainerState, **values: Any) -> None:
        """Append a record with the clips of each process; a full disk does not stop the run."""
        clips = gather_lists([clip for batch in batches for clip in batch.ids])
        if not self.is_main_process:
            return
        record = {"step": state.step, **values, "data_sets": list(self.data_sets), "clips": clips}
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            logger.warning("%s cannot be written (%s): %s", self.folder / name, error, json.dumps(record))
