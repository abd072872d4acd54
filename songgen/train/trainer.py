"""The training loop: one class for every objective, made of parts that are built elsewhere (`songgen.train.build`)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import SafetensorError
from torch import nn

from songgen.config import RunConfig
from songgen.families.family import Family
from songgen.families.objective import Objective
from songgen.families.songs import TrainingData
from songgen.runtime.processes.agreement import all_succeeded
from songgen.runtime.processes.commands import Action, Inbox, Interrupted
from songgen.runtime.processes.group import StartPatience
from songgen.runtime.processes.heartbeat import Heartbeat
from songgen.train.checkpoints.manager import CheckpointError, CheckpointManager
from songgen.train.checkpoints.resume import Resumption, require_same_parameters
from songgen.train.checkpoints.state import CheckpointContents, TrainerState, capture_random_state, restore_random_state
from songgen.train.evaluation import Evaluator
from songgen.train.final_model import write_final_model
from songgen.train.optimization.anomalies import AnomalyWatch, NonFiniteError
from songgen.train.optimization.ema import MovingAverage
from songgen.train.optimization.engine import Engine
from songgen.train.optimization.loss_scale import LossScaleBounds
from songgen.train.optimization.named_tensors import copy_tensors, gather_tensors
from songgen.train.optimization.optimizer import get_learning_rate, set_learning_rate
from songgen.train.optimization.schedules import LearningRateSchedule
from songgen.train.reporting.reporter import Reporter
from songgen.train.step import Outcome, StepResult, TrainingStep
from songgen.train.totals import StepTotals

logger = logging.getLogger(__name__)


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
    family: Family[Any]
    """Kind of the model."""
    objective: Objective
    """What is minimised, measured and sampled."""
    core: nn.Module
    """The model itself."""
    engine: Engine
    """The model as it is wrapped, its gradients, its optimizer."""
    data: TrainingData
    """The songs, in the order of the plan."""
    total_steps: int
    """Optimizer steps of the whole run."""

    # How it is trained
    training_step: TrainingStep
    """One optimizer step."""
    schedule: LearningRateSchedule
    """Learning rate over the updates."""
    average: MovingAverage | None
    """Moving average of the weights."""
    anomalies: AnomalyWatch
    """What is done about values that are not finite and about spikes of the loss."""
    loss_scale: LossScaleBounds
    """Bounds of the loss scale in float16."""

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
    heartbeat: Heartbeat
    """Signs of life."""
    patience: StartPatience
    """How long processes wait for each other."""
    inbox: Inbox = field(default_factory=Inbox)
    """What this process is asked to do while it trains."""

    # Where it stands
    resumption: Resumption | None = None
    """The checkpoint that it goes on from."""
    state: TrainerState = field(default_factory=TrainerState)
    """Position in the run, from the beginning that of the checkpoint."""
    stopped: bool = False
    """Whether the run was asked to stop."""
    save_asked: bool = False
    """Whether the run was asked for a checkpoint of this step."""
    saved_step: int | None = None
    """Step of the latest checkpoint that this process took part in."""
    previous_best: tuple[float | None, int | None] = (None, None)
    """Loss and step of the best evaluation before the present best."""

    def train(self) -> TrainerState:
        """Run the plan, to be called while `inbox` is entered.

        Returns:
            where the run stands at its end.

        Raises:
            NonFiniteError: losses or gradients were not finite, and the configuration says to stop.
            CheckpointError: checkpoints cannot be saved, the last one of a run that was asked to stop among them.
        """
        with self.reporter:
            self.resume()
            if self.evaluator is not None:
                self.evaluator.resume(self.state.evaluated_step)
            self.reporter.start(self.state.step)
            self.make_up_evaluation()
            for batches in self.remaining_steps():
                if self.stopped:
                    break
                self.obey(self.step(batches).actions)
                if self.due(self.intervals.log) or self.stopped:
                    self.log()
                if self.due(self.intervals.evaluate) and not self.stopped:
                    self.evaluate()
                if self.due(self.intervals.save) or self.stopped or self.save_asked or self.is_best:
                    self.save()
                self.heartbeat.beat("waiting for data", self.state.step)
            self.finish()
        if self.stopped:
            self.require_saved()
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

    def make_up_evaluation(self) -> None:
        """Do the evaluation that the checkpoint's step was stopped before, so that a stop leaves no gap."""
        if self.state.step and self.state.evaluated_step != self.state.step and self.due(self.intervals.evaluate):
            self.evaluate()
            if self.is_best:  # the checkpoint of this step does not say so
                self.save(again=True)

    @property
    def is_best(self) -> bool:
        """Whether the model of this step has the lowest evaluation loss, and is worth a checkpoint of its own."""
        return self.state.best_step == self.state.step and self.intervals.save is not None

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.state.epoch + self.state.batches_in_epoch / len(self.data.plan.batches(self.state.epoch))

    def resume(self) -> None:
        """Load the checkpoint that the run goes on from, if there is one."""
        if self.resumption is None:
            return
        folder = self.resumption.folder
        contents = self.checkpoints.load(folder)
        require_same_parameters(contents.model, self.engine.parameters)
        self.put_back(contents)
        if self.accelerator.scaler is not None and contents.state.gradient_scaler:
            self.accelerator.scaler.load_state_dict(contents.state.gradient_scaler)
        if contents.random_state:
            restore_random_state(contents.random_state)
        else:
            logger.warning("%s holds no random state for this process: dropout draws other numbers", folder)
            set_seed(self.config.training.seed + self.state.step, device_specific=True)
        self.saved_step = self.state.step
        self.checkpoints.protect(folder)
        self.checkpoints.retain()
        logger.info("resumed from %s: step %d, epoch %d", folder, self.state.step, self.state.epoch)

    def put_back(self, contents: CheckpointContents) -> None:
        """Give weights, optimizer and moving average the values of a checkpoint."""
        self.engine.load(contents.model, contents.optimizer)
        if self.average is not None:
            copy_tensors(self.average.averages, contents.average or contents.model)

    def rewind(self) -> None:
        """Put the weights of the latest checkpoint back; the data goes on behind the steps that followed it."""
        folder = self.checkpoints.latest()
        if folder is None:
            logger.warning("step %d: there is no checkpoint to go back to; the step was left out", self.state.step)
            return
        contents = self.checkpoints.load(folder)
        self.put_back(contents)
        state, undone = self.state, self.state.updates - contents.state.updates
        state.updates -= undone
        state.curve.update -= undone * state.curve.rate
        state.rewinds += 1
        logger.warning("step %d: the weights are those of %s again, %d updates back", state.step, folder, undone)

    def remaining_steps(self) -> Iterator[list[Any]]:
        """Yield this process's micro-batches of each step that is left, epoch after epoch."""
        while self.state.step < self.total_steps:
            for batches in self.data.steps(self.state.epoch, self.state.batches_in_epoch):
                yield batches
                if self.state.step >= self.total_steps:
                    return

    def step(self, batches: list[Any]) -> StepResult:
        """Train on one step's micro-batches and move the state past them."""
        self.heartbeat.beat("training", self.state.step)
        curve = self.state.curve
        learning_rate = self.config.training.learning_rate * self.schedule(curve.update)
        set_learning_rate(self.engine.optimizer, learning_rate)
        values = self.objective.curve_values(curve.step / max(1, curve.length))
        result = self.training_step.run(
            batches, values, self.inbox.take, lambda loss: self.anomalies.allows_update(loss, self.state)
        )
        try:
            must_rewind = self.anomalies.after_step(batches, result, self.state)
            self.loss_scale.apply(self.accelerator.scaler, result.outcome, self.state)
        except NonFiniteError as error:
            self.save()  # the weights are those from before the step
            if unsaved := self.unsaved():
                raise CheckpointError(f"{error} These weights are not saved: {unsaved}.") from error
            raise
        if must_rewind:
            self.rewind()
        self.totals.add(result)
        self.advance(result)
        self.patience.end()
        return result

    def obey(self, actions: Collection[Action]) -> None:
        """Do what the processes have agreed on, all of them at the same step boundary.

        What is asked for is only noted here: an evaluation that is due comes before a save, whose checkpoint then
        tells of it.
        """
        if Action.STOP in actions:
            self.stopped = True
            logger.info("asked to stop: the run ends after step %d", self.state.step)
        if Action.SAVE in actions:
            self.save_asked = True
            logger.info("asked to save: the run continues after step %d", self.state.step)

    def advance(self, result: StepResult) -> None:
        """Count a step."""
        state = self.state
        state.step += 1
        state.curve.advance(updated=result.outcome is Outcome.UPDATED)
        state.samples_seen += result.samples
        state.frames_seen += result.frames
        if result.outcome is Outcome.UPDATED:
            state.updates += 1
            if self.average is not None:
                self.average.update(state.updates)
        else:
            state.skipped_steps += 1
        state.step_in_epoch += 1
        state.batches_in_epoch += self.data.plan.slots_per_step
        self.reporter.advance(state.epoch, state.step_in_epoch, self.data.plan.steps_per_epoch(state.epoch))
        if state.batches_in_epoch >= len(self.data.plan.batches(state.epoch)):
            state.epoch, state.step_in_epoch, state.batches_in_epoch = state.epoch + 1, 0, 0

    def log(self) -> None:
        """Report what happened since the last time."""
        rate = {"learning_rate": get_learning_rate(self.engine.optimizer)}
        self.reporter.training(self.totals.report() | rate, self.state.step, self.epoch)

    def evaluate(self) -> None:
        """Evaluate the held-out clips, with the averaged weights where they are kept; a stop signal breaks it off."""
        if self.evaluator is None:
            return
        began = time.perf_counter()
        self.heartbeat.beat("evaluating", self.state.step)
        try:
            with self.averaged_weights():
                metrics = self.evaluator.run(self.engine.model, self.core, self.state.step, self.reporter, self.inbox)
        except Interrupted:
            logger.info("the evaluation after step %d is broken off; it is made up for on resume", self.state.step)
            self.stopped = True
            return
        self.state.evaluated_step = self.state.step
        best = math.inf if self.state.best_metric is None else self.state.best_metric
        if all_succeeded(metrics["loss"] < best):  # agreed, because all processes take part in the save that follows
            self.previous_best = self.state.best_metric, self.state.best_step
            self.state.best_metric, self.state.best_step = metrics["loss"], self.state.step
        self.reporter.evaluation(metrics, self.state.step, self.epoch)
        self.totals.exclude(time.perf_counter() - began)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Use the moving average, if there is one, for a while."""
        return nullcontext() if self.average is None else self.average.applied()

    def save(self, *, again: bool = False) -> None:
        """Write a checkpoint of this step boundary, unless there is one already (`again`: nevertheless)."""
        self.save_asked = False
        if self.saved_step == self.state.step and not again:
            return
        began = time.perf_counter()
        self.heartbeat.beat("saving", self.state.step)
        main = self.accelerator.is_main_process
        if self.accelerator.scaler is not None:
            self.state.gradient_scaler = self.accelerator.scaler.state_dict()
        contents = CheckpointContents(
            state=self.state,
            model=gather_tensors(self.engine.parameters, keep=main),
            optimizer=self.engine.optimizer_tensors(keep=main),
            average=gather_tensors(self.average.averages, keep=main) if self.average is not None else {},
            random_state=capture_random_state(),
            config=self.config.to_dict(),
        )
        if self.checkpoints.save(contents, best=self.state.best_step == self.state.step) is not None:
            self.saved_step = self.state.step
        elif self.is_best:  # nothing holds these weights: a later evaluation has to be better than the one before
            self.state.best_metric, self.state.best_step = self.previous_best
        self.totals.exclude(time.perf_counter() - began)

    def unsaved(self) -> str:
        """What is missing if no checkpoint holds the present weights; nothing if one does."""
        if self.saved_step == self.state.step:
            return ""
        latest = "there is no checkpoint" if self.saved_step is None else f"the latest one is of step {self.saved_step}"
        return f"the checkpoint of step {self.state.step} could not be written, {latest}"

    def require_saved(self) -> None:
        """Say how a run that was stopped goes on.

        Raises:
            CheckpointError: its last step is not saved.
        """
        if unsaved := self.unsaved():
            raise CheckpointError(f"the run was asked to stop, but {unsaved}. Make room before the next start.")
        training = self.config.training
        changes = " without overwrite_output_dir" * training.overwrite_output_dir
        changes += " with resume auto" * (training.resume != "auto")
        logger.info("stopped after step %d; the same command%s goes on from there", self.state.step, changes)

    def finish(self) -> None:
        """Write the model that the next stage starts from.

        Raises:
            CheckpointError: it cannot be written; says whether a checkpoint holds its weights.
        """
        self.heartbeat.beat("writing the model", self.state.step)
        error: Exception | None = None
        with self.averaged_weights():
            try:
                trainable = self.engine.trainable
                write_final_model(self.family, self.accelerator, self.core, trainable, self.config, self.output_dir)
            except (OSError, SafetensorError) as failure:  # the disk; the other processes are waiting
                error = failure
        if not all_succeeded(error is None):
            raise CheckpointError(
                f"the model could not be written to {self.output_dir} ({error or 'another process failed'}); "
                f"{self.unsaved() or 'the latest checkpoint holds its weights'}. Make room and start the run again: "
                "it goes on from there."
            ) from error
        logger.info("the model is in %s (step %d of %d)", self.output_dir, self.state.step, self.total_steps)
