"""Processes that die or hang: the run ends soon, says which one and where, and its checkpoints are whole."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_training import FAULT_FILE, FAULT_VARIABLE, install
from forked import fork_run
from launching import ROOT, make_world, start, write_config
from limits import SAFETY_SECONDS
from run_forms import KEYS, in_both_forms
from torch.utils.data import get_worker_info

from songgen.data.samples import TrainingSamples
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_LOST_PROCESS
from songgen.runtime.status import read_run_status
from songgen.train import build, launch
from songgen.train.checkpoints.files import verify

SCRIPT = ROOT / "tests" / "support" / "faulty_training.py"
STEP, RANK = 2, 1
PATIENCE_SECONDS = 5
"""`ddp_timeout` and `dataloader_timeout` of these runs."""
LEAVE_SECONDS = 20
"""Within which everything must be over when patience ends: two to four seconds by themselves, and time for a machine
that has other work."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


def faulty_config(world: Path, folder: Path, **changes: Any) -> Path:
    """A run that saves every step."""
    patience = {"ddp_timeout": PATIENCE_SECONDS, "dataloader_timeout": PATIENCE_SECONDS}
    return write_config(world, output_dir=str(folder), save_steps=1, max_steps=6, do_eval=False, **patience, **changes)


def assert_left_whole(folder: Path, code: int) -> None:
    """The newest checkpoint is that of the step before the fault, and the run does not pass for a finished one."""
    steps = [verify(path).step for path in folder.glob("checkpoint-*") if ".tmp-" not in path.name]
    assert max(steps) == STEP
    status = read_run_status(folder)
    assert status is not None and (status.status, status.exit_code) == ("failed", code)


def seconds_since_the_fault(folder: Path) -> float:
    return time.time() - float((folder / FAULT_FILE).read_text())


@pytest.mark.case(12)
@pytest.mark.parametrize(
    ("kind", "verdict", "form"),
    [
        pytest.param("kill", "died", "model", marks=pytest.mark.faults),
        pytest.param("sleep", "does not answer", "model", marks=pytest.mark.faults),
        pytest.param("kill", "died", "adapter", marks=pytest.mark.faults),
    ],
)
def test_a_launched_job_ends_soon_when_a_process_dies_or_hangs(
    world: Path, tmp_path: Path, kind: str, verdict: str, form: str
) -> None:
    folder = tmp_path / "run"
    environment = {FAULT_VARIABLE: f"{kind} {RANK} {STEP}", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    run = start(str(SCRIPT), 2, faulty_config(world, folder, **KEYS[form]), **environment)
    output, errors = run.communicate(timeout=SAFETY_SECONDS)
    assert seconds_since_the_fault(folder) < PATIENCE_SECONDS + LEAVE_SECONDS
    assert run.returncode != 0
    sentence = rf"process 1 \(pid \d+ on .+\) {verdict}; its last heartbeat: after step 2, waiting for data"
    assert re.search(sentence, errors), output + errors
    assert "process 0 of 2 failed after step 2" in errors
    assert_left_whole(folder, EXIT_LOST_PROCESS)


@pytest.mark.case(12)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("raise", "RuntimeError: something unforeseen"), ("exit", "it left by sys.exit(0) before the run was done")],
)
def test_a_process_that_raises_or_exits_takes_the_others_with_it(
    world: Path, tmp_path: Path, kind: str, reason: str
) -> None:
    folder = tmp_path / "run"

    def hook(rank: int) -> None:
        install(kind, RANK, STEP)

    run = fork_run(faulty_config(world, folder), tmp_path / "log", processes=2, hook=hook)
    for child in run.children:
        child.join(SAFETY_SECONDS)
    assert seconds_since_the_fault(folder) < PATIENCE_SECONDS + LEAVE_SECONDS
    printed = run.log.read_text()
    assert [child.exitcode for child in run.children] == [EXIT_LOST_PROCESS, EXIT_ERROR], printed
    assert f"process 1 of 2 failed after step 2: {reason}" in printed
    assert re.search(r"process 1 \(pid \d+ on .+\) failed after step 2: " + re.escape(reason), printed), printed
    assert_left_whole(folder, EXIT_ERROR)


@pytest.mark.case(12)
@in_both_forms
def test_a_failed_run_goes_on_and_says_that_it_is_finished(world: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "run"
    config = faulty_config(world, folder, **KEYS[form])
    failed = fork_run(config, tmp_path / "log", hook=lambda rank: install("raise", 0, STEP))
    failed.finish(EXIT_ERROR)
    assert (folder / "heartbeat-0.json").is_file()
    fork_run(config, tmp_path / "log").finish(EXIT_DONE)
    status = read_run_status(folder)
    assert status is not None and (status.status, status.step, status.total_steps) == ("finished", 6, 6)
    assert not list(folder.glob("heartbeat-*"))


def fail_to_build(message: str) -> None:
    """Let this process find something wrong with its files before training (in a child process)."""

    def build(*arguments: Any) -> None:
        raise ValueError(message)

    launch.build_trainer = build  # type: ignore[assignment]  # in a child process


@pytest.mark.case(12)
def test_a_process_that_is_refused_alone_says_why(world: Path, tmp_path: Path) -> None:
    """As when a file is missing on one machine: the main process is waiting for it and has nothing to say."""
    config = faulty_config(world, tmp_path / "run")

    def hook(rank: int) -> None:
        if rank == RANK:
            fail_to_build("the model is not on this machine")

    run = fork_run(config, tmp_path / "log", processes=2, hook=hook)
    for child in run.children:
        child.join(SAFETY_SECONDS)
    printed = run.log.read_text()
    assert [child.exitcode for child in run.children] == [EXIT_LOST_PROCESS, EXIT_ERROR], printed
    reason = "ValueError: the model is not on this machine"
    assert f"process 1 of 2 failed before its first step: {reason}" in printed and "Traceback" not in printed
    status = read_run_status(tmp_path / "run")
    assert status is not None and (status.status, status.rank, status.reason) == ("failed", 1, f"process 1: {reason}")


@pytest.mark.case(12)
@pytest.mark.parametrize("finished", [False, True])
def test_what_refuses_every_process_is_said_once(world: Path, tmp_path: Path, finished: bool) -> None:
    folder = tmp_path / "run"
    config = faulty_config(world, folder)
    if finished:
        fork_run(config, tmp_path / "first.log", processes=2).finish(EXIT_DONE)
    hook = lambda rank: fail_to_build("all of it is wrong")  # noqa: E731
    printed = fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_ERROR)
    assert printed.count("all of it is wrong") == 1
    status = read_run_status(folder)
    assert status is not None and status.status == ("finished" if finished else "failed")


@pytest.mark.case(12)
@pytest.mark.parametrize("finished", [False, True])
def test_what_refuses_the_main_process_while_others_wait_for_it_is_said_once(
    world: Path, tmp_path: Path, finished: bool
) -> None:
    """As when there is no model: the main process opens it first."""
    folder = tmp_path / "run"
    config = faulty_config(world, folder)
    if finished:
        fork_run(config, tmp_path / "first.log", processes=2).finish(EXIT_DONE)

    def hook(rank: int) -> None:
        def load(*arguments: Any) -> None:
            raise ValueError("the model is not there")

        build.family_of = load  # type: ignore[assignment]  # in a child process

    run = fork_run(config, tmp_path / "log", processes=2, hook=hook)
    for child in run.children:
        child.join(SAFETY_SECONDS)
    printed = run.log.read_text()
    assert [child.exitcode for child in run.children] == [EXIT_ERROR, EXIT_LOST_PROCESS], printed
    assert "error: the model is not there" in printed and "heartbeat" not in printed
    assert "process 1 of 2 exits before its first step" in printed
    status = read_run_status(folder)
    assert status is not None and (status.status, status.rank) == ("finished" if finished else "failed", 0)
    assert not list(folder.glob("heartbeat-*"))


@pytest.mark.case(12)
def test_a_start_that_is_refused_for_another_reason_than_the_last_one_says_so(world: Path, tmp_path: Path) -> None:
    config = faulty_config(world, tmp_path / "run")
    for message in ("the first thing is wrong", "the second thing is wrong"):
        fork_run(config, tmp_path / "log", hook=lambda rank, text=message: fail_to_build(text)).finish(EXIT_ERROR)
        status = read_run_status(tmp_path / "run")
        assert status is not None and (status.status, status.reason) == ("failed", f"process 0: ValueError: {message}")


@pytest.mark.case(12)
@pytest.mark.parametrize(("machines", "said"), [(1, False), (2, True)])
def test_what_is_wrong_on_another_machine_is_said_before_the_processes_join(
    world: Path, tmp_path: Path, machines: int, said: bool
) -> None:
    config = faulty_config(world, tmp_path / "run")

    def hook(rank: int) -> None:
        os.environ["LOCAL_RANK"] = "0" if machines == 2 else str(rank)

        def refuse(*arguments: Any, **keywords: Any) -> None:
            raise ValueError("no room here")

        launch.require_usable = refuse

    printed = fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_ERROR)
    assert "error: no room here" in printed
    assert ("error: process 1: no room here" in printed) == said


@pytest.mark.case(14)
def test_processes_that_would_train_alone_are_refused(world: Path, tmp_path: Path) -> None:
    path = write_config(world, output_dir=str(tmp_path / "out"))
    script = str(ROOT / "training" / "run_training_mixed.py")
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    result = subprocess.run(
        [sys.executable, script, str(path)],
        env=environment | {"WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SAFETY_SECONDS,
    )
    assert result.returncode == 1 and "accelerate launch" in result.stderr
    assert not (tmp_path / "out").exists()


def harm_worker(number: int, folder: Path, harm: Callable[[], None]) -> None:
    """Let a loader worker come to harm in the second epoch (in a child process: nobody else sees it)."""
    original = TrainingSamples.__getitem__

    def read(self: TrainingSamples, key: tuple[int, int]) -> Any:
        information = get_worker_info()
        if key[0] == 1 and information is not None and information.id == number:
            (folder / FAULT_FILE).write_text(str(time.time()))
            harm()
        return original(self, key)

    TrainingSamples.__getitem__ = read  # type: ignore[method-assign]


@pytest.mark.case(34)
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"loader worker 1 \(pid (\d+)\) died: (?:.*Killed|exited unexpectedly)"),
        (signal.SIGSTOP, r"loader worker 1 \(pid (\d+)\) gave no batch within 5 seconds \(dataloader_timeout\)"),
    ],
)
def test_a_loader_worker_that_dies_or_hangs_ends_the_run_and_is_named(
    world: Path, tmp_path: Path, number: signal.Signals, message: str
) -> None:
    folder = tmp_path / "run"
    config = faulty_config(world, folder, dataloader_num_workers=2, max_train_samples=4)

    def hook(rank: int) -> None:
        harm_worker(1, folder, lambda: os.kill(os.getpid(), number))

    run = fork_run(config, tmp_path / "log", hook=hook)
    printed = run.finish(EXIT_LOST_PROCESS)
    assert seconds_since_the_fault(folder) < PATIENCE_SECONDS + LEAVE_SECONDS
    assert "process 0 of 1 failed after step 2: LoaderError" in printed
    found = re.search(message, printed)
    assert found is not None, printed
    assert not psutil.pid_exists(int(found[1]))
    assert_left_whole(folder, EXIT_LOST_PROCESS)


@pytest.mark.case(12)
def test_a_main_process_that_is_killed_before_the_supervision_begins_is_explained(world: Path, tmp_path: Path) -> None:
    def hook(rank: int) -> None:
        if rank == 0:
            launch.Run._take_folder = lambda run: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]

    run = fork_run(faulty_config(world, tmp_path / "run"), tmp_path / "log", processes=2, hook=hook)
    for child in run.children:
        child.join(SAFETY_SECONDS)
    printed = run.log.read_text()
    assert [child.exitcode for child in run.children] == [-signal.SIGKILL, EXIT_LOST_PROCESS], printed
    assert "process 1 of 2 exits: it could not join the others" in printed and "Traceback" not in printed
