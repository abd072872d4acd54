"""Commands between their arrival and their effect: what is possible, what is journaled, what is answered."""

import dataclasses
import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from songgen.config import RunConfig
from songgen.runtime.control.commands import Action, parse
from songgen.runtime.json_lines import seal
from songgen.runtime.processes.commands import Inbox
from songgen.train.build import _put_in_place
from songgen.train.checkpoints.resume import Resumption
from songgen.train.checkpoints.state import CommandState, TrainerState
from songgen.train.control import journal as journal_module
from songgen.train.control.control import MAX_SCHEDULED, RunControl
from songgen.train.control.journal import JOURNAL_FILE, Entry, journal_lines, planned_commands
from songgen.train.optimization.schedules import LearningRateSchedule
from songgen.train.reporting.console import Console, RunSummary, TrainingProgress
from songgen.train.reporting.reporter import Reporter
from songgen.train.reporting.trackers import Trackers


class Sent:
    """Commands that are sent to a run of one process, which has completed a step at a time."""

    def __init__(self, folder: Path, schedule: str = "linear", scaler: Any = None, **training: Any) -> None:
        config = RunConfig.from_dict(
            {
                "model_name_or_path": "m",
                "save_to_disk": "d",
                "output_dir": str(folder),
                "learning_rate": 1e-3,
                **training,
            }
        )
        state = TrainerState(step=4, total_steps=10)
        state.curve.length, state.curve.update = 10, 4.0
        reporter = Reporter(Console(enabled=False), _SUMMARY, lambda step: Trackers(folder, enabled=False))
        reporter.progress = TrainingProgress(reporter.console, 10, 1.0, 0)
        curve = LearningRateSchedule(schedule, 10, milestones=(), warmup_steps=0)
        self.control = RunControl(Inbox(), state, config, folder, curve, scaler, None, reporter, 0)
        self.control.begin()
        self.answers: list[str] = []

    def __call__(self, *texts: str) -> frozenset[Action]:
        """Send commands and make a step."""

        def reply(text: str, is_done: bool) -> None:
            self.answers.append(("" if is_done else "refused: ") + text)

        for text in texts:
            self.control.inbox.add(parse(text, "the test", reply))
        has_commands = self.control.has_commands()
        self.control.state.step += 1
        self.control.state.curve.advance(updated=True)
        return self.control.carry_out(has_commands=has_commands)


_SUMMARY = RunSummary("m", 1, 1, 1, 1.0, 0, "1 clip", 1, 1, "cpu", "float32", 10, 1.0)


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


def journaled(folder: Path) -> list[tuple[int, str | None]]:
    return [(entry.step, entry.command) for entry in journal_lines(folder / JOURNAL_FILE).values]


def test_lr_sets_the_rate_of_the_next_step_and_the_schedule_continues_scaled(sent: Sent, tmp_path: Path) -> None:
    assert sent.control.learning_rate == pytest.approx(6e-4)
    sent("lr 1e-4")
    assert sent.control.learning_rate == pytest.approx(1e-4) and sent.control.state.commands.learning_rate == 1e-4 / 0.5
    sent()
    assert sent.control.learning_rate == pytest.approx(1e-4 * 0.4 / 0.5)
    sent("lr auto", "lr")
    assert sent.control.learning_rate == pytest.approx(3e-4) and sent.control.state.commands.learning_rate is None
    assert sent.answers[0] == "lr 0.0001: 0.0005 until step 5, 0.0001 from here on"
    assert sent.answers[-1] == "lr: 0.0003 in the next step (peak 0.001, as configured; schedule linear)"
    assert journaled(tmp_path) == [(5, "lr 0.0001"), (7, "lr auto")]


def test_at_a_zero_of_the_schedule_no_rate_can_be_set(tmp_path: Path) -> None:
    sent = Sent(tmp_path)
    sent.control.state.curve.update = 9.0
    sent("lr 1e-4", "lr 1e-4@9")
    assert sent.answers[0].startswith("refused: lr 0.0001: the schedule is at zero here")
    assert sent.answers[1].startswith("lr 0.0001@9: scheduled") and journaled(tmp_path) == [(5, "lr 0.0001@9")]


def test_a_scheduled_command_is_carried_out_after_its_step_and_once(sent: Sent, tmp_path: Path) -> None:
    sent("lr 1e-4@6", "save@7", "event show")
    assert sent.control.state.commands.scheduled == ["lr 0.0001@6", "save@7"]
    sent()
    assert sent.control.learning_rate == pytest.approx(1e-4)
    assert sent() == {Action.SAVE} and sent() == frozenset() and not sent.control.state.commands.scheduled
    assert sent.answers[-1] == "event show: lr 0.0001@6, save@7"
    assert len(journaled(tmp_path)) == 2, "the effect follows from the line that scheduled it"


def test_what_cannot_be_scheduled_is_refused(sent: Sent) -> None:
    sent("save@3", "save@11", "save@5")
    assert sent.answers == ["refused: save@3: step 3 is over: 5 steps are completed",
                            "refused: save@11: the run ends at step 10"]  # fmt: skip
    sent.control.state.commands.scheduled = ["save@9"] * MAX_SCHEDULED
    sent("save@8")
    assert sent.answers[-1].startswith(f"refused: save@8: {MAX_SCHEDULED} commands are scheduled already")
    sent("event clear")
    assert not sent.control.state.commands.scheduled


def test_a_command_of_the_present_step_is_not_late(sent: Sent, tmp_path: Path) -> None:
    assert sent("save@5") == {Action.SAVE} and journaled(tmp_path) == [(5, "save")]


@pytest.mark.parametrize("text", ["eval", "eval_quit", "sample", "sample@9"])
def test_without_an_evaluation_set_nothing_is_evaluated_or_sampled(sent: Sent, tmp_path: Path, text: str) -> None:
    sent(text)
    assert sent.answers == [f"refused: {text}: the run has no evaluation set (do_eval is false)"]
    assert not journaled(tmp_path) and not sent.control.state.commands.owed


def test_the_loss_scale_is_set_within_its_bounds(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=32768.0)
    scaler.scale(torch.ones(1))
    sent = Sent(tmp_path, scaler=scaler, dtype="float16")
    sent("loss_scale 9000", "loss_scale 100")
    assert scaler.get_scale() == 9000
    assert sent.answers[0].startswith(
        "refused: loss_scale 100.0: the range of the loss scale is loss_scale_floor 8192 to"
    )
    assert sent.answers[1] == "loss_scale 9000.0: in effect from step 6 on"
    assert journaled(tmp_path) == [(5, "loss_scale 9000.0")]


def test_work_is_owed_until_it_is_finished_and_a_resumed_run_does_not_stop_for_it(tmp_path: Path) -> None:
    sent = Sent(tmp_path)
    sent.control.evaluator = object()  # type: ignore[assignment]
    assert sent("eval_quit", "export") == frozenset() and not sent.answers
    state = sent.control.state.commands
    assert [command.action for command in sent.control.owed(Action.EVALUATE_AND_STOP)] == [Action.EVALUATE_AND_STOP]
    sent.control.finish(Action.EXPORT, "failed: the disk is full", is_done=False)
    assert sent.answers == ["refused: export: failed: the disk is full"] and state.owed == ["eval_quit"]
    assert TrainerState.from_json(sent.control.state.to_json()).commands == state
    sent.control.begin()  # resumed
    assert state.owed == ["eval"]
    sent.control.evaluator = None
    sent.control.begin()
    assert state.owed == []


def test_what_cannot_be_journaled_is_refused_but_a_stop_and_a_save(
    sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(journal_module, "append_whole", full)
    assert sent("lr 1e-5", "save", "quit") == {Action.SAVE, Action.STOP}
    assert sent.control.state.commands.learning_rate is None
    assert len(sent.answers) == 1 and "would be lost on resume; not carried out" in sent.answers[0]
    sent.control.close()
    assert any(answer.startswith("quit: the run has ended after step 5") for answer in sent.answers)


def test_a_command_that_comes_too_late_is_told_so(sent: Sent) -> None:
    sent("save")
    sent.control.finish(Action.SAVE, "saved")
    sent.control.inbox.add(parse("lr 1e-5", "the test", lambda text, is_done: sent.answers.append(text)))
    sent.control.close()
    assert sent.answers == ["save: saved", "lr 1e-05: the run has ended after step 5; not carried out"]


def test_a_changed_learning_rate_replaces_the_one_of_a_command(tmp_path: Path) -> None:
    for changed, expected in (("learning_rate", None), ("seed", 0.1)):
        sent = Sent(tmp_path)
        state = dataclasses.replace(sent.control.state, commands=CommandState(learning_rate=0.1))
        _put_in_place(state, sent.control.config, 10, {}, Resumption(tmp_path, state, 1, {changed: (1, 2)}))
        assert state.commands.learning_rate == expected


def write(path: Path, *entries: tuple[int, str | None], replayed: bool = False) -> Path:
    lines = [seal(dataclasses.asdict(Entry(step, command, "a test", replayed))) for step, command in entries]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def plans(folder: Path, replay: str, step: int) -> list[tuple[int, str, bool]]:
    return [(plan.step, plan.command.text, plan.is_journaled) for plan in planned_commands(folder, replay, step)]


def test_a_resumed_run_plans_what_came_after_its_checkpoint_without_the_stops(tmp_path: Path) -> None:
    write(tmp_path / JOURNAL_FILE, (2, "lr 0.1"), (5, "quit"), (6, "quit@9"), (3, None), (4, "eval_quit"))
    assert plans(tmp_path, "auto", 1) == [(2, "lr 0.1", True), (4, "eval", True), (4, "save", True)]
    assert plans(tmp_path, "auto", 2) == plans(tmp_path, "auto", 1)[1:]
    assert plans(tmp_path, "never", 1) == [] == plans(tmp_path, "auto", 4)
    write(tmp_path / JOURNAL_FILE, (5, "quit"), (6, "quit@9"))
    assert plans(tmp_path, "auto", 0) == [(5, "save", True), (6, "quit@9", True)], "a scheduled stop is still to come"
    assert plans(tmp_path, str(tmp_path), 0) == plans(tmp_path, "auto", 0)


def test_a_run_that_replays_another_one_and_is_resumed_does_not_journal_it_twice(tmp_path: Path) -> None:
    other = write(tmp_path / "other" / JOURNAL_FILE, (2, "lr 0.1"), (5, "lr 0.2"), (6, "quit@9"))
    own = tmp_path / "own"
    assert plans(own, str(other), 0) == [(2, "lr 0.1", False), (5, "lr 0.2", False), (6, "save@9", False)]
    write(own / JOURNAL_FILE, (2, "lr 0.1"), (5, "lr 0.2"), replayed=True)
    assert plans(own, str(other), 2) == [(5, "lr 0.2", True), (6, "save@9", False)]


def test_a_journal_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="replay: there is no journal"):
        plans(tmp_path, str(tmp_path / "none"), 0)
    path = write(tmp_path / JOURNAL_FILE, (2, "lr 0.1"), (5, "lr 0.2"))
    path.write_text(path.read_text().replace("0.1", "0.9"))
    with pytest.raises(ValueError, match="damaged line 1; remove them .* or set replay to never"):
        plans(tmp_path, "auto", 0)
    assert plans(tmp_path, "never", 0) == []
