"""The training loop: one class for both tasks, made of parts that are built elsewhere (`songgen.train.build`)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from songgen.config import RunConfig
from songgen.data.collate import Batch
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.train.checkpoint import CheckpointManager
from songgen.train.distributed import gather_objects
from songgen.train.ema import MovingAverage
from songgen.train.evaluation import Evaluator
from songgen.train.final_model import write_model
from songgen.train.optimizer import set_learning_rate
from songgen.train.reporting import Reporter
from songgen.train.schedules import CodebookWeights, LearningRateSchedule
from songgen.train.signals import StopSignals
from songgen.train.state import CheckpointContents, TrainerState, capture_random_state, restore_random_state
from songgen.train.step import Outcome, StepResult, TrainingStep
from songgen.train.totals import StepTotals
from songgen.train.training_data import TrainingData
from songgen.train.weights import (
    gather_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
    write_tensors,
)

logger = logging.getLogger(__name__)

UNIMPORTANT_KEYS = ("resume", "output_dir", "overwrite_output_dir")
"""Settings that change nothing about what is computed."""

NON_FINITE_FILE = "non_finite_steps.jsonl"


class NonFiniteError(RuntimeError):
    """Loss or gradients were NaN or infinite and the run may not go on."""


@dataclass(frozen=True)
class Intervals:
    """Steps between the things that are done now and then. None: at the end alone."""

    log: int
    """Between two lines of metrics."""
    evaluate: int | None
    """Between evaluations."""
    save: int | None
    """Between checkpoints."""


@dataclass
class Trainer:
    """Trains a model to the end of its plan, or until it is asked to stop; the final model is written either way."""

    # The run
    config: RunConfig
    """Resolved configuration."""
    accelerator: Accelerator
    """Processes, device, precision."""
    output_dir: Path
    """Folder of the run."""

    # What is trained
    core: SongGenForConditionalGeneration
    """The model itself."""
    model: nn.Module
    """The model as the accelerator wrapped it."""
    data: TrainingData
    """The songs, in the order of the plan."""
    total_steps: int
    """Optimizer steps of the whole run."""

    # How it is trained
    training_step: TrainingStep
    """One optimizer step."""
    optimizer: Any
    """Prepared by the accelerator."""
    schedule: LearningRateSchedule
    """Learning rate over the updates."""
    codebook_weights: CodebookWeights
    """Weights of the codebooks over the steps."""
    average: MovingAverage | None
    """Moving average of the weights."""

    # What happens around it
    intervals: Intervals
    """When to log, evaluate and save."""
    evaluator: Evaluator | None
    """Losses and songs of held-out clips."""
    checkpoints: CheckpointManager
    """Saves and finds checkpoints."""
    reporter: Reporter
    """Progress bar, metrics file, trackers."""
    totals: StepTotals
    """Sums between two lines of metrics."""
    stop_signals: StopSignals = field(default_factory=StopSignals)
    """Requests to stop."""

    # Where it stands
    state: TrainerState = field(default_factory=TrainerState)
    """Position in the run."""
    saved_step: int | None = None
    """Step of the latest checkpoint that this process took part in."""

    def train(self) -> TrainerState:
        """Run the plan.

        Returns:
            where the run stands at its end.

        Raises:
            NonFiniteError: losses or gradients were not finite, and the configuration says to stop.
        """
        with self.stop_signals, self.reporter:
            self.resume()
            self.state.plan = self.data.signature
            self.reporter.start(self.state.step)
            for batches in self.remaining_steps():
                result = self.step(batches)
                if self.due(self.intervals.log) or result.stop_requested:
                    self.log()
                if self.due(self.intervals.evaluate) and not result.stop_requested:
                    self.evaluate()
                if self.due(self.intervals.save) or result.stop_requested:
                    self.save()
                if result.stop_requested:
                    break
            self.finish()
        return self.state

    def due(self, interval: int | None) -> bool:
        """Whether something with this interval is due: at its steps (None: never), and at the end of the run."""
        step = self.state.step
        return step >= self.total_steps or (interval is not None and step % interval == 0)

    def evaluate_only(self) -> None:
        """Evaluate the model, or the checkpoint that the configuration asks for, and train nothing."""
        with self.reporter:
            self.resume()
            self.reporter.start(self.state.step)
            self.evaluate()

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.state.epoch + self.state.batches_in_epoch / len(self.data.plan.batches(self.state.epoch))

    def resume(self) -> None:
        """Go on from the checkpoint that the configuration asks for, if there is one."""
        setting = self.config.training.resume
        if setting == "never":
            return
        folder = self.checkpoints.latest() if setting == "auto" else Path(setting)
        if folder is None:
            return
        contents = self.checkpoints.load(folder)
        self.data.require_same_order(contents.state)
        log_differences(contents.config, self.config.to_dict())
        write_tensors(model_tensors(self.model), contents.model)
        load_optimizer_tensors(self.model, self.optimizer.optimizer, contents.optimizer)
        if self.average is not None and contents.average:
            write_tensors(self.average.averages, contents.average)
        if self.accelerator.scaler is not None and contents.state.gradient_scaler:
            self.accelerator.scaler.load_state_dict(contents.state.gradient_scaler)
        if contents.random_state:
            restore_random_state(contents.random_state)
        self.state = contents.state
        self.saved_step = self.state.step
        self.checkpoints.protect(folder)
        logger.info("resumed from %s: step %d, epoch %d", folder, self.state.step, self.state.epoch)

    def remaining_steps(self) -> Iterator[list[Batch]]:
        """Yield this process's micro-batches of each step that is left, epoch after epoch."""
        while self.state.step < self.total_steps:
            for batches in self.data.steps(self.state.epoch, self.state.batches_in_epoch):
                yield batches
                if self.state.step >= self.total_steps:
                    return

    def step(self, batches: list[Batch]) -> StepResult:
        """Train on one step's micro-batches and move the state past them."""
        learning_rate = self.config.training.learning_rate * self.schedule(self.state.updates)
        set_learning_rate(self.optimizer, learning_rate)
        weights = self.codebook_weights(self.state.step, self.total_steps)
        result = self.training_step.run(batches, weights, self.stop_signals.requested)
        if result.outcome is Outcome.NON_FINITE:
            self.note_non_finite(batches, result)
        self.totals.add(result, has_vocal=self.training_step.vocal_loss_weight > 0)
        self.advance(result)
        return result

    def advance(self, result: StepResult) -> None:
        """Count a step."""
        state = self.state
        state.step += 1
        state.samples_seen += result.samples
        state.frames_seen += result.frames
        if result.outcome is Outcome.UPDATED:
            state.updates += 1
            state.consecutive_nonfinite_steps = 0
            if self.average is not None:
                self.average.update(state.updates)
        else:
            state.skipped_steps += 1
        state.step_in_epoch += 1
        state.batches_in_epoch += self.data.plan.slots_per_step
        self.reporter.advance(state.epoch, state.step_in_epoch, self.data.plan.steps_per_epoch(state.epoch))
        if state.batches_in_epoch >= len(self.data.plan.batches(state.epoch)):
            state.epoch, state.step_in_epoch, state.batches_in_epoch = state.epoch + 1, 0, 0

    def note_non_finite(self, batches: list[Batch], result: StepResult) -> None:
        """Write down what the step was made of, and stop if the configuration says so.

        Raises:
            NonFiniteError: after a checkpoint of the (unchanged) weights.
        """
        clips = gather_objects([name for batch in batches for name in batch.ids])
        objectives = gather_objects([str(float(result.objective))])
        norm = str(float(result.gradient_norm))
        self.state.consecutive_nonfinite_steps += 1
        if self.accelerator.is_main_process:
            record = {
                "step": self.state.step,
                "losses": [loss for losses in objectives for loss in losses],
                "gradient_norm": norm,
                "clips": clips,
            }
            with (self.output_dir / NON_FINITE_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        training = self.config.training
        message = f"step {self.state.step}: loss or gradients are not finite (gradient norm {norm})"
        in_a_row = self.state.consecutive_nonfinite_steps
        if training.non_finite == "skip" and in_a_row <= training.max_skipped_steps:
            logger.warning("%s; the step is skipped, its clips are in %s", message, NON_FINITE_FILE)
            return
        self.state.consecutive_nonfinite_steps = 0
        self.save()
        raise NonFiniteError(
            f"{message}, {in_a_row} step(s) in a row. Its clips are in {self.output_dir / NON_FINITE_FILE}; the "
            "weights from before it are saved. Lower learning_rate, remove the clips, or set non_finite to skip."
        )

    def log(self) -> None:
        """Report what happened since the last time."""
        rate = {"learning_rate": float(self.optimizer.param_groups[0]["lr"])}
        self.reporter.training(self.totals.report() | rate, self.state.step, self.epoch)

    def evaluate(self) -> None:
        """Evaluate the held-out clips, with the averaged weights where they are kept."""
        if self.evaluator is None:
            return
        began = time.perf_counter()
        with self.averaged_weights():
            metrics = self.evaluator.run(self.model, self.core, self.state.step, self.reporter)
        self.state.evaluated_step = self.state.step
        if self.state.best_metric is None or metrics["loss"] < self.state.best_metric:
            self.state.best_metric, self.state.best_step = metrics["loss"], self.state.step
        self.reporter.evaluation(metrics, self.state.step, self.epoch)
        self.totals.exclude(time.perf_counter() - began)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Use the moving average, if there is one, for a while."""
        return nullcontext() if self.average is None else self.average.applied()

    def save(self) -> None:
        """Write a checkpoint of this step boundary, unless there is one already."""
        if self.saved_step == self.state.step:
            return
        began = time.perf_counter()
        main = self.accelerator.is_main_process
        if self.accelerator.scaler is not None:
            self.state.gradient_scaler = self.accelerator.scaler.state_dict()
        contents = CheckpointContents(
            state=self.state,
            model=gather_tensors(model_tensors(self.model), keep=main),
            optimizer=gather_tensors(optimizer_tensors(self.model, self.optimizer.optimizer), keep=main),
            average=gather_tensors(self.average.averages, keep=main) if self.average is not None else {},
            random_state=capture_random_state(),
            config=self.config.to_dict(),
        )
        if self.checkpoints.save(contents, best=self.state.best_step == self.state.step) is not None:
            self.saved_step = self.state.step
        self.totals.exclude(time.perf_counter() - began)

    def finish(self) -> None:
        """Write the model that the next stage starts from."""
        with self.averaged_weights():
            write_model(self.accelerator, self.core, self.config, self.output_dir)
        self.accelerator.wait_for_everyone()
        logger.info("the model is in %s (step %d of %d)", self.output_dir, self.state.step, self.total_steps)


def log_differences(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Name the settings that changed since a checkpoint; the present ones take effect."""
    changed = [name for name in now if then.get(name) != now[name] and name not in UNIMPORTANT_KEYS]
    if changed:
        table = "\n".join(f"- {name}: {then.get(name)} then, {now[name]} now" for name in changed)
        logger.warning("settings that changed since the checkpoint take effect from here on:\n%s", table)
