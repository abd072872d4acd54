"""Commands to a training run, from their arrival on one process to their effect on all of them.

Each process collects its commands in its inbox; the main process also has those that are scheduled, and those of a
journal. When the reduction of a step shows that any process has commands, the processes exchange them. The main process
refuses what is not possible and writes the rest into the journal; then every process carries out the same list. What
takes time (evaluations, songs, exports, checkpoints) is noted here and done by the trainer, which reports when it is.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from songgen.config import RunConfig
from songgen.runtime.control.commands import CLEAR, Action, Command, parse
from songgen.runtime.processes.agreement import from_main, gather_lists
from songgen.runtime.processes.commands import Inbox
from songgen.train.checkpoints.state import TrainerState
from songgen.train.control.journal import JOURNAL_FILE, NEVER, Entry, Journal, Planned
from songgen.train.evaluation import Evaluator
from songgen.train.optimization.loss_scale import Scaler
from songgen.train.optimization.schedules import LearningRateSchedule
from songgen.train.reporting.reporter import Reporter

logger = logging.getLogger(__name__)

EVALUATIONS = (Action.EVALUATE, Action.EVALUATE_AND_STOP)

WORK = (*EVALUATIONS, Action.SAMPLE, Action.EXPORT)
"""Actions that take time, and are done by the trainer after the step."""

MAX_SCHEDULED = 100
"""Maximum number of scheduled commands."""


@dataclass(frozen=True)
class _Asked:
    """Command that this process has received and not carried out yet."""

    command: Command
    """The command."""
    is_journaled: bool = False
    """Whether it is in the journal already: it was scheduled, or a resumed run carries it out again."""
    is_replayed: bool = False
    """Whether it comes from the journal of another run."""


@dataclass
class RunControl:
    """Commands of one run, on one process. Every method is called by all processes together, unless it says otherwise.

    The state that it changes is that of the trainer, so that checkpoints hold the effect.
    """

    inbox: Inbox
    """Commands that this process receives."""
    state: TrainerState
    """Position and state of the run."""
    config: RunConfig
    """Resolved configuration."""
    folder: Path
    """Output folder of the run."""
    schedule: LearningRateSchedule
    """Learning rate schedule."""
    scaler: Scaler | None
    """Loss scaler of float16; None in other precisions."""
    evaluator: Evaluator | None
    """Evaluator of the held-out clips; None if there are none."""
    reporter: Reporter
    """Console and progress of the run."""
    rank: int
    """Rank of this process."""
    planned: Sequence[Planned] = ()
    """Commands of journals that are still to come."""
    journal: Journal | None = None
    """Journal, on the main process of a run that trains, from `begin` on."""
    _asked: list[_Asked] = field(default_factory=list)
    _questions: list[Command] = field(default_factory=list)
    _unfinished: list[Command] = field(default_factory=list)

    def begin(self) -> None:
        """Open the journal, and say what is carried out again. Called when the run has resumed or begins."""
        state = self.state.commands
        # The stop of an `eval_quit` is done: the run was resumed to continue. Its evaluation set may be gone since.
        state.owed = [_without_stop(text) for text in state.owed if not self._problem(parse(text, ""))]
        if self.rank != 0:
            return
        self.journal = journal = Journal(self.folder)
        journal.begin()
        step = self.state.step
        if self.config.training.replay == NEVER and journal.drop_after(step):
            logger.warning("the commands of %s after step %d are dropped (replay %s)", journal.path, step, NEVER)
        if self.planned:
            shown = ", ".join(f"{plan.command.text} after step {plan.step}" for plan in self.planned[:8])
            rest = "" if len(self.planned) <= 8 else f" and {len(self.planned) - 8} more"
            logger.info("commands of a journal will be carried out: %s%s (replay %s drops those of this run)",
                        shown, rest, NEVER)  # fmt: skip

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate that the schedule scales."""
        told = self.state.commands.learning_rate
        return self.config.training.learning_rate if told is None else told

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        return self.peak_learning_rate * self.schedule(self.state.curve.update)

    def has_commands(self) -> bool:
        """Return whether this process has commands for the boundary after the present step; for itself alone."""
        step = self.state.step + 1
        for command in self.inbox.take():
            if command.is_question:
                self._questions.append(command)
            elif all(each.command is not command for each in self._asked):  # a stop is returned every time
                self._asked.append(_Asked(command))
        if self.rank == 0:
            scheduled = (parse(text, "scheduled") for text in self.state.commands.scheduled)
            due = [dataclasses.replace(command, at=None) for command in scheduled if command.at == step]
            self._asked += [_Asked(command, is_journaled=True) for command in due]
            self._asked += [
                _Asked(plan.command, plan.is_journaled, is_replayed=not plan.is_journaled)
                for plan in self.planned
                if plan.step == step
            ]
        return bool(self._asked)

    def carry_out(self, *, has_commands: bool) -> frozenset[Action]:
        """Carry out the commands of this step boundary and answer the questions.

        Args:
            has_commands: whether any process has commands.

        Returns:
            `STOP` and `SAVE`, if they are asked for; the trainer does both.
        """
        asked = set()
        for command in self._exchange() if has_commands else ():
            self._take_effect(command)
            if command.at is None and command.action in (Action.STOP, Action.SAVE):
                asked.add(command.action)
        state = self.state.commands
        state.scheduled = [text for text in state.scheduled if (parse(text, "").at or 0) > self.state.step]
        questions, self._questions = self._questions, []
        for command in questions:
            command.answer(self._answer_to(command))
        return frozenset(asked)

    def owed(self, *actions: Action) -> list[Command]:
        """Return the commands of these actions whose work is not done yet."""
        return [command for text in self.state.commands.owed if (command := parse(text, "")).action in actions]

    def finish(self, action: Action, text: str, *, is_done: bool = True) -> None:
        """Note that the work of an action is finished, and answer the commands that asked for it.

        Args:
            action: the action.
            text: what came of it.
            is_done: whether it was done; otherwise it failed, and is not tried again.
        """
        state = self.state.commands
        state.owed = [each for each in state.owed if parse(each, "").action is not action]
        for command in [each for each in self._unfinished if each.action is action]:
            self._unfinished.remove(command)
            command.answer(text, is_done=is_done)

    def evaluated(self, loss: float) -> bool:
        """Note that an evaluation is finished; return whether the run ends after it."""
        is_last = bool(self.owed(Action.EVALUATE_AND_STOP))
        for action in EVALUATIONS:
            self.finish(action, f"loss {loss:.4f} after step {self.state.step}")
        return is_last

    def saved(self, step: int | None) -> None:
        """Note that a checkpoint was saved after this step, or that it could not be: then it is of an earlier step."""
        is_saved = step == self.state.step
        text = f"the checkpoint of step {self.state.step} is {'saved' if is_saved else 'not saved: see the log'}"
        self.finish(Action.SAVE, text, is_done=is_saved)

    def interrupted(self) -> None:
        """Note that a stop was asked for in the middle of work, before the processes exchanged the command."""
        stop = self.inbox.stop
        if self.rank == 0:
            self._record([_Asked(stop or Command(Action.STOP, "another process"))])
        if stop is not None and all(each is not stop for each in self._unfinished):
            self._unfinished.append(stop)

    def close(self) -> None:
        """Answer the commands that asked for the end of the run, which has come, and those that came too late."""
        step = self.state.step
        left = [*self._unfinished, *self._questions, *(each.command for each in self._asked), *self.inbox.take()]
        for command in {id(command): command for command in left}.values():
            if command.action is Action.STOP and command.at is None:
                command.answer(f"the run has ended after step {step}; checkpoint and model are in {self.folder}")
            else:
                command.answer(f"the run has ended after step {step}; not carried out", is_done=False)

    def _exchange(self) -> list[Command]:
        """Exchange the commands of all processes, and return those that are carried out, with their replies here."""
        asked, self._asked = self._asked, []
        shares = gather_lists([[each.command.text, each.command.source] for each in asked])
        others = [_Asked(parse(text, source)) for share in shares[1:] for text, source in share]
        accepted: list[_Asked] = []

        def accept() -> list[list[str]]:
            accepted.extend(self._accepted([*asked, *others]))
            return [[each.command.text, each.command.source] for each in accepted]

        told = from_main(self.rank, accept)
        if self.rank == 0:  # with the replies, which only the main process has
            return [each.command for each in accepted]
        return [parse(text, source) for text, source in told]

    def _accepted(self, asked: Sequence[_Asked]) -> list[_Asked]:
        """Return the commands that are possible, after writing them into the journal (main process)."""
        found: list[_Asked] = []
        for each in asked:
            command = each.command
            if command.at == self.state.step:
                command = dataclasses.replace(command, at=None)
            if command.reply is None and any(other.command.text == command.text for other in found):
                continue  # one signal that every process has received
            if problem := self._problem(command):
                logger.warning("%s (%s): %s", command.text, command.source, problem)
                command.answer(problem, is_done=False)
            else:
                found.append(dataclasses.replace(each, command=command))
        if self._record(found):
            return found
        return [each for each in found if each.is_journaled or _is_urgent(each.command)]

    def _record(self, asked: Sequence[_Asked]) -> bool:
        """Write commands into the journal (main process); return whether that succeeded."""
        new = [each for each in asked if not each.is_journaled]
        entries = [Entry(self.state.step, each.command.text, each.command.source, each.is_replayed) for each in new]
        try:
            if entries and self.journal is not None:
                self.journal.append(entries)
        except OSError as error:
            # A stop and a checkpoint must be possible on a full disk. Anything else would be lost on resume.
            problem = f"it cannot be written to {JOURNAL_FILE} ({error}), and would be lost on resume"
            logger.warning("commands: %s", problem)
            for each in new:
                if not _is_urgent(each.command):
                    each.command.answer(f"{problem}; not carried out", is_done=False)
            return False
        return True

    def _problem(self, command: Command) -> str:
        """Return why a command is not possible; empty if it is."""
        if command.at is not None and (problem := self._problem_of_schedule(command.at)):
            return problem
        number = command.argument if isinstance(command.argument, float) else 0.0
        if command.action in (*EVALUATIONS, Action.SAMPLE) and self.evaluator is None:
            return "the run has no evaluation set (do_eval is false)"
        if command.action is Action.SAMPLE and self.evaluator is not None and self.evaluator.songs is None:
            return "the run does not generate songs"
        is_at_once = command.at is None
        if command.action is Action.LEARNING_RATE and number and is_at_once and not self.learning_rate:
            return "the schedule is at zero here, which no learning rate can scale; try again after the next step"
        if command.action is Action.LOSS_SCALE:
            training = self.config.training
            if self.scaler is None:
                return f"dtype {training.dtype} has no loss scale here"
            if not training.loss_scale_floor <= number <= training.loss_scale_cap:
                bounds = f"loss_scale_floor {training.loss_scale_floor:g} to loss_scale_cap {training.loss_scale_cap:g}"
                return f"the range of the loss scale is {bounds}"
        return ""

    def _problem_of_schedule(self, at: int) -> str:
        """Return why a command cannot be scheduled after a step; empty if it can."""
        if at < self.state.step:
            return f"step {at} is over: {self.state.step} steps are completed"
        if at > self.state.total_steps:
            return f"the run ends at step {self.state.total_steps}"
        if len(self.state.commands.scheduled) >= MAX_SCHEDULED:
            return f"{MAX_SCHEDULED} commands are scheduled already; event clear cancels them"
        return ""

    def _take_effect(self, command: Command) -> None:
        """Carry out a command as far as it needs no work, which is only noted."""
        state, argument = self.state.commands, command.argument
        logger.info("after step %d: %s (%s)", self.state.step, command.text, command.source)
        if command.at is not None:
            state.scheduled.append(command.text)
            command.answer(f"scheduled; {self.state.step} steps are completed")
        elif command.action is Action.LEARNING_RATE:
            before = self.learning_rate
            factor = self.schedule(self.state.curve.update)
            # A schedule is a factor of its peak: the peak that makes the next step's rate the one that was asked for.
            state.learning_rate = float(argument) / factor if isinstance(argument, float) else None
            command.answer(f"{before:.4g} until step {self.state.step}, {self.learning_rate:.4g} from here on")
        elif command.action is Action.LOSS_SCALE:
            assert self.scaler is not None and isinstance(argument, float)
            self.scaler.update(argument)
            command.answer(f"in effect from step {self.state.step + 1} on")
        elif command.action is Action.EVENT:
            assert argument == CLEAR
            command.answer(f"{len(state.scheduled)} scheduled commands are cancelled")
            state.scheduled = []
        else:
            if command.action in WORK and command.text not in state.owed:
                state.owed.append(command.text)
            self._unfinished.append(command)

    def _answer_to(self, command: Command) -> str:
        """Answer a question."""
        scheduled = self.state.commands.scheduled
        if command.action is Action.EVENT:
            return ", ".join(scheduled) or "nothing is scheduled"
        if command.action is Action.LEARNING_RATE:
            return self._described_rate()
        if command.action is Action.TIME:
            return self._described_time(command.argument if isinstance(command.argument, int) else None)
        parts = [
            f"step {self.state.step} of {self.state.total_steps}, epoch {self.state.epoch + 1}",
            f"learning rate {self._described_rate()}",
            self._described_time(None),
            f"scheduled: {', '.join(scheduled)}" if scheduled else "scheduled: nothing",
        ]
        return "\n  ".join(["", *parts])

    def _described_rate(self) -> str:
        """Describe the learning rate of the next step."""
        configured = self.config.training.learning_rate
        told = self.state.commands.learning_rate
        peak = f"{configured:g}, as configured" if told is None else f"{told:.4g} by lr, {configured:g} configured"
        return f"{self.learning_rate:.4g} in the next step (peak {peak}; schedule {self.schedule.name})"

    def _described_time(self, target: int | None) -> str:
        """Describe the speed, and when a step (None: the last one) is due."""
        step, total = self.state.step, self.state.total_steps
        if target is not None and target <= step:
            return f"step {target} is over: {step} steps are completed"
        if target is not None and target > total:
            return f"the run ends at step {total}"
        assert self.reporter.progress is not None
        speed = self.reporter.progress.steps_per_second
        target = total if target is None else target
        seconds = (target - step) / max(speed, 1e-9)
        due = time.strftime("%a %H:%M:%S", time.localtime(time.time() + seconds))
        return f"{speed:.3g} steps/s, step {target} is due in {tqdm.format_interval(seconds)} (about {due})"


def _is_urgent(command: Command) -> bool:
    """Return whether a command must be possible on a full disk."""
    return command.at is None and command.action in (Action.STOP, Action.SAVE)


def _without_stop(text: str) -> str:
    """Return the command of a text, without the stop of `eval_quit`."""
    command = parse(text, "")
    if command.action is Action.EVALUATE_AND_STOP:
        command = dataclasses.replace(command, action=Action.EVALUATE)
    return command.text
