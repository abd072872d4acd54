"""Signs of life: each process says in a file of its own where it stands, so that the others can tell who is missing."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from songgen.runtime.files import write_text_atomic
from songgen.runtime.folder_lock import is_alive

STARTING = "starting"
"""What a process does before training."""

_MAX_NAMED = 8
"""Processes that a report names; more would hide what matters."""


def heartbeat_file(rank: int) -> str:
    """Name of a process's file in the output folder."""
    return f"heartbeat-{rank}.json"


def is_heartbeat(name: str) -> bool:
    """Whether a file of this name is one of these."""
    return name.startswith("heartbeat-") and name.endswith(".json")


@dataclass(frozen=True)
class Beat:
    """One sign of life."""

    rank: int
    """Of the process."""
    step: int
    """Optimizer steps that lie behind."""
    doing: str
    """What the process began then."""
    time: float
    """When, in seconds since 1970."""
    pid: int
    """Number of the process on its machine."""
    host: str
    """Name of that machine."""
    error: str | None = None
    """What the process failed of."""
    is_victim: bool = False
    """Whether it failed because another process did not answer."""


class Heartbeat:
    """Remembers what one process does, and writes it to its file when it is asked to.

    A step takes milliseconds or minutes, and the folder may be far away: who supervises the process writes now and
    then (`songgen.train.supervision`), from a thread of its own, so that a process that hangs is seen where it does.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        """Nothing is written yet; `folder` must exist when something is."""
        self.path = folder / heartbeat_file(rank)
        self.latest = Beat(rank, 0, STARTING, time.time(), os.getpid(), socket.gethostname())
        self._written: Beat | None = None
        self._removed = False
        self._lock = threading.Lock()

    def beat(self, doing: str, step: int | None = None) -> None:
        """Note what the process does now, after `step` optimizer steps (None: as many as the last time)."""
        step = self.latest.step if step is None else step
        self.latest = dataclasses.replace(self.latest, doing=doing, step=step, time=time.time())

    def fail(self, error: str, *, is_victim: bool) -> None:
        """Say at once what the process fails of; the time stays that of the last sign of life."""
        self.latest = dataclasses.replace(self.latest, error=error, is_victim=is_victim)
        self.write()

    def remove(self) -> None:
        """Leave no file, now or later: the process is done."""
        with self._lock:
            self._removed = True
            self.path.unlink(missing_ok=True)

    def write(self) -> None:
        """Replace the file, if it does not say the latest already."""
        with self._lock:
            beat = self.latest
            if self._removed or beat is self._written:
                return
            # A full disk ends no run for the sake of its heartbeat; saving says what is wrong.
            with suppress(OSError):
                write_text_atomic(self.path, json.dumps(dataclasses.asdict(beat)) + "\n", durable=False)
                self._written = beat


def read_beat(folder: Path, rank: int) -> Beat | None:
    """The latest sign of life of a process; None if there is none that can be read."""
    try:
        return Beat(**json.loads((folder / heartbeat_file(rank)).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove_heartbeats(folder: Path) -> None:
    """Remove what the processes of an earlier run left."""
    for path in folder.iterdir():
        if is_heartbeat(path.name):
            path.unlink(missing_ok=True)


def missing_processes(folder: Path, rank: int, world_size: int) -> list[str]:
    """Say of the other processes which ones died, failed by themselves or do not answer.

    Args:
        folder: of the run.
        rank: of the process that asks, having failed itself.
        world_size: processes of the run.

    Returns:
        a sentence for each of them, at most `_MAX_NAMED`; those that failed because they missed another are left out.
    """
    here, now = socket.gethostname(), time.time()
    found = []
    for other in range(world_size):
        beat = read_beat(folder, other) if other != rank else None
        if other == rank or (beat is not None and beat.is_victim):
            continue
        if beat is None:
            found.append(f"process {other} has given no sign of life")
            continue
        who = f"process {other} (pid {beat.pid} on {beat.host})"
        last = f"after step {beat.step}, {beat.doing}, {now - beat.time:.1f} s ago"
        if beat.error is not None:
            found.append(f"{who} failed after step {beat.step}: {beat.error}")
        elif beat.host == here and not is_alive(beat.pid):
            found.append(f"{who} died; its last sign of life: {last}")
        else:
            found.append(f"{who} does not answer; its last sign of life: {last}")
    rest = len(found) - _MAX_NAMED
    return found if rest <= 0 else [*found[:_MAX_NAMED], f"and {rest} more"]
