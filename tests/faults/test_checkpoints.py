"""A checkpoint is complete or not there; what is damaged is never used, and never replaced by a fresh start."""

import itertools
import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_fakes import FORK, assert_is_step, contents, exit_code, files_of, manager, names, saved
from forked import before_each_step, fork_run, saved_files, stop_at
from killing import kill_at_random, summary
from launching import make_world, records, write_config
from limits import SAFETY_SECONDS
from run_forms import FORMS, KEYS, WEIGHTS_FILES, in_both_forms

from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.train.checkpoints.files import (
    FAULT_VARIABLE,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    random_state_file,
    read_manifest,
)
from songgen.train.checkpoints.folders import candidates
from songgen.train.checkpoints.state import TRAINER_STATE_FILE, read_trainer_state
from songgen.train.trainer import Trainer


def save_points(form: str) -> list[str]:
    """Points of a save before the checkpoint is complete."""
    return ["after_folder", *(f"after_file:{name.split('.')[0]}" for name in files_of(form)), "after_manifest"]


SAVE_POINTS = save_points("model")


@pytest.mark.case(1)
@pytest.mark.parametrize(
    ("form", "point"),
    [(form, point) for form in FORMS for point in [*save_points(form), "after_rename", "after_retire"]],
)
def test_killed_while_saving(tmp_path: Path, form: str, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1, 2, form=form)
    monkeypatch.setenv(FAULT_VARIABLE, point)
    assert exit_code(lambda: saved_with_limit(tmp_path, 3, form)) == -signal.SIGKILL
    monkeypatch.delenv(FAULT_VARIABLE)
    committed = point not in save_points(form)
    left = [name for name in names(tmp_path) if ".tmp-" in name]
    assert len(left) == (0 if point == "after_rename" else 1)

    manager(tmp_path, rank=1, world_size=2)
    assert [name for name in names(tmp_path) if ".tmp-" in name] == left, "only the main process cleans up"
    checkpoints = manager(tmp_path, limit=2, form=form)
    assert not any(".tmp-" in name for name in names(tmp_path))
    newest = checkpoints.latest()
    assert newest is not None
    assert_is_step(checkpoints.load(newest), 3 if committed else 2)
    assert checkpoints.save(contents(4)) is not None


def saved_with_limit(folder: Path, step: int, form: str = "model") -> None:
    """Save with a retention limit that removes a checkpoint."""
    manager(folder, limit=2, form=form).save(contents(step))


@pytest.mark.faults
@pytest.mark.case(1)
def test_killed_at_any_file_operation_of_retention(tmp_path: Path) -> None:
    """A save that removes two old checkpoints: whichever of its operations is the last, the newest one is whole."""
    total = 0
    for number in itertools.count():
        folder = tmp_path / str(number)
        folder.mkdir()
        saved(folder, 1, 2)

        def save(folder: Path = folder, number: int = number) -> None:
            kill_before_file_operation(folder, number)
            manager(folder, limit=1).save(contents(3))
            manager(folder, limit=1).save(contents(4))

        code = exit_code(save)
        if code == 0:
            total = number
            break
        assert code == -signal.SIGKILL
        assert not [path for path, problem in candidates(folder) if problem], "an old checkpoint was left in part"
        checkpoints = manager(folder, limit=1)
        newest = checkpoints.latest()
        assert newest is not None and not any(".tmp-" in name for name in names(folder))
        loaded = checkpoints.load(newest)
        assert loaded.state.step >= 2
        assert_is_step(loaded, loaded.state.step)
        assert checkpoints.save(contents(5)) is not None and names(folder) == ["checkpoint-5"]
    assert total > 30, "every file of three removed checkpoints was an operation"


def kill_before_file_operation(folder: Path, number: int) -> None:
    """Kill this process before its file operation of that number below a folder."""
    operations, numbers = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}, itertools.count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        # `rmtree` removes relative to open folders: only names reach the hook then.
        if event in operations and next(numbers) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.case(1)
def test_killed_at_the_first_save_is_a_fresh_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULT_VARIABLE, "after_manifest")
    assert exit_code(lambda: saved_with_limit(tmp_path, 1)) == -signal.SIGKILL
    monkeypatch.delenv(FAULT_VARIABLE)
    assert manager(tmp_path).latest() is None


@pytest.mark.case(1)
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whenever a run dies that only saves, its newest checkpoint is whole and no older than the one before."""

    def run() -> None:
        checkpoints = manager(tmp_path, limit=2)
        newest = checkpoints.latest()
        step = 0 if newest is None else checkpoints.load(newest).state.step
        while True:
            step += 1
            assert checkpoints.save(contents(step)) is not None

    draws, step = random.Random(0), 0
    for _ in range(20):
        process = FORK.Process(target=run)
        process.start()
        process.join(0.05 + 0.1 * draws.random())
        assert process.is_alive()
        process.kill()
        process.join(SAFETY_SECONDS)
        checkpoints = manager(tmp_path)
        newest = checkpoints.latest()
        if newest is None:
            assert step == 0
            continue
        loaded = checkpoints.load(newest)
        assert loaded.state.step >= step
        step = loaded.state.step
        assert_is_step(loaded, step)
    assert step > 0


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 6 // 10)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


# Of a checkpoint of a run that trains the model, and of one that trains an adapter.
EVERY_FILE = pytest.mark.parametrize(
    ("form", "name"),
    [
        (form, name)
        for form in FORMS
        for name in [*files_of(form), MANIFEST_FILE]
        if form == "model" or "adapter" in name
    ],
)


@pytest.mark.case(2)
@pytest.mark.parametrize("damage", [truncate, empty, zero])
@EVERY_FILE
def test_a_file_cut_short_emptied_or_zeroed_falls_back(
    tmp_path: Path, damage: Callable[[Path], None], form: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_falls_back(tmp_path, damage, form, name, caplog)


@pytest.mark.case(3)
@EVERY_FILE
def test_one_flipped_bit_falls_back(tmp_path: Path, form: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert_falls_back(tmp_path, flip_bit, form, name, caplog)


@pytest.mark.case(4)
@EVERY_FILE
def test_a_missing_file_falls_back(tmp_path: Path, form: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert_falls_back(tmp_path, Path.unlink, form, name, caplog)


def assert_falls_back(
    folder: Path, damage: Callable[[Path], None], form: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage a file of the newest of two checkpoints: the one before is used, the log says what is wrong with which."""
    good, bad = saved(folder, 1, 2, form=form)
    damage(bad / name)
    checkpoints = manager(folder, form=form)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest() == good
    assert_is_step(checkpoints.load(good), 1)
    assert str(bad) in caplog.text and name in caplog.text
    assert bad.is_dir(), "nothing is deleted"
    with pytest.raises(ValueError, match=name):
        checkpoints.load(bad)


@pytest.mark.case(3)
@pytest.mark.parametrize("position", range(0, 1500, 61))
def test_every_bit_of_the_manifest_counts(tmp_path: Path, position: int) -> None:
    """Whatever flips in it, the manifest means the same or is refused."""
    good, bad = saved(tmp_path, 1, 2)
    path = bad / MANIFEST_FILE
    data = bytearray(path.read_bytes())
    before = read_manifest(bad)
    data[position % len(data)] ^= 2
    path.write_bytes(data)
    newest = manager(tmp_path).latest()
    assert newest == good or read_manifest(bad) == before


@pytest.mark.case(5)
@in_both_forms
def test_none_valid_is_an_error_that_lists_every_reason(tmp_path: Path, form: str) -> None:
    first, second = saved(tmp_path, 1, 2, form=form)
    flip_bit(first / WEIGHTS_FILES[form])
    (second / random_state_file(0)).unlink()
    (tmp_path / "checkpoint-of-somebody").mkdir()
    before = names(tmp_path)
    with pytest.raises(ValueError, match="none of them is valid") as error:
        manager(tmp_path, form=form).latest()
    for expected in (
        f"checkpoint-1: {WEIGHTS_FILES[form]} is damaged",
        f"checkpoint-2: {random_state_file(0)} is missing",
        "checkpoint-of-somebody",
    ):
        assert expected in str(error.value)
    assert names(tmp_path) == before


@pytest.mark.case(3)
def test_files_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    first, second = saved(tmp_path, 1, 2)
    shutil.copyfile(first / OPTIMIZER_FILE, second / OPTIMIZER_FILE)
    assert manager(tmp_path).latest() == first
    shutil.copyfile(first / MANIFEST_FILE, second / MANIFEST_FILE)
    with pytest.raises(ValueError, match="checkpoint-2 is not valid"):
        manager(tmp_path).load(second)


@pytest.mark.case(3)
@pytest.mark.parametrize("form", FORMS)
def test_weights_of_another_form_are_refused(tmp_path: Path, form: str) -> None:
    (folder,) = saved(tmp_path, 1, form=form)
    (other,) = set(FORMS) - {form}
    with pytest.raises(ValueError, match=rf"it holds {files_of(form)[0]}, this run saves {files_of(other)[0]}"):
        manager(tmp_path, form=other).load(folder)


@pytest.mark.case(7)
@in_both_forms
def test_retention_counts_complete_ones_and_keeps_best_and_resumed(tmp_path: Path, form: str) -> None:
    best, resumed = manager(tmp_path, form=form).save(contents(1), best=True), saved(tmp_path, 2, form=form)[0]
    assert best is not None
    for name in ("checkpoint-70", "checkpoint-80", "checkpoint-90"):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS_FILES[form]).write_bytes(b"half")
    checkpoints = manager(tmp_path, limit=2, form=form)
    checkpoints.protect(resumed)
    for step in (3, 4, 5):
        checkpoints.save(contents(step))
    complete = ["checkpoint-1", "checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert names(tmp_path) == sorted([*complete, "checkpoint-70", "checkpoint-80", "checkpoint-90"])
    checkpoints.save(contents(6), best=True)
    assert "checkpoint-1" not in names(tmp_path), "another one is the best now"
    assert manager(tmp_path, limit=1, form=form).save(contents(7)) is not None
    assert [name for name in names(tmp_path) if name < "checkpoint-70"] == ["checkpoint-6", "checkpoint-7"]


@pytest.mark.case(7)
def test_of_a_checkpoint_on_another_disk_only_the_link_is_removed(tmp_path: Path) -> None:
    run, disk = tmp_path / "run", tmp_path / "disk"
    (first,) = saved(run, 1)
    first.rename(disk)
    first.symlink_to(disk)
    assert manager(run).latest() == first
    checkpoints = manager(run, limit=1)
    for step in (2, 3):
        checkpoints.save(contents(step))
    (run / "checkpoint-1.tmp-left").symlink_to(disk)  # what a kill in between leaves
    manager(run, limit=1).save(contents(4))
    assert names(run) == ["checkpoint-4"] and (disk / MODEL_FILE).is_file()


@pytest.mark.case(7)
def test_a_lower_limit_holds_from_the_start_of_the_next_run(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fork_run(run_config(world, folder, save_total_limit=None, max_steps=6), tmp_path / "log").finish()
    assert len(list(folder.glob("checkpoint-*"))) == 3
    config = run_config(world, folder, max_steps=6, logging_steps=3)
    fork_run(config, tmp_path / "again").finish()
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


@pytest.mark.case(7)
@in_both_forms
def test_a_checkpoint_that_was_found_damaged_takes_no_place_and_is_never_deleted(tmp_path: Path, form: str) -> None:
    """Its files have the right sizes, so that only reading it tells."""
    good, bad = saved(tmp_path, 1, 2, form=form)
    flip_bit(bad / WEIGHTS_FILES[form])
    checkpoints = manager(tmp_path, limit=2, form=form)
    assert checkpoints.latest() == good
    checkpoints.save(contents(3))
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"], "two valid ones and the damaged one"
    for step in (4, 5):
        checkpoints.save(contents(step))
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), dropout=0.2)


@pytest.fixture(scope="module")
def straight(world: Path) -> dict[int, Any]:
    """Every checkpoint of an uninterrupted run, by step."""
    config = run_config(world, world / "straight", save_total_limit=None)
    fork_run(config, world / "log").finish()
    found = (world / "straight").glob("checkpoint-*")
    return {read_trainer_state(path).step: saved_files(path) for path in found}


def run_config(world: Path, folder: Path, **changes: Any) -> Path:
    """A run of 8 steps that saves after every second one, and keeps two."""
    settings: dict[str, Any] = {"max_steps": 8, "save_steps": 2, "save_total_limit": 2, "ema_decay": 0.8}
    return write_config(world, output_dir=str(folder), **settings | {"do_eval": False} | changes)


def valid_step(folder: Path) -> int:
    """Step of the checkpoint from which a run would go on."""
    return next(read_trainer_state(path).step for path, problem in candidates(folder) if not problem)


@pytest.mark.case(1)
@pytest.mark.parametrize("point", [*SAVE_POINTS[::2], SAVE_POINTS[-1], "after_rename", "after_retire"])
def test_a_run_killed_in_a_save_goes_on_as_if_it_had_not_been(
    world: Path, straight: dict[int, Any], tmp_path: Path, point: str
) -> None:
    """The save after the sixth step, when there are two checkpoints already."""

    def arm(trainer: Trainer, batches: Any) -> None:
        if trainer.state.step == 5:
            os.environ[FAULT_VARIABLE] = point

    config = run_config(world, tmp_path / "run")
    fork_run(config, tmp_path / "log", hook=lambda rank: before_each_step(arm)).finish(-signal.SIGKILL)
    step = valid_step(tmp_path / "run")
    assert step == (4 if point in SAVE_POINTS else 6)
    assert [saved_files(path) for path, _ in candidates(tmp_path / "run")][0] == straight[step]
    assert f"resumed from {tmp_path / 'run' / f'checkpoint-{step}'}" in fork_run(config, tmp_path / "again").finish()
    assert saved_files(tmp_path / "run" / "checkpoint-8") == straight[8]
    assert [name for name in names(tmp_path / "run") if name.startswith("checkpoint-")] == expected_names(step)


def expected_names(resumed: int) -> list[str]:
    """Checkpoints at the end: the two newest and the one that was resumed from; nothing temporary."""
    return [f"checkpoint-{step}" for step in sorted({resumed, 6, 8})]


@pytest.mark.faults
@pytest.mark.case(1)
def test_runs_killed_at_random_moments_of_training_and_saving(tmp_path: Path) -> None:
    """A few; `random_kills.py` does the same by the hundred, also with two processes and in preprocessing."""
    kills = kill_at_random(tmp_path / "kills", {"training": 4, "saving": 6}, processes=[1], seed=1)
    result = summary(kills, 0.0)
    assert result["kills"] == 10 and result["problems"] == []
    assert any(kill.reached for kill in kills)


@pytest.mark.case(36)
@in_both_forms
def test_a_run_that_is_steered_by_commands_is_killed_at_random_moments(tmp_path: Path, form: str) -> None:
    """Checkpoints and stops that are asked for at random steps hurt nothing, and every change of course is kept."""
    kills = kill_at_random(tmp_path / "kills", {"commands": 6}, processes=[1], seed=2, changes=KEYS[form])
    assert summary(kills, 0.0)["problems"] == [] and any(kill.reached for kill in kills)


@pytest.fixture
def begun(world: Path, tmp_path: Path) -> Path:
    """A run of 8 steps that stopped after 6: its folder."""
    fork_run(run_config(world, tmp_path / "run"), tmp_path / "log", hook=stop_at(6)).finish()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        pytest.param(truncate, MODEL_FILE, "bytes instead of", marks=pytest.mark.case(2)),
        pytest.param(zero, MODEL_FILE, "is damaged", marks=pytest.mark.case(2)),
        pytest.param(flip_bit, OPTIMIZER_FILE, "is damaged", marks=pytest.mark.case(3)),
        pytest.param(Path.unlink, random_state_file(0), "is missing", marks=pytest.mark.case(4)),
        pytest.param(Path.unlink, TRAINER_STATE_FILE, "is missing", marks=pytest.mark.case(4)),
    ],
)
def test_a_run_falls_back_and_still_ends_the_same(
    world: Path, straight: dict[int, Any], begun: Path, damage: Callable[[Path], None], name: str, message: str
) -> None:
    damage(begun / "checkpoint-6" / name)
    printed = fork_run(run_config(world, begun), begun.parent / "again").finish(EXIT_DONE)
    assert f"checkpoint {begun / 'checkpoint-6'} is not used: {name} " in printed and message in printed
    assert f"resumed from {begun / 'checkpoint-4'}" in printed
    assert saved_files(begun / "checkpoint-8") == straight[8]


@pytest.mark.case(4)
def test_a_checkpoint_without_random_state_is_used_when_asked_for(world: Path, begun: Path) -> None:
    (begun / "checkpoint-6" / random_state_file(0)).unlink()
    config = run_config(world, begun, allow_inexact_resume=True)
    printed = fork_run(config, begun.parent / "again").finish()
    assert f"resumed from {begun / 'checkpoint-6'}" in printed
    assert "holds no random state for this process: dropout samples other numbers" in printed
    assert valid_step(begun) == 8


@pytest.mark.case(4)
@pytest.mark.parametrize("name", [TRAINER_STATE_FILE, MODEL_FILE])
def test_nothing_else_may_be_missing(world: Path, begun: Path, name: str) -> None:
    (begun / "checkpoint-6" / name).unlink()
    config = run_config(world, begun, allow_inexact_resume=True)
    assert f"resumed from {begun / 'checkpoint-4'}" in fork_run(config, begun.parent / "again").finish()


@pytest.mark.case(5)
@in_both_forms
def test_a_run_without_a_valid_checkpoint_ends_with_every_reason(world: Path, tmp_path: Path, form: str) -> None:
    """Before the model is loaded; nothing is deleted and nothing trained."""
    folder, log = tmp_path / "run", tmp_path / "log"
    config = run_config(world, folder, **KEYS[form])
    fork_run(config, log, hook=stop_at(6)).finish()
    flip_bit(folder / "checkpoint-4" / WEIGHTS_FILES[form])
    (folder / "checkpoint-6" / random_state_file(0)).unlink()
    before, lines = checkpoint_contents(folder), records(folder)

    def no_model(rank: int) -> None:
        from songgen.train import build

        build.family_of = lambda *_: pytest.fail("the model was loaded")

    printed = fork_run(config, log, hook=no_model).finish(EXIT_ERROR)
    assert f"- checkpoint-4: {WEIGHTS_FILES[form]} is damaged" in printed
    assert f"- checkpoint-6: {random_state_file(0)} is missing" in printed
    assert "Nothing was deleted" in printed
    assert (checkpoint_contents(folder), records(folder)) == (before, lines)


def checkpoint_contents(folder: Path) -> dict[Path, bytes]:
    """Every file of every checkpoint of a run, whatever state it is in."""
    return {path: path.read_bytes() for path in folder.glob("checkpoint-*/*")}
