"""Anomalous steps: values that are not finite, and losses far above the recent ones.

Both are detected in sums over all processes, before the weights change, so every process decides the same.
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
"""Number of recent losses that a loss is compared with."""

MIN_LOSSES = 20
"""Number of recent losses below which no loss counts as a spike."""

MIN_RELATIVE_SPREAD = 0.01
"""Lower bound of the spread of losses, as a share of their median. The losses of a run that has memorized its songs
hardly spread, and tiny differences would count as spikes."""

NORMAL_SPREAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


class NonFiniteError(RuntimeError):
    """Loss or gradients were NaN or infinite, and the run must end."""


def robust_deviations(loss: float, recent: Sequence[float]) -> float:
    """Return how far a loss is above the median of the recent ones, in robust standard deviations.

    Spikes among the recent losses hardly change the median and the median absolute deviation, unlike mean and standard
    deviation.
    """
    median = statistics.median(recent)
    spread = NORMAL_SPREAD * statistics.median(abs(value - median) for value in recent)
    return (loss - median) / max(spread, MIN_RELATIVE_SPREAD * abs(median), 1e-12)


@dataclass(frozen=True)
class AnomalyPolicy:
    """Settings for anomalous steps, from the keys of the configuration."""

    non_finite: Literal["stop", "skip"]
    """Reaction to values that are not finite: end the run, or skip the step."""
    max_skipped_steps: int
    """Number of steps in a row that may be skipped for that."""
    spikes: Literal["off", "warn", "skip", "rewind"]
    """Reaction to loss spikes."""
    spike_threshold: float
    """Number of robust standard deviations above which a loss is a spike."""
    spike_budget: int
    """Number of updates in a row that may be skipped for spikes, or of rollbacks in the whole run."""

    @classmethod
    def of(cls, training: TrainingArguments) -> AnomalyPolicy:
        """Return the policy of a configuration."""
        return cls(
            non_finite=training.non_finite,
            max_skipped_steps=training.max_skipped_steps,
            spikes=training.loss_spike_policy,
            spike_threshold=training.loss_spike_threshold,
            spike_budget=training.loss_spike_budget,
        )


@dataclass(frozen=True)
class AnomalyWatch:
    """Decides about each step before its update, and records anomalies."""

    policy: AnomalyPolicy
    """Settings for anomalous steps."""
    folder: Path
    """Folder of the run."""
    data_sets: Sequence[str]
    """Data set folders that the clips' ids belong to, written into every record."""
    is_main_process: bool
    """Whether this process writes the records."""

    def is_spike(self, loss: float, state: TrainerState) -> bool:
        """Return whether a loss over all processes is far above the recent ones."""
        if self.policy.spikes == "off" or len(state.recent_losses) < MIN_LOSSES:
            return False
        return robust_deviations(loss, state.recent_losses) > self.policy.spike_threshold

    def allows_update(self, loss: float, state: TrainerState) -> bool:
        """Return whether a step with this loss may change the weights; it may once the budget is used up."""
        used = {"skip": state.spikes_in_a_row, "rewind": state.rewinds}.get(self.policy.spikes)
        return used is None or used >= self.policy.spike_budget or not self.is_spike(loss, state)

    def after_step(self, batches: Sequence[MicroBatch], result: StepResult, state: TrainerState) -> bool:
        """Record the outcome of a step. Every process must call this after each step, before the step is counted.

        Args:
            batches: this process's micro-batches of the step.
            result: result of the step.
            state: state of the run; its counters and recent losses are updated.

        Returns:
            Whether the weights must be rolled back to the latest checkpoint.

        Raises:
            NonFiniteError: if values were not finite, and the configuration says to stop.
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
        # Spikes are included: once half of the window has a new level, it is the median, and not a spike any more.
        state.recent_losses = [*state.recent_losses, result.loss][-WINDOW:]
        return self.policy.spikes == "rewind" and result.outcome is Outcome.HELD_BACK

    def _note_non_finite(self, batches: Sequence[MicroBatch], result: StepResult, state: TrainerState) -> None:
        """Record a step that was not finite, and end the run if there were too many.

        Raises:
            NonFiniteError: if there were too many in a row.
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
        """Record a spike and log a warning."""
        deviations = robust_deviations(result.loss, state.recent_losses)
        made = result.outcome is not Outcome.HELD_BACK
        action = "the update is made" if made else f"the update is left out ({self.policy.spikes})"
        self._write(
            LOSS_SPIKES_FILE, batches, state,
            loss=result.loss, median=statistics.median(state.recent_losses), deviations=round(deviations, 2),
            gradient_norm=str(float(result.gradient_norm)), action=action,
        )  # fmt: skip
        logger.warning(
            "step %d: the loss %.4g is %.1f robust deviations above the recent ones; %s, the step's clips are in %s",
            state.step, result.loss, deviations, action, LOSS_SPIKES_FILE,
        )  # fmt: skip

    def _write(self, name: str, batches: Sequence[MicroBatch], state: TrainerState, **values: Any) -> None:
        """Append a record with the clips of each process. A full disk does not stop the run."""
        clips = gather_lists([clip for batch in batches for clip in batch.ids])
        if not self.is_main_process:
            return
        record = {"step": state.step, **values, "data_sets": list(self.data_sets), "clips": clips}
        try:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            logger.warning("%s cannot be written (%s): %s", self.folder / name, error, json.dumps(record))
