"""Heartbeats: each process records its progress in its own file, so that the others can tell which one is missing."""

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

from songgen.runtime.files import remove_file, write_text_atomic
from songgen.runtime.folder_lock import is_alive
from songgen.runtime.json_files import read_json_object
from songgen.runtime.records import checked_record

STARTING = "starting"
"""Activity of a process before training."""

_MAX_NAMED = 8
"""Maximum number of processes that a report names."""


def heartbeat_file(rank: int) -> str:
    """Return the name of a process's heartbeat file in the output folder."""
    return f"heartbeat-{rank}.json"


def is_heartbeat(name: str) -> bool:
    """Return whether a file of this name is a heartbeat."""
    return name.startswith("heartbeat-") and name.endswith(".json")


@dataclass(frozen=True)
class Beat:
    """Heartbeat of a process."""

    rank: int
    """Rank of the process."""
    step: int
    """Completed optimizer steps."""
    doing: str
    """Activity that the process began at that time."""
    time: float
    """Time of the heartbeat, in seconds since 1970."""
    pid: int
    """Process id on its machine."""
    host: str
    """Host name of the machine."""
    error: str | None = None
    """Error that the process failed with; None if it has not failed."""
    is_victim: bool = False
    """Whether the process failed because another one did not answer."""
    milestone: str = ""
    """Next milestone of the run and when it is expected; empty if there is none."""


class Heartbeat:
    """Heartbeat of this process: records what it does in memory, and writes its file when asked to.

    A step may take milliseconds, and the folder may be on a slow network disk. So the training loop only calls `beat`,
    and a thread of `songgen.train.supervision` writes the file regularly. For a process that hangs, the file then shows
    the step and activity in which it hangs, with the time at which it began.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        """Write nothing yet; `folder` must exist when `write` is called."""
        self.path = folder / heartbeat_file(rank)
        self.latest = Beat(rank, 0, STARTING, time.time(), os.getpid(), socket.gethostname())
        self._written: Beat | None = None
        self._removed = False
        self._lock = threading.Lock()

    def beat(self, doing: str, step: int | None = None) -> None:
        """Record what the process does now, after `step` completed optimizer steps (None: unchanged)."""
        step = self.latest.step if step is None else step
        self.latest = dataclasses.replace(self.latest, doing=doing, step=step, time=time.time())

    def expect(self, milestone: str) -> None:
        """Record the next milestone of the run."""
        self.latest = dataclasses.replace(self.latest, milestone=milestone)

    def fail(self, error: str, *, is_victim: bool) -> None:
        """Record the process's error and write the file at once; the time stays that of the last heartbeat."""
        self.latest = dataclasses.replace(self.latest, error=error, is_victim=is_victim)
        self.write()

    def remove(self) -> None:
        """Remove the file and write it no more: the process is done."""
        with self._lock:
            self._removed = True
            remove_file(self.path)

    def write(self) -> None:
        """Replace the file, unless it is up to date."""
        with self._lock:
            beat = self.latest
            if self._removed or beat is self._written:
                return
            # A full disk must not end a run because of its heartbeat; a save reports the problem.
            with suppress(OSError):
                write_text_atomic(self.path, json.dumps(dataclasses.asdict(beat)) + "\n", durable=False)
                self._written = beat


def read_beat(folder: Path, rank: int) -> Beat | None:
    """Return the latest heartbeat of a process; None if none can be read."""
    try:
        return checked_record(Beat, read_json_object(folder / heartbeat_file(rank)))
    except (ValueError, TypeError):
        return None


def remove_heartbeats(folder: Path) -> None:
    """Remove the heartbeats of an earlier run."""
    for path in folder.iterdir():
        if is_heartbeat(path.name):
            remove_file(path)


def missing_processes(folder: Path, rank: int, world_size: int) -> list[str]:
    """Describe the other processes that died, failed by themselves or do not answer.

    Args:
        folder: folder of the run.
        rank: rank of this process, which has failed itself.
        world_size: number of processes of the run.

    Returns:
        A sentence for each of them, at most `_MAX_NAMED`. Processes that only failed because another one was missing
        are left out.
    """
    here, now = socket.gethostname(), time.time()
    found = []
    for other in range(world_size):
        beat = read_beat(folder, other) if other != rank else None
        if other == rank or (beat is not None and beat.is_victim):
            continue
        if beat is None:
            found.append(f"process {other} has written no heartbeat")
            continue
        who = f"process {other} (pid {beat.pid} on {beat.host})"
        last = f"after step {beat.step}, {beat.doing}, {now - beat.time:.1f} s ago"
        if beat.error is not None:
            found.append(f"{who} failed after step {beat.step}: {beat.error}")
        # Only a process on this machine can be checked by its number.
        elif beat.host == here and not is_alive(beat.pid):
            found.append(f"{who} died; its last heartbeat: {last}")
        else:
            found.append(f"{who} does not answer; its last heartbeat: {last}")
    rest = len(found) - _MAX_NAMED
    return found if rest <= 0 else [*found[:_MAX_NAMED], f"and {rest} more"]
