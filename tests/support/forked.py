"""Training runs in children of this process, which has everything imported: a run takes a second instead of six."""

import ctypes
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from limits import SAFETY_SECONDS

from songgen.tasks import MIXED, Task
from songgen.train.checkpoints.files import FileEntry, verify
from songgen.train.launch import run_training
from songgen.train.trainer import Trainer

FORK = multiprocessing.get_context("fork")

Hook = Callable[[int], None]
"""Called in each child, with its rank, before the run begins: to patch what is to be watched or broken."""


def fork_run(config: Path, log: Path, *, processes: int = 1, hook: Hook | None = None, task: Task = MIXED) -> "Fork":
    """Start a training run in processes of its own; what it prints is appended to `log`."""
    return fork(lambda: run_training([str(config)], task), log, processes=processes, hook=hook)


def fork(main: Callable[[], int], log: Path, *, processes: int = 1, hook: Hook | None = None) -> "Fork":
    """Call a function, which returns an exit code, in each of some processes that find each other."""
    port = _free_port()

    def run(rank: int) -> None:
        end_with_parent()
        redirect(log)
        if processes > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        os.environ["ACCELERATE_USE_CPU"] = "true"
        AcceleratorState._reset_state(True)
        if hook is not None:
            hook(rank)
        code = main()
        sys.stderr.flush()
        os._exit(code)  # nothing of the parent's is torn down here

    children = [FORK.Process(target=run, args=(rank,)) for rank in range(processes)]
    for child in children:
        child.start()
    return Fork(children, log)


class Fork:
    """A run that was forked."""

    def __init__(self, children: Sequence[ForkProcess], log: Path) -> None:
        self.children = children
        self.log = log

    def finish(self, returncode: int = 0) -> str:
        """Wait for the run, require the exit code of every process, and return all that was printed so far."""
        for child in self.children:
            child.join(SAFETY_SECONDS)
        codes = [child.exitcode for child in self.children]
        self.kill()
        printed = self.log.read_text()
        assert codes == [returncode] * len(codes), f"exit codes {codes}\n{printed}"
        return printed

    def kill(self) -> bool:
        """Kill what is left of the run; returns whether every process died of it (or of a kill before)."""
        for child in self.children:
            child.kill()
            child.join(SAFETY_SECONDS)
        return all(child.exitcode == -signal.SIGKILL for child in self.children)

    def wait_for_a_kill(self) -> bool:
        """Wait until a process ends, and end the others if it was killed; returns whether it was."""
        ended = multiprocessing.connection.wait([child.sentinel for child in self.children], SAFETY_SECONDS)
        assert ended, f"the run hangs\n{self.log.read_text()}"
        for child in self.children:
            if child.sentinel in ended:
                child.join(SAFETY_SECONDS)
        killed = any(child.exitcode == -signal.SIGKILL for child in self.children)
        if not killed:
            self.finish()
            return False
        self.kill()
        return True


def stop_at(step: int, rank: int = 0) -> Hook:
    """A hook that sends the process of a rank a stop signal in the step after which the run is to end."""

    def hook(own_rank: int) -> None:
        if own_rank == rank:
            before_each_step(lambda trainer, batches: signal_at(trainer, step))

    return hook


def record_clips(folder: Path, then: Hook | None = None) -> Hook:
    """A hook that writes down which clips each process trains on in each step (`clips-RANK.jsonl`)."""

    def hook(rank: int) -> None:
        def record(trainer: Trainer, batches: Sequence[Any]) -> None:
            clips = [name for batch in batches for name in batch.ids]
            entry = {"step": trainer.state.step, "epoch": trainer.state.epoch, "rank": rank, "clips": clips}
            with (folder / f"clips-{rank}.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

        folder.mkdir(parents=True, exist_ok=True)
        before_each_step(record)
        if then is not None:
            then(rank)

    return hook


def recorded_clips(folder: Path) -> list[dict[str, Any]]:
    """What `record_clips` wrote, by step and rank."""
    lines = [line for path in folder.glob("clips-*.jsonl") for line in path.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda entry: (entry["step"], entry["rank"]))


def saved_files(checkpoint: Path) -> dict[str, FileEntry]:
    """Size and hash of every file of a checkpoint (checked byte by byte) but the configuration."""
    files = verify(checkpoint).files
    return {name: entry for name, entry in files.items() if name != "training_config.json"}


def before_each_step(call: Callable[[Trainer, Sequence[Any]], None]) -> None:
    """Call something before every step of this process's trainer."""
    original = Trainer.step

    def step(self: Trainer, batches: Any) -> Any:
        call(self, batches)
        return original(self, batches)

    Trainer.step = step  # type: ignore[method-assign]  # in a child: nobody else sees it


def signal_at(trainer: Trainer, step: int) -> None:
    """Send this process a stop signal in the given step, counted from 1."""
    if trainer.state.step + 1 == step:
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_parent() -> None:
    """Let the system kill this process when pytest ends; a fork does not carry the mark that the warden looks for."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def redirect(log: Path) -> None:
    """Append what this process prints to a file."""
    file = log.open("a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file


def _free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
