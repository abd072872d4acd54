"""Disks that fill up, and output folders that a run may not have."""

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from forked import FORK, Hook, fork_run, stop_at
from launching import make_world, records, write_config
from limits import SAFETY_SECONDS
from run_forms import KEYS, WEIGHTS_FILES, in_both_forms
from small_disk import empty, fill, on_small_disk

from songgen.data.integrity import VERIFIED_FILE
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_NO_CHECKPOINT
from songgen.runtime import folder_lock
from songgen.runtime.status import read_run_status
from songgen.train import launch
from songgen.train.checkpoints import manager as checkpoint
from songgen.train.checkpoints.files import verify
from songgen.train.output_folder import RUN_LOCK_FILE, locked
from songgen.train.trainer import Trainer

FULL = {"before": "the disk is too full", "during": "No space left on device"}
"""When a disk fills up, seen from a save -> what the run says."""
LARGE = {**KEYS, "adapter": {"lora": {"r": 32}}}
"""Runs whose weights do not fit into `small_files`."""
SECONDS = 10.0
"""Until a folder must be refused; two are promised, but the machine may be busy."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


def configure(world: Path, folder: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {"do_eval": False, "max_steps": 8, "save_steps": 1, "save_total_limit": 2}
    return write_config(world, output_dir=str(folder), **settings | changes)


def break_saves(steps: Collection[int], breaking: Callable[[int], AbstractContextManager[None]]) -> Hook:
    """Do something around the saves after some steps."""

    def hook(rank: int) -> None:
        save = Trainer.save

        def broken(self: Trainer) -> None:
            if self.state.step not in steps:
                return save(self)
            with breaking(self.state.step):
                return save(self)

        Trainer.save = broken  # type: ignore[method-assign]  # in a child process

    return hook


def checkpoints(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, every byte checked; nothing else may lie beside them."""
    assert not list(folder.glob("*.tmp*")), "a failed save leaves nothing"
    return sorted(verify(path).step for path in folder.glob("checkpoint-*"))


@contextmanager
def small_files(step: int, largest: int = 30_000) -> Any:
    """Let no file grow beyond some bytes, as a quota would: by default, enough for a log, too little for weights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.case(6)
def test_a_save_that_fails_is_tried_again_at_the_next_step_and_the_run_ends_well(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = configure(world, folder, save_total_limit=None)
    printed = fork_run(config, tmp_path / "log", hook=break_saves({3, 5, 6}, small_files)).finish(EXIT_DONE)
    assert checkpoints(folder) == [1, 2, 4, 7, 8] and len(records(folder)) == 8
    assert "the checkpoint of step 3 could not be saved" in printed and "Failure 2 in a row" in printed
    assert "Failure 3" not in printed


@pytest.mark.case(6)
def test_a_full_disk_delays_metrics_and_loses_log_lines_but_does_not_stop_the_run(world: Path, tmp_path: Path) -> None:
    def full_for_two_steps(rank: int) -> None:
        step = Trainer.step

        def without_room(self: Trainer, batches: Any) -> Any:
            limits = (1 if self.state.step in (3, 4) else resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            return step(self, batches)

        Trainer.step = without_room  # type: ignore[method-assign]  # in a child process

    fork_run(configure(world, tmp_path / "run"), tmp_path / "log", hook=full_for_two_steps).finish(EXIT_DONE)
    assert checkpoints(tmp_path / "run") == [7, 8]
    assert [record["step"] for record in records(tmp_path / "run")] == list(range(1, 9))


@pytest.mark.case(6)
@in_both_forms
def test_the_third_failed_save_in_a_row_ends_the_run_which_goes_on_later(
    world: Path, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "run"
    config = configure(world, folder, **KEYS[form])
    hook = break_saves(range(4, 100), small_files)
    printed = fork_run(config, tmp_path / "log", hook=hook).finish(EXIT_NO_CHECKPOINT)
    assert "Failure 3 in a row" in printed
    assert checkpoints(folder) == [2, 3]
    assert [record["step"] for record in records(folder)] == [1, 2, 3, 4, 5, 6]
    fork_run(config, tmp_path / "log").finish(EXIT_DONE)
    assert checkpoints(folder)[-1] == 8 and [record["step"] for record in records(folder)] == list(range(1, 9))


@pytest.mark.case(6)
def test_a_stop_that_one_process_cannot_save_ends_all_of_them_with_the_code_of_failed_saves(
    world: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    config = configure(world, folder, save_steps=2)

    def hook(rank: int) -> None:
        stop_at(3)(rank)
        if rank == 1:
            break_saves({3}, lambda step: small_files(step, largest=1))(rank)

    printed = fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_NO_CHECKPOINT)
    assert "asked to stop, but the checkpoint of step 3 could not be written, the latest one is of step 2" in printed
    status = read_run_status(folder)
    assert status is not None and (status.status, status.exit_code) == ("failed", EXIT_NO_CHECKPOINT)
    assert checkpoints(folder) == [2]
    fork_run(config, tmp_path / "log", processes=2).finish(EXIT_DONE)
    assert checkpoints(folder)[-1] == 8


@pytest.mark.case(6)
@pytest.mark.parametrize("when", FULL)
@in_both_forms
def test_a_disk_that_fills_up_costs_one_checkpoint_and_nothing_else(
    world: Path, tmp_path: Path, when: str, form: str
) -> None:
    disk = tmp_path / "disk"

    @contextmanager
    def full_disk(step: int) -> Any:
        point = checkpoint.fault_point

        def fill_within_the_save(name: str) -> None:
            if name == "after_folder":
                fill(disk, leaving=8192)

        if when == "before":
            fill(disk, leaving=8 * 1024**2)
        else:
            checkpoint.fault_point = fill_within_the_save
        try:
            yield
            assert checkpoints(disk / "run") == [step - 2, step - 1]
        finally:
            checkpoint.fault_point = point
            empty(disk)

    def check() -> None:
        config = configure(world, disk / "run", **KEYS[form])
        printed = fork_run(config, tmp_path / "log", hook=break_saves({4}, full_disk)).finish(EXIT_DONE)
        assert checkpoints(disk / "run") == [7, 8] and len(records(disk / "run")) == 8
        assert FULL[when] in printed
        free, needed = map(int, re.findall(r"(\d+) bytes are free in .* a checkpoint needs (\d+)", printed)[0])
        assert free < needed < 32 * 1024**2

    on_small_disk(disk, 64, check)


@pytest.mark.case(6)
@in_both_forms
def test_a_final_model_that_finds_no_room_leaves_the_earlier_one_and_is_written_by_the_next_start(
    world: Path, tmp_path: Path, form: str
) -> None:
    folder, weights = tmp_path / "run", tmp_path / "run" / WEIGHTS_FILES[form]
    fork_run(configure(world, folder, max_steps=2, **LARGE[form]), tmp_path / "log").finish(EXIT_DONE)
    before = weights.read_bytes()

    def hook(rank: int) -> None:
        finish = Trainer.finish

        def without_room(self: Trainer) -> None:
            with small_files(self.state.step):
                finish(self)

        Trainer.finish = without_room  # type: ignore[method-assign]  # in a child process

    longer = configure(world, folder, max_steps=4, allow_config_changes=True, **LARGE[form])
    printed = fork_run(longer, tmp_path / "log", hook=hook).finish(EXIT_NO_CHECKPOINT)
    assert "the latest checkpoint holds its weights. Free disk space and start the run again" in printed
    assert weights.read_bytes() == before and checkpoints(folder)[-1] == 4
    fork_run(longer, tmp_path / "log").finish(EXIT_DONE)
    assert weights.read_bytes() != before


def refused(config: Path, log: Path, processes: int = 1) -> str:
    """Start a run that must be refused before it looks at its model or data; returns what it says."""

    def hook(rank: int) -> None:
        def build(*arguments: Any) -> None:
            raise AssertionError("the folder is checked before anything is built")

        launch.build_trainer = build

    began = time.monotonic()
    printed = fork_run(config, log, processes=processes, hook=hook).finish(EXIT_ERROR)
    assert time.monotonic() - began < SECONDS and "Traceback" not in printed
    return printed


@pytest.mark.case(33)
def test_a_folder_that_cannot_be_written_is_refused_at_once(world: Path, tmp_path: Path) -> None:
    """Not even the administrator can write to this one."""
    config = configure(world, tmp_path / "run")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"output_dir": "/proc/run"}))
    assert "/proc/run cannot be written to" in refused(config, tmp_path / "log")


@pytest.mark.case(33)
def test_a_folder_with_another_run_or_other_files_is_refused_at_once(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fork_run(configure(world, folder, max_steps=1), tmp_path / "log").finish(EXIT_DONE)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert "holds a run already" in refused(configure(world, folder, resume="never"), tmp_path / "never.log")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    assert "no training run wrote (thesis.txt)" in refused(configure(world, tmp_path / "notes"), tmp_path / "notes.log")


@pytest.mark.case(33)
@in_both_forms
def test_a_trained_model_is_not_replaced_because_its_checkpoints_are_gone(
    world: Path, tmp_path: Path, form: str
) -> None:
    folder, file = tmp_path / "run", WEIGHTS_FILES[form]
    fork_run(configure(world, folder, max_steps=1, **KEYS[form]), tmp_path / "log").finish(EXIT_DONE)
    model = (folder / file).read_bytes()
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    config = configure(world, folder, **KEYS[form])
    assert "holds a trained model, but no checkpoint" in refused(config, tmp_path / "log")
    assert (folder / file).read_bytes() == model
    changes: dict[str, Any] = {"overwrite_output_dir": True, "max_steps": 2, **KEYS[form]}
    fork_run(configure(world, folder, **changes), tmp_path / "log").finish(EXIT_DONE)
    assert (tmp_path / "run.backup-1" / file).read_bytes() == model


@pytest.mark.case(33)
@pytest.mark.parametrize("missing", ["save_to_disk", "model_name_or_path"])
def test_what_a_refused_start_leaves_is_not_worth_a_backup(world: Path, tmp_path: Path, missing: str) -> None:
    """Without a model, the data set was compared with its hashes before."""
    folder = tmp_path / "run"
    config = configure(world, folder, **{"overwrite_output_dir": True, missing: str(tmp_path / "absent")})
    for _ in range(2):
        fork_run(config, tmp_path / "log").finish(EXIT_ERROR)
    assert (folder / "run_status.json").is_file()
    assert (folder / VERIFIED_FILE).is_file() == (missing == "model_name_or_path")
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


@pytest.mark.case(33)
def test_two_runs_at_once_are_refused_and_a_killed_one_is_no_obstacle(world: Path, tmp_path: Path) -> None:
    folder, go = tmp_path / "run", tmp_path / "go"
    config = configure(world, folder)

    def wait_at_step_two(rank: int) -> None:
        step = Trainer.step

        def waiting(self: Trainer, batches: Any) -> Any:
            while self.state.step == 2 and not go.exists():
                time.sleep(0.02)
            return step(self, batches)

        Trainer.step = waiting  # type: ignore[method-assign]  # in a child process

    first = fork_run(config, tmp_path / "log", hook=wait_at_step_two)
    (process,) = first.children
    wait_for(lambda: (folder / "metrics.jsonl").exists() and len(records(folder)) == 2)
    holder = json.loads((folder / RUN_LOCK_FILE).read_text())
    assert (holder["pid"], holder["host"]) == (process.pid, socket.gethostname())
    expected = f"in use by process {process.pid} on {socket.gethostname()}"
    for processes in (1, 2):
        assert expected in refused(config, tmp_path / f"second{processes}.log", processes)
    assert json.loads((folder / RUN_LOCK_FILE).read_text()) == holder and len(records(folder)) == 2
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(SAFETY_SECONDS)
    assert (folder / RUN_LOCK_FILE).exists()
    fork_run(config, tmp_path / "third.log").finish(EXIT_DONE)
    assert not (folder / RUN_LOCK_FILE).exists() and [record["step"] for record in records(folder)] == list(range(1, 9))


@pytest.mark.case(33)
@pytest.mark.parametrize(
    "content",
    [
        {"pid": 1, "host": "the-pod-before"},
        {"pid": 1, "host": socket.gethostname()},
        {"pid": os.getpid(), "host": socket.gethostname()},
        None,
    ],
)
def test_a_lock_that_was_left_behind_does_not_bind(
    tmp_path: Path, content: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system knows who holds a lock, whoever has the dead process's number or the machine's name now."""
    monkeypatch.setattr(folder_lock, "has_local_locks", lambda folder: True)
    (tmp_path / RUN_LOCK_FILE).write_text("" if content is None else json.dumps(content))
    with locked(tmp_path):
        assert json.loads((tmp_path / RUN_LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / RUN_LOCK_FILE).exists()


@pytest.mark.case(33)
@pytest.mark.parametrize("is_alive", [False, True])
def test_a_container_that_is_killed_comes_back_under_another_name(
    tmp_path: Path, is_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "has_local_locks", lambda folder: True)

    def hold() -> None:
        socket.gethostname = lambda: "pod-1"
        with locked(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(1000)

    child = FORK.Process(target=hold)
    child.start()
    wait_for((tmp_path / "held").exists)
    if is_alive:
        with pytest.raises(ValueError, match=f"in use by process {child.pid} on pod-1"), locked(tmp_path):
            pass
    child.kill()
    child.join(SAFETY_SECONDS)
    assert (tmp_path / RUN_LOCK_FILE).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / RUN_LOCK_FILE).read_text())["host"] == socket.gethostname()


@pytest.mark.case(33)
@pytest.mark.parametrize(
    ("touched_ago", "is_touched", "is_free"), [(1000, False, True), (0, True, False), (0, False, True)]
)
def test_where_locks_may_not_reach_other_machines_a_holder_shows_that_it_is_alive(
    tmp_path: Path, touched_ago: float, is_touched: bool, is_free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network disk. A pod that was killed a moment ago is waited for, and not refused."""
    monkeypatch.setattr(folder_lock, "has_local_locks", lambda folder: False)
    monkeypatch.setattr(folder_lock, "FRESH_SECONDS", 1.5)
    monkeypatch.setattr(folder_lock, "_LOOK_SECONDS", 0.2)
    path = tmp_path / RUN_LOCK_FILE
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "touched_every": 10}))
    os.utime(path, (time.time() - touched_ago,) * 2)
    sleep = time.sleep
    if is_touched:
        monkeypatch.setattr(folder_lock.time, "sleep", lambda seconds: (sleep(seconds), os.utime(path)))
    if is_free:
        with locked(tmp_path):
            return
    with pytest.raises(ValueError, match="in use by process 1 on elsewhere.*remove"), locked(tmp_path):
        pass
    assert path.exists()


@pytest.mark.case(33)
def test_a_holder_touches_its_lock_and_one_of_an_earlier_version_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / RUN_LOCK_FILE
    monkeypatch.setattr(folder_lock, "TOUCH_SECONDS", 0.05)
    with locked(tmp_path):
        first = path.stat().st_mtime_ns
        wait_for(lambda: path.stat().st_mtime_ns > first)
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    os.utime(path, (0, 0))
    monkeypatch.setattr(folder_lock, "has_local_locks", lambda folder: False)
    with pytest.raises(ValueError, match="in use by process 1 on elsewhere"), locked(tmp_path):
        pass


@pytest.mark.case(33)
def test_of_many_runs_that_start_together_one_gets_the_folder(tmp_path: Path) -> None:
    """They start over the lock of a dead run, again and again; never do two of them hold it."""
    (tmp_path / RUN_LOCK_FILE).write_text(json.dumps({"pid": 1, "host": socket.gethostname()}))
    held = tmp_path / "held"

    def compete() -> None:
        for _ in range(200):
            try:
                with locked(tmp_path):
                    held.mkdir()  # fails if another one holds the folder too
                    held.rmdir()
            except ValueError:
                continue

    children = [FORK.Process(target=compete) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(SAFETY_SECONDS)
    assert [child.exitcode for child in children] == [0] * len(children)


@pytest.mark.case(33)
def test_a_lock_file_that_is_removed_while_it_is_opened_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder removes it at its end; who opened it before that would hold a file that nobody else can see."""
    lock = fcntl.lockf
    removals = iter([True])

    def lock_after_the_end_of_another(descriptor: int, operation: int) -> None:
        if next(removals, False):
            (tmp_path / RUN_LOCK_FILE).unlink()
        lock(descriptor, operation)

    def try_too() -> None:
        with locked(tmp_path):
            pass

    monkeypatch.setattr(fcntl, "lockf", lock_after_the_end_of_another)
    with locked(tmp_path):
        other = FORK.Process(target=try_too)
        other.start()
        other.join(SAFETY_SECONDS)
        assert other.exitcode == 1, "a second process holds the folder"


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + SAFETY_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
