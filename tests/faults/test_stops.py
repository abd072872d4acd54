"""Signals that ask a run to stop: obeyed at a step boundary and inside of evaluations, and nothing is lost by them."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked import Hook, before_each_step, fork_run, saved_files
from launching import make_world, start, wait_for_steps, wait_until, write_config
from limits import SAFETY_SECONDS
from run_forms import KEYS, WEIGHTS_FILES, in_both_forms

from songgen.exit_codes import EXIT_DONE, EXIT_SIGNAL_BASE
from songgen.families.tokens import song_samples
from songgen.families.tokens.objective import TokenObjective
from songgen.families.tokens.song_samples import SongSamples
from songgen.runtime.processes import commands
from songgen.runtime.status import EVALUATION_STATUS_FILE, read_run_status
from songgen.train.checkpoints import manager as checkpoint
from songgen.train.checkpoints.files import verify
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.optimization.engine import AcceleratedEngine
from songgen.train.trainer import Trainer

STOP_SECONDS = 10
"""Within which a run has stopped."""
VOLATILE = {"time", "train/tokens_per_second", "train/samples_per_second"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with dropout, and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), num_train=16, dropout=0.2)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, every byte of which is checked."""
    return sorted(verify(path).step for path in folder.glob("checkpoint-*") if ".tmp-" not in path.name)


def status_of(folder: Path) -> tuple[str, int | None, int | None]:
    status = read_run_status(folder)
    assert status is not None
    return status.status, status.step, status.exit_code


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without what measures time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in VOLATILE} for line in lines]


def signal_at_call(owner: type, name: str, number: int, folder: Path) -> None:
    """Send this process SIGTERM at the `number`-th call of a method, and note when (in a child process)."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, 10**6))

    def counted(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == number:
            (folder / "signal.txt").write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **keywords)

    setattr(owner, name, counted)


def seconds_since_the_signal(folder: Path) -> float:
    return time.time() - float((folder / "signal.txt").read_text())


def assert_resumes_exactly(world: Path, folder: Path, config: Path, log: Path, **settings: Any) -> None:
    """The same command again ends where a run that nobody stopped ends: weights, optimizer, random state, metrics."""
    fork_run(config, log, processes=2).finish(EXIT_DONE)
    assert status_of(folder)[0] == "finished"
    straight = folder.with_name("straight")
    fork_run(write_config(world, output_dir=str(straight), **settings), log, processes=2).finish(EXIT_DONE)
    last = max(checkpoint_steps(straight))
    assert saved_files(folder / f"checkpoint-{last}") == saved_files(straight / f"checkpoint-{last}")
    assert metrics(folder) == metrics(straight)


@pytest.mark.case(9)
@in_both_forms
def test_a_signal_to_one_process_inside_of_a_step_stops_both_after_it(world: Path, tmp_path: Path, form: str) -> None:
    """16 songs, 2 processes, 4 micro-batches: 2 steps an epoch. The signal comes in micro-batch 2 of step 2."""
    settings: dict[str, Any] = {
        "gradient_accumulation_steps": 4, "num_train_epochs": 2, "do_eval": False, "save_steps": 100, **KEYS[form],
    }  # fmt: skip
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), **settings)

    def hook(rank: int) -> None:
        if rank == 1:
            signal_at_call(AcceleratedEngine, "micro_batch", 4 + 2, folder)

    run = fork_run(config, tmp_path / "log", processes=2, hook=hook)
    run.finish(EXIT_DONE)
    assert seconds_since_the_signal(folder) < STOP_SECONDS
    assert checkpoint_steps(folder) == [2]
    assert status_of(folder) == ("stopped", 2, EXIT_DONE)
    assert (folder / WEIGHTS_FILES[form]).is_file() and not list(folder.glob("heartbeat-*"))
    assert_resumes_exactly(world, folder, config, tmp_path / "log", **settings)


@pytest.mark.case(9)
def test_a_file_in_the_folder_stops_a_run_as_a_signal_does_and_the_next_start_removes_it(
    world: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"num_train_epochs": 1, "do_eval": False, "save_steps": 100}
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), **settings)

    def hook(rank: int) -> None:
        commands.LOOK_SECONDS = 0.0
        if rank == 0:
            before_each_step(
                lambda trainer, _: (folder / commands.STOP_FILE).touch() if trainer.state.step == 1 else None
            )

    fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_DONE)
    assert status_of(folder) == ("stopped", 2, EXIT_DONE)
    assert (folder / commands.STOP_FILE).is_file()
    assert_resumes_exactly(world, folder, config, tmp_path / "log", **settings)


@pytest.mark.case(9)
def test_an_evaluation_alone_that_a_file_stops_does_not_count_as_finished(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), do_train=False, do_eval=True)

    def hook(rank: int) -> None:
        commands.LOOK_SECONDS = 0.0
        evaluate = Trainer.evaluate

        def stopped(self: Trainer) -> None:
            (folder / commands.STOP_FILE).touch()
            evaluate(self)

        Trainer.evaluate = stopped  # type: ignore[method-assign]

    fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_DONE)
    status = read_run_status(folder, EVALUATION_STATUS_FILE)
    assert status is not None and status.status == "stopped" and not (folder / "metrics.jsonl").exists()


@pytest.mark.case(9)
def test_a_file_asks_two_processes_for_a_checkpoint_and_the_run_continues_as_without(
    world: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"num_train_epochs": 1, "do_eval": False, "save_steps": 100}
    folder, straight = tmp_path / "run", tmp_path / "straight"
    config = write_config(world, output_dir=str(folder), **settings)

    def hook(rank: int) -> None:
        commands.LOOK_SECONDS = 0.0
        if rank == 1:
            before_each_step(
                lambda trainer, _: (folder / commands.SAVE_FILE).touch() if trainer.state.step == 1 else None
            )

    fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_DONE)
    fork_run(write_config(world, output_dir=str(straight), **settings), tmp_path / "log", processes=2).finish(EXIT_DONE)
    (last,) = checkpoint_steps(straight)
    assert checkpoint_steps(folder) == [2, last] and status_of(folder) == ("finished", last, EXIT_DONE)
    assert not (folder / commands.SAVE_FILE).exists()
    assert saved_files(folder / f"checkpoint-{last}") == saved_files(straight / f"checkpoint-{last}")
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


@pytest.mark.case(9)
def test_a_signal_inside_of_an_evaluation_breaks_it_off_on_both_and_it_is_made_up_for(
    world: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "num_train_epochs": 1, "eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 1,
        "save_steps": 100,
    }  # fmt: skip
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), **settings)

    def hook(rank: int) -> None:
        if rank == 1:
            signal_at_call(TokenObjective, "evaluation_sums", 1, folder)

    fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_DONE)
    assert status_of(folder) == ("stopped", 2, EXIT_DONE)
    assert checkpoint_steps(folder) == [2]
    assert not any("eval/loss" in line for line in metrics(folder))
    assert_resumes_exactly(world, folder, config, tmp_path / "log", **settings)


@pytest.mark.case(9)
@in_both_forms
def test_a_signal_while_songs_are_drawn_is_heard_by_a_process_that_draws_another_one(
    world: Path, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "run"
    config = write_config(
        world, output_dir=str(folder), num_train_epochs=1, eval_strategy="steps", eval_steps=1,
        predict_with_generate=True, num_generated_samples=2, max_length=200, **KEYS[form],
    )  # fmt: skip

    def hook(rank: int) -> None:
        heard, draw = commands.Inbox.stop_heard, SongSamples._sample

        def in_turn(self: commands.Inbox) -> bool:
            while rank == 0 and not (folder / "interrupted-1").exists():
                time.sleep(0.01)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return heard(self)

        def noted(self: SongSamples, *arguments: Any) -> Any:
            try:
                return draw(self, *arguments)
            except commands.Interrupted:
                (folder / f"interrupted-{rank}").touch()
                raise

        song_samples.CHECK_EVERY_STEPS = 1  # a song may be over after one step
        commands.Inbox.stop_heard = in_turn  # type: ignore[method-assign]
        SongSamples._sample = noted  # type: ignore[method-assign]

    fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_DONE)
    assert status_of(folder) == ("stopped", 1, EXIT_DONE)
    assert checkpoint_steps(folder) == [1]
    assert {path.name for path in folder.glob("interrupted-*")} == {"interrupted-0", "interrupted-1"}
    assert not list(folder.rglob("*.wav"))


@pytest.mark.case(10)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_of_a_job_is_one_request_and_leaves_no_orphan(
    world: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As batch systems send it. The launcher passes its own on to the group of each process: all get it twice."""
    folder = tmp_path / "run"
    config = write_config(
        world, output_dir=str(folder), num_train_epochs=500, dataloader_num_workers=2, do_eval=False, save_steps=None
    )
    run = start("run_training_mixed.py", 2, config, new_session=True)
    wait_for_steps(run, folder, steps=3)
    family: list[psutil.Process] = []

    def is_whole() -> bool:
        """Two processes with two workers each, which are not there between two epochs."""
        family[:] = psutil.Process(run.pid).children(recursive=True)
        return len(family) >= 2 + 2 * 2

    wait_until(is_whole, run)
    for process in [*family, psutil.Process(run.pid)]:
        with suppress(psutil.NoSuchProcess):  # a loader worker at the end of an epoch
            process.send_signal(number)
    printed = run.communicate(timeout=SAFETY_SECONDS)
    status, step, code = status_of(folder)
    assert (status, code) == ("stopped", EXIT_DONE), printed
    assert checkpoint_steps(folder) == [step]
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    assert not alive


def stall_in_save(folder: Path) -> Hook:
    """A hook: in the third step comes a stop signal, and the save that follows does not get on."""

    def hook(rank: int) -> None:
        def stall(*arguments: Any) -> None:
            (folder / "stalls").touch()
            time.sleep(1000)

        def harm(trainer: Trainer, batches: Any) -> None:
            if trainer.state.step == 2:
                checkpoint.save_tensors = stall  # type: ignore[assignment]
                os.kill(os.getpid(), signal.SIGTERM)

        commands.SAME_REQUEST_SECONDS = 0.2
        before_each_step(harm)

    return hook


@pytest.mark.case(10)
@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_a_launcher_that_ends_of_a_signal_does_not_leave_its_processes_training(
    world: Path, tmp_path: Path, processes: int, number: signal.Signals
) -> None:
    """Accelerate's, for one process, passes no signal on; torchrun knows nothing of SIGUSR1."""
    folder = tmp_path / "run"
    config = write_config(
        world, output_dir=str(folder), num_train_epochs=2000, do_eval=False, save_steps=100_000,
        dataloader_num_workers=1,
    )  # fmt: skip
    run = start("run_training_mixed.py", processes, config)
    wait_for_steps(run, folder)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    gone, alive = psutil.wait_procs(family, timeout=SAFETY_SECONDS)
    assert not alive and run.wait(SAFETY_SECONDS) == -number
    status, step, code = status_of(folder)
    assert (status, code) == ("stopped", EXIT_DONE) and checkpoint_steps(folder) == [step]


@pytest.mark.case(11)
@in_both_forms
def test_a_second_signal_during_the_save_ends_the_process_at_once(world: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "run"
    config = write_config(
        world, output_dir=str(folder), num_train_epochs=1, save_steps=2, dataloader_num_workers=2, do_eval=False,
        **KEYS[form],
    )  # fmt: skip
    run = fork_run(config, tmp_path / "log", hook=stall_in_save(folder))
    deadline = time.monotonic() + SAFETY_SECONDS
    while not (folder / "stalls").exists():
        assert run.children[0].is_alive() and time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.02)
    time.sleep(0.3)
    pid = run.children[0].pid
    assert pid is not None
    family = psutil.Process(pid).children(recursive=True)
    assert len(family) == 2
    family[0].suspend()  # a loader worker that hangs, and will not end by itself
    # The main thread first hears of the worker: a signal that comes while another one is pending goes to another
    # thread, and Python runs handlers in the main one alone, which nothing would wake then.
    time.sleep(0.5)
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    run.finish(EXIT_SIGNAL_BASE + signal.SIGTERM)
    assert time.monotonic() - began < STOP_SECONDS / 2
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    assert not alive
    assert status_of(folder)[0] == "running", "it had no time to say anything else"
    newest = CheckpointManager(folder, save_total_limit=None, rank=0, world_size=1).latest()
    assert newest is not None and verify(newest).step == 2
    fork_run(config, tmp_path / "log").finish(EXIT_DONE)
    assert status_of(folder)[0] == "finished"
