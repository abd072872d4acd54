"""What people who train for weeks count on: steps and epochs agree, parts make the whole, nothing is replaced."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import fork_run, saved_files
from launching import make_world, records, write_config

from songgen.families.tokens.objective import TokenObjective
from songgen.train.checkpoints.state import read_trainer_state

NUM_SONGS = 7
NUM_HELD_OUT = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with dropout, and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), NUM_SONGS, NUM_HELD_OUT, dropout=0.2)


@pytest.fixture
def train(world: Path, tmp_path: Path) -> Callable[..., str]:
    """Run training to its end in processes of its own and return what it printed."""

    def run(output: str, processes: int = 1, **changes: Any) -> str:
        settings: dict[str, Any] = {"do_eval": False, "save_steps": 100} | changes
        config = write_config(world, output_dir=str(tmp_path / output), **settings)
        return fork_run(config, tmp_path / f"{output}.log", processes=processes).finish()

    return run


def steps_of(folder: Path) -> list[int]:
    """Steps of the metrics."""
    return [record["step"] for record in records(folder)]


@pytest.mark.parametrize(
    ("processes", "batch_size", "accumulation", "epochs", "steps"),
    [
        (1, 1, 3, 3.0, 9),
        (1, 2, 3, 3.0, 6),
        (1, 3, 2, 2.5, 5),
        (1, 4, 16, 3.0, 3),
        (1, 1024, 16, 2.0, 2),
        (2, 2, 3, 2.0, 2),
        (2, 3, 1, 2.5, 5),
    ],
)
def test_any_batch_and_accumulation_saves_at_every_step_and_ends_at_its_epoch(
    train: Callable[..., str], tmp_path: Path, processes: int, batch_size: int, accumulation: int, epochs: float,
    steps: int,
) -> None:  # fmt: skip
    """Seven songs, which few of these divide: no step too few or too many, and every song once an epoch."""
    train(
        "run", processes, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs, save_steps=1, save_total_limit=None,
    )  # fmt: skip
    assert steps_of(tmp_path / "run") == list(range(1, steps + 1))
    states = {path.name: read_trainer_state(path) for path in (tmp_path / "run").glob("checkpoint-*")}
    assert set(states) == {f"checkpoint-{step}" for step in range(1, steps + 1)}
    last = states[f"checkpoint-{steps}"]
    assert last.epoch == int(epochs) and (last.batches_in_epoch == 0) == epochs.is_integer()
    assert last.samples_seen >= epochs * NUM_SONGS and (not epochs.is_integer() or last.samples_seen == epochs * 7)
    assert records(tmp_path / "run")[-1]["epoch"] == pytest.approx(epochs, abs=0.26)


def test_two_epochs_and_two_more_are_four(train: Callable[..., str], tmp_path: Path) -> None:
    """Where rate and codebook weights do not depend on the length of the run, as they must not for this."""
    even: dict[str, Any] = {"lr_scheduler_type": "constant", "codebook_weighting": False}
    train("four", num_train_epochs=4, **even)
    train("parts", num_train_epochs=2, **even)
    train("parts", num_train_epochs=4, allow_config_changes=True, **even)
    assert steps_of(tmp_path / "parts") == list(range(1, 17))
    ours, theirs = (tmp_path / name / "checkpoint-16" for name in ("parts", "four"))
    assert saved_files(ours) == saved_files(theirs)


def test_a_run_from_the_checkpoint_of_another_ends_where_that_one_does_and_leaves_it_alone(
    train: Callable[..., str], tmp_path: Path
) -> None:
    """The second half of eight steps, in a folder of its own."""
    train("first", max_steps=8, save_steps=4)
    before = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()}
    train("second", max_steps=8, save_steps=4, resume=str(tmp_path / "first" / "checkpoint-4"))
    assert steps_of(tmp_path / "second") == [5, 6, 7, 8]
    assert saved_files(tmp_path / "second" / "checkpoint-8") == saved_files(tmp_path / "first" / "checkpoint-8")
    assert {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()} == before


def test_the_configuration_in_its_folder_launches_a_run_again(
    train: Callable[..., str], world: Path, tmp_path: Path
) -> None:
    """Everything is filled in: who goes on needs only that file, and what is to change."""
    train("run", num_train_epochs=1, learning_rate=3e-4)
    config = tmp_path / "again.json"
    config.write_text(json.dumps({"base": str(tmp_path / "run" / "training_config.json"), "logging_steps": 2}))
    printed = fork_run(config, tmp_path / "again.log").finish()
    assert f"resumed from {tmp_path / 'run' / 'checkpoint-4'}" in printed and "logging_steps: 1 then, 2 now" in printed


def test_an_evaluation_may_last_longer_than_processes_wait_for_each_other(world: Path, tmp_path: Path) -> None:
    """They meet after every batch, and none of them has more of these than another."""
    patience, pause = 4, 0.8

    def slow(rank: int) -> None:
        measure = TokenObjective.evaluation_sums
        os.fsync = lambda file: None  # a busy disk may take as long as the others wait, and is not what is tested

        def measured(self: TokenObjective, *arguments: Any) -> Any:
            time.sleep(pause)
            return measure(self, *arguments)

        TokenObjective.evaluation_sums = measured  # type: ignore[method-assign]  # in a child process

    settings: dict[str, Any] = {"max_steps": 2, "ddp_timeout": patience, "per_device_eval_batch_size": 1}
    config = write_config(world, output_dir=str(tmp_path / "run"), **settings)
    began = time.monotonic()
    fork_run(config, tmp_path / "log", processes=2, hook=slow).finish()
    assert time.monotonic() - began > NUM_HELD_OUT / 2 * pause > patience
    assert "eval/loss" in records(tmp_path / "run")[-1]
