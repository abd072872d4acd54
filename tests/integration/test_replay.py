"""A run that was steered by hand is repeated from its journal, bit for bit; and it keeps its course over kills."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from forked import Hook, before_each_step, fork_run, saved_files
from launching import make_world, records, write_config

from songgen.exit_codes import EXIT_DONE
from songgen.runtime.control.commands import parse
from songgen.train.checkpoints.files import verify
from songgen.train.checkpoints.state import read_trainer_state
from songgen.train.control.journal import JOURNAL_FILE, journal_lines
from songgen.train.trainer import Trainer

STEPS = 10
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS, "save_steps": 2, "save_total_limit": None, "lr_scheduler_type": "cosine", "warmup_steps": 2,
    "eval_strategy": "no", "num_generated_samples": 1, "max_length": 12, "condition_dropout": 0.3, "ema_decay": 0.8,
}  # fmt: skip
TYPED = {
    2: ["lr 5e-3", "export"], 3: ["eval", "save@7"], 4: ["sample 1", "lr 1e-4@6"], 5: ["event show", "svae", "time"],
    8: ["lr auto", "save"],
}  # fmt: skip
"""Step -> commands that are typed while it is computed."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with dropout, and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), num_train=16, dropout=0.2)


def typing(commands: dict[int, list[str]], then: Hook = lambda rank: None) -> Hook:
    """A hook: the main process receives commands while it computes certain steps."""

    def hook(rank: int) -> None:
        def type_in(trainer: Trainer, batches: Any) -> None:
            for text in commands.get(trainer.state.step + 1, ()) if rank == 0 else ():
                if text != "svae":  # the source refuses it
                    trainer.inbox.add(parse(text, "the test"))

        before_each_step(type_in)
        then(rank)

    return hook


def kill_in_step(step: int) -> Hook:
    """A hook: every process is killed in this step."""

    def kill(trainer: Trainer, batches: Any) -> None:
        if trainer.state.step + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda rank: before_each_step(kill)


def checkpoints(folder: Path) -> dict[int, Any]:
    """All files of the newest checkpoint of each step, by hash."""
    return {verify(path).step: saved_files(path) for path in sorted(folder.glob("checkpoint-*"))}


def journal(folder: Path) -> list[tuple[int, str | None, bool]]:
    lines = journal_lines(folder / JOURNAL_FILE)
    assert not lines.damaged
    return [(entry.step, entry.command, entry.replayed) for entry in lines.values]


def rates(folder: Path) -> list[float]:
    return [line["train/learning_rate"] for line in records(folder) if "train/learning_rate" in line]


def model_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody steers."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    config = write_config(world, output_dir=str(folder), **SETTINGS | {"save_steps": STEPS})
    fork_run(config, folder.with_name("log")).finish(EXIT_DONE)
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_a_replayed_run_has_the_bits_of_the_run_that_was_steered_by_hand(
    world: Path, alone: Path, tmp_path: Path, processes: int
) -> None:
    steered, replayed = tmp_path / "steered", tmp_path / "replayed"
    for folder, replay, typed in ((steered, "auto", TYPED), (replayed, str(steered / JOURNAL_FILE), {})):
        config = write_config(world, output_dir=str(folder), replay=replay, **SETTINGS)
        fork_run(config, tmp_path / "log", processes=processes, hook=typing(typed)).finish(EXIT_DONE)
    assert checkpoints(steered) == checkpoints(replayed)
    assert set(checkpoints(steered)) == {2, 3, 4, 6, 7, 8, STEPS}, "3: the best evaluation, 7 and 8: asked for"
    assert model_of(steered) == model_of(replayed) != model_of(alone)
    told = [
        (2, "lr 0.005"), (2, "export"), (3, "eval"), (3, "save@7"), (4, "sample 1"), (4, "lr 0.0001@6"), (8, "lr auto"),
        (8, "save"),
    ]  # fmt: skip
    assert journal(steered) == [(*entry, False) for entry in told]
    assert journal(replayed) == [(*entry, True) for entry in told]
    for folder in (steered, replayed):
        assert [path.name for path in (folder / "exports").iterdir()] == ["step-2"]
        assert {path.name for path in (folder / "samples").iterdir()} == {"step_00000000", "step_00000004"}
        assert [line["step"] for line in records(folder) if "eval/loss" in line] == [3, STEPS]
    found, usual = rates(steered), rates(alone)
    assert found[:2] == usual[:2] and found[8:] == usual[8:]
    assert (found[2], found[6]) == (pytest.approx(5e-3), pytest.approx(1e-4))
    assert found[3] / found[2] == pytest.approx(usual[3] / usual[2]), "the schedule continues from there, scaled"


def test_evaluations_songs_and_exports_do_not_change_the_random_numbers_of_training(
    world: Path, alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), **SETTINGS | {"save_steps": None})
    typed = {3: ["eval", "sample 2", "export"], 6: ["sample 1", "eval", "save"]}
    fork_run(config, tmp_path / "log", hook=typing(typed)).finish(EXIT_DONE)
    assert model_of(folder) == model_of(alone)
    assert checkpoints(folder)[STEPS] == checkpoints(alone)[STEPS]


def test_a_killed_run_carries_out_again_what_came_after_its_checkpoint_or_drops_it(world: Path, tmp_path: Path) -> None:
    """Saved at step 4 only: the commands of the steps 5 and 6 are in the journal alone."""
    settings = SETTINGS | {"save_steps": 4, "do_eval": False, "max_steps": 8}
    typed = {2: ["lr 5e-3"], 5: ["lr 2e-3"], 6: ["quit@8", "lr 3e-3@7"]}
    log = tmp_path / "log"
    straight = write_config(world, output_dir=str(tmp_path / "straight"), **settings)
    fork_run(straight, log, hook=typing(typed)).finish(EXIT_DONE)
    expected = checkpoints(tmp_path / "straight")
    assert set(expected) == {4, 8}
    folder = tmp_path / "killed"
    config = write_config(world, output_dir=str(folder), **settings)
    fork_run(config, log, hook=typing(typed, kill_in_step(7))).finish(-signal.SIGKILL)
    assert set(checkpoints(folder)) == {4} and len(journal(folder)) == 4
    dropped = Path(shutil.copytree(folder, tmp_path / "dropped"))
    with (folder / JOURNAL_FILE).open("ab") as file:
        file.write(b'{"step": 6, "comm')  # a kill in the middle of the next line
    fork_run(config, log).finish(EXIT_DONE)
    assert checkpoints(folder) == expected and len(journal(folder)) == 4

    fork_run(write_config(world, output_dir=str(dropped), replay="never", **settings), log).finish(EXIT_DONE)
    assert journal(dropped)[-1] == (4, None, False)
    assert rates(dropped)[7] < rates(tmp_path / "straight")[7] / 2
    assert read_trainer_state(dropped / "checkpoint-8").commands.scheduled == []


def test_a_damaged_journal_is_refused_with_its_lines(world: Path, tmp_path: Path) -> None:
    (tmp_path / JOURNAL_FILE).write_text('{"step": 1}\n')
    config = write_config(world, output_dir=str(tmp_path / "run"), replay=str(tmp_path), **SETTINGS)
    printed = fork_run(config, tmp_path / "log").finish(1)
    assert f"{tmp_path / JOURNAL_FILE}: damaged line 1; restore the file" in printed
    assert not json.loads((tmp_path / "run" / "run_status.json").read_text())["status"] == "running"
