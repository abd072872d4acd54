"""The training loop: one class for every objective, made of parts that are built elsewhere (`songgen.train.build`)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from songgen.config import RunConfig
from songgen.config.changes import KIND_OF, Change
from songgen.families.objective import Objective
from songgen.families.songs import TrainingData
from songgen.runtime.control.commands import Action
from songgen.runtime.processes.agreement import all_succeeded
from songgen.runtime.processes.commands import Inbox, Interrupted
from songgen.runtime.processes.group import StartPatience
from songgen.runtime.processes.heartbeat import Heartbeat
from songgen.train.checkpoints.manager import CheckpointError, CheckpointManager
from songgen.train.checkpoints.resume import Resumption, count_epochs, require_same_parameters
from songgen.train.checkpoints.state import CheckpointContents, TrainerState, capture_random_state, restore_random_state
from songgen.train.control.control import EVALUATIONS, RunControl
from songgen.train.control.work import OwedWork
from songgen.train.data_growth import DataGrowth, take_in
from songgen.train.evaluation import Evaluator
from songgen.train.final_model import ModelWriter, write_agreed
from songgen.train.intervals import Intervals
from songgen.train.optimization.anomalies import AnomalyWatch, NonFiniteError
from songgen.train.optimization.ema import MovingAverage, averaged_weights
from songgen.train.optimization.engine import Engine
from songgen.train.optimization.loss_scale import LossScaleBounds
from songgen.train.optimization.named_tensors import copy_tensors, gather_tensors
from songgen.train.optimization.optimizer import get_learning_rate, set_learning_rate
from songgen.train.reporting.reporter import Reporter
from songgen.train.same_everywhere import require_same_weights
from songgen.train.step import Outcome, StepResult, TrainingStep
from songgen.train.totals import StepTotals

logger = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains a model to the end of its plan, or until it is asked to stop; the final model is written either way."""

    # The run
    config: RunConfig
    """Resolved configuration."""
    accelerator: Accelerator
    """Processes, device and precision."""
    output_dir: Path
    """Folder of the run."""

    # What is trained
    objective: Objective
    """Objective: what is minimized, measured and sampled."""
    core: nn.Module
    """Model without wrappers."""
    engine: Engine
    """Wrapped model, its gradients and its optimizer."""
    data: TrainingData
    """Songs to train on, in the order of the batch plan."""
    total_steps: int
    """Optimizer steps of the whole run."""

    # How it is trained
    training_step: TrainingStep
    """One optimizer step."""
    average: MovingAverage | None
    """Moving average of the weights; None if none is kept."""
    anomalies: AnomalyWatch
    """Handling of values that are not finite and of loss spikes."""
    loss_scale: LossScaleBounds
    """Bounds of the loss scale in float16."""

    # What happens around it
    intervals: Intervals
    """When to log, evaluate and save."""
    evaluator: Evaluator | None
    """Evaluator of the held-out clips; None if there are none."""
    checkpoints: CheckpointManager
    """Manager that saves and finds checkpoints."""
    reporter: Reporter
    """Progress bar, metrics file and trackers."""
    totals: StepTotals
    """Sums between two lines of metrics."""
    heartbeat: Heartbeat
    """Heartbeat of this process."""
    patience: StartPatience
    """Time limit for processes that wait for each other; long until the first step is done."""
    control: RunControl
    """Commands to the run while it trains."""
    writer: ModelWriter
    """Writer of what the run produces."""
    owed_work: OwedWork
    """Songs and exports that commands ask for."""
    growth: DataGrowth | None = None
    """Reader of data sets that may grow; None if they are read once."""
    inbox: Inbox = field(default_factory=Inbox)
    """Commands that this process receives while it trains."""

    # Its position
    resumption: Resumption | None = None
    """Checkpoint that the run resumes from; None for a new run."""
    state: TrainerState = field(default_factory=TrainerState)
    """Position in the run; that of the checkpoint when the run is resumed."""
    stopped: bool = False
    """Whether the run was asked to stop."""
    save_asked: bool = False
    """Whether a checkpoint of this step was asked for."""
    saved_step: int | None = None
    """Step of the latest checkpoint that this process took part in."""
    previous_best: tuple[float | None, int | None] = (None, None)
    """Loss and step of the best evaluation before the present best."""

    def train(self) -> TrainerState:
        """Train to the end of the plan or until asked to stop. Call it while `inbox` is entered.

        Returns:
            The state at the end of the run.

        Raises:
            NonFiniteError: if losses or gradients were not finite, and the configuration says to stop.
            CheckpointError: if checkpoints cannot be saved, or the last one of a run that was asked to stop.
        """
        with self.reporter:
            self.resume()
            if self.evaluator is not None:
                self.evaluator.resume(self.state.evaluated_step)
            self.reporter.start(self.state.step)
            self.control.begin()
            self.make_up_evaluation()
            self.do_owed_work()
            for batches in self.remaining_steps():
                if self.stopped:
                    break
                # The order matters: an evaluation comes before the save of the same step, whose checkpoint then records
                # its result. After a stop request, the save comes before an evaluation, which is repeated on resume.
                self.obey(self.step(batches))
                if self.due(self.intervals.log) or self.stopped:
                    self.log()
                if (self.due(self.intervals.evaluate) or self.owes_evaluation) and not self.stopped:
                    self.evaluate()
                self.do_owed_work()
                if self.due(self.intervals.save) or self.stopped or self.save_asked or self.is_best:
                    self.save()
                    self.control.saved(self.saved_step)
                if self.due(self.intervals.plot):
                    self.reporter.plot()
                self.heartbeat.beat("waiting for data", self.state.step)
            self.finish()
        if self.stopped:
            self.require_saved()
        self.control.close()
        return self.state

    def due(self, interval: int | None) -> bool:
        """Return whether an interval is due after this step. Every interval (also None) is due at the end of a run."""
        step = self.state.step
        return step >= self.total_steps or (interval is not None and step % interval == 0)

    def evaluate_only(self) -> None:
        """Evaluate the model, or the checkpoint that the configuration asks for, and train nothing."""
        with self.reporter:
            self.resume()
            self.reporter.start(self.state.step)
            self.evaluate()

    def make_up_evaluation(self) -> None:
        """Run the evaluation that the run was stopped before, so that no evaluation is missing after a stop."""
        is_missing = self.state.evaluated_step != self.state.step and self.due(self.intervals.evaluate)
        if self.state.step and (is_missing or self.owes_evaluation):
            self.evaluate()
            if self.is_best:  # the checkpoint of this step does not record it
                self.save(again=True)

    @property
    def owes_evaluation(self) -> bool:
        """Whether a command asked for an evaluation of this step, which is not done yet."""
        return bool(self.control.owed(*EVALUATIONS))

    @property
    def is_best(self) -> bool:
        """Whether the model of this step has the lowest evaluation loss and gets a checkpoint for it."""
        return self.state.best_step == self.state.step and self.intervals.save is not None

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.state.epoch + self.state.batches_in_epoch / len(self.data.plan.batches(self.state.epoch))

    def resume(self) -> None:
        """Load the checkpoint that the run resumes from, if there is one."""
        if self.resumption is None:
            return
        folder = self.resumption.folder
        contents = self.checkpoints.load(folder)
        require_same_parameters(contents.model, self.engine.parameters)
        self.put_back(contents)
        if self.accelerator.scaler is not None and contents.state.gradient_scaler:
            self.accelerator.scaler.load_state_dict(contents.state.gradient_scaler)
        # Last, since what comes before may use random numbers: dropout then continues with the same ones.
        if contents.random_state:
            restore_random_state(contents.random_state)
        else:
            logger.warning("%s holds no random state for this process: dropout samples other numbers", folder)
            set_seed(self.config.training.seed + self.state.step, device_specific=True)
        if not any(KIND_OF[key] is Change.COMPUTATION for key in self.resumption.changed):
            self.totals.restore(
                contents.state.metric_sums, self.accelerator.process_index, self.accelerator.num_processes
            )
        self.saved_step = self.state.step
        self.checkpoints.protect(folder)
        self.checkpoints.retain()
        logger.info("resumed from %s: step %d, epoch %d", folder, self.state.step, self.state.epoch)

    def put_back(self, contents: CheckpointContents) -> None:
        """Load weights, optimizer state and moving average from a checkpoint."""
        self.engine.load(contents.model, contents.optimizer)
        if self.average is not None:
            copy_tensors(self.average.averages, contents.average or contents.model)

    def rewind(self) -> None:
        """Roll back to the weights of the latest checkpoint. The data is not rolled back: new clips follow."""
        folder = self.checkpoints.latest()
        if folder is None:
            logger.warning("step %d: there is no checkpoint to roll back to; the step was skipped", self.state.step)
            return
        contents = self.checkpoints.load(folder)
        self.put_back(contents)
        # Steps count what was read, updates what changed the weights: only the second is undone, with the learning
        # rate's place on the curve (`update`).
        state, undone = self.state, self.state.updates - contents.state.updates
        state.updates -= undone
        state.curve.update -= undone * state.curve.rate
        state.rewinds += 1
        logger.warning("step %d: rolled back to %s (%d updates lost)", state.step, folder, undone)

    def remaining_steps(self) -> Iterator[list[Any]]:
        """Yield this process's micro-batches of each remaining step, epoch after epoch."""
        while self.state.step < self.total_steps:
            self.reread_data()
            for batches in self.data.steps(self.state.epoch, self.state.batches_in_epoch):
                yield batches
                if self.state.step >= self.total_steps:
                    return

    def reread_data(self) -> None:
        """Read the data sets again if that is due, and plan the rest of the run for the clips that they have now."""
        data = self.growth.next(self.data, self.state) if self.growth is not None else None
        if data is None:
            return
        self.data, self.total_steps = data, take_in(data, self.config, self.state)
        self.intervals = Intervals.of(self.config.training, data.plan.steps_per_epoch(0), self.total_steps)
        if self.evaluator is not None and self.evaluator.songs is not None:
            self.evaluator.songs.last_step = self.total_steps
        self.reporter.plan(self.total_steps, count_epochs(data.plan, self.state, self.total_steps))

    def step(self, batches: list[Any]) -> StepResult:
        """Train on the micro-batches of one step and advance the state."""
        self.heartbeat.beat("training", self.state.step)
        # Set before each step from the position alone, so that a resumed run needs no state of a scheduler.
        curve = self.state.curve
        set_learning_rate(self.engine.optimizer, self.control.learning_rate)
        values = self.objective.curve_values(curve.step / max(1, curve.length))
        result = self.training_step.run(
            batches, values, self.control.has_commands, lambda loss: self.anomalies.allows_update(loss, self.state)
        )
        try:
            must_rewind = self.anomalies.after_step(batches, result, self.state)
            self.loss_scale.apply(self.accelerator.scaler, result.outcome, self.state)
        except NonFiniteError as error:
            self.save()  # the step did not change the weights
            if unsaved := self.unsaved():
                raise CheckpointError(f"{error} These weights are not saved: {unsaved}.") from error
            raise
        if must_rewind:
            self.rewind()
        self.totals.add(result)
        self.advance(result)
        self.patience.end()
        return result

    def obey(self, result: StepResult) -> None:
        """Carry out the commands that any process has received, all at the same step boundary.

        A stop and a save are only noted here: an evaluation that is due comes before a save, so that the checkpoint
        records it.
        """
        asked = self.control.carry_out(has_commands=result.has_commands)
        if Action.STOP in asked:
            self.stopped = True
            logger.info("asked to stop: the run ends after step %d", self.state.step)
        if Action.SAVE in asked:
            self.save_asked = True
            logger.info("asked to save: the run continues after step %d", self.state.step)

    def do_owed_work(self) -> None:
        """Sample songs and export the model if commands asked for it. What a stop interrupts is repeated on resume."""
        if self.stopped or not self.control.owed(Action.SAMPLE, Action.EXPORT):
            return
        began = time.perf_counter()
        if not self.owed_work.do(self.epoch):
            self.interrupt("work that a command asked for")
        self.totals.exclude(time.perf_counter() - began)

    def advance(self, result: StepResult) -> None:
        """Advance the state by one step."""
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
        # Counted from here: the completed steps of this epoch may have been of another number of processes.
        left = self.data.plan.steps_per_epoch(state.epoch, state.batches_in_epoch)
        self.reporter.advance(state.epoch, state.step_in_epoch, state.step_in_epoch + left)
        if state.batches_in_epoch >= len(self.data.plan.batches(state.epoch)):
            state.epoch, state.step_in_epoch, state.batches_in_epoch = state.epoch + 1, 0, 0

    def log(self) -> None:
        """Report the metrics since the last report; a run that is stopped between two lines reports those so far."""
        rate = {"learning_rate": get_learning_rate(self.engine.optimizer)}
        metrics = self.totals.report(reset=self.due(self.intervals.log))
        self.reporter.training(metrics | rate, self.state.step, self.epoch)
        self.heartbeat.expect(self.reporter.next_milestone)

    def evaluate(self) -> None:
        """Evaluate the held-out clips, with the averaged weights if they are kept. A stop request interrupts it."""
        if self.evaluator is None:
            return
        began = time.perf_counter()
        self.heartbeat.beat("evaluating", self.state.step)
        try:
            with self.averaged_weights():
                metrics = self.evaluator.run(self.engine.model, self.core, self.state.step, self.reporter, self.inbox)
        except Interrupted:
            self.interrupt("the evaluation")
            return
        self.state.evaluated_step = self.state.step
        best = math.inf if self.state.best_metric is None else self.state.best_metric
        if all_succeeded(metrics["loss"] < best):  # agreed, because all processes take part in the save that follows
            self.previous_best = self.state.best_metric, self.state.best_step
            self.state.best_metric, self.state.best_step = metrics["loss"], self.state.step
        self.reporter.evaluation(metrics, self.state.step, self.epoch)
        self.totals.exclude(time.perf_counter() - began)
        self.stopped = self.control.evaluated(metrics["loss"]) or self.stopped

    def interrupt(self, work: str) -> None:
        """Note that a stop request has interrupted some work."""
        logger.info("%s after step %d was interrupted; it is repeated on resume", work, self.state.step)
        self.stopped = True
        self.control.interrupted()

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the averaged weights, if an average is kept."""
        return averaged_weights(self.average)

    def save(self, *, again: bool = False) -> None:
        """Write a checkpoint of this step, unless there is one already (`again`: even then).

        Raises:
            CheckpointError: if saves fail several times in a row, or the weights of the processes differ.
        """
        self.save_asked = False
        if self.saved_step == self.state.step and not again:
            return
        began = time.perf_counter()
        self.heartbeat.beat("saving", self.state.step)
        require_same_weights(self.engine.parameters, self.state.step)
        main = self.accelerator.is_main_process
        if self.accelerator.scaler is not None:
            self.state.gradient_scaler = self.accelerator.scaler.state_dict()
        self.state.metric_sums = self.totals.sums()
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
        elif self.is_best:  # these weights are saved nowhere, so the best loss is the one before
            self.state.best_metric, self.state.best_step = self.previous_best
        self.totals.exclude(time.perf_counter() - began)

    def unsaved(self) -> str:
        """Return what is missing if no checkpoint holds the current weights; empty if one does."""
        if self.saved_step == self.state.step:
            return ""
        latest = "there is no checkpoint" if self.saved_step is None else f"the latest one is of step {self.saved_step}"
        return f"the checkpoint of step {self.state.step} could not be written, {latest}"

    def require_saved(self) -> None:
        """Log how to resume a run that was stopped.

        Raises:
            CheckpointError: if its last step is not saved.
        """
        if unsaved := self.unsaved():
            raise CheckpointError(f"the run was asked to stop, but {unsaved}. Free disk space before the next start.")
        training = self.config.training
        changes = " without overwrite_output_dir" * training.overwrite_output_dir
        changes += " with resume auto" * (training.resume != "auto")
        logger.info("stopped after step %d; the same command%s continues from there", self.state.step, changes)

    def finish(self) -> None:
        """Write the model that the next stage starts from.

        Raises:
            CheckpointError: if it cannot be written; the message says whether a checkpoint holds its weights.
        """
        self.heartbeat.beat("writing the model", self.state.step)
        with self.averaged_weights():
            error = write_agreed(partial(self.writer.write, self.output_dir))
        if isinstance(error, NonFiniteError):
            raise error
        if error is not None:
            raise CheckpointError(
                f"the model could not be written to {self.output_dir} ({error}); "
                f"{self.unsaved() or 'the latest checkpoint holds its weights'}. Free disk space and start the "
                "run again: it continues from there."
            ) from error
        result = "model" if self.engine.trainable.form is None else "adapter"
        logger.info("the %s is in %s (step %d of %d)", result, self.output_dir, self.state.step, self.total_steps)
