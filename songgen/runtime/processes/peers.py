"""Processes that work together outside training: each notices within seconds that another one has died, and ends.

Each process counts in the store through which the processes found each other, and a thread reads the counts of the
others. Nothing is written to a disk, so that it works before any folder is locked and after one was removed. Training
has its own supervision, whose heartbeat files also show in which step a process hangs.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from types import TracebackType
from typing import Self

from songgen.exit_codes import EXIT_LOST_PROCESS
from songgen.runtime.folder_lock import is_alive
from songgen.runtime.json_files import parse_json
from songgen.runtime.private_names import default_store, is_lost_connection
from songgen.runtime.processes.signals import KEPT, leave_at_once
from songgen.runtime.terminal import say

LOOK_SECONDS = 1.0
"""Seconds between two looks at the other processes; more among many, since each reads the counts of all others."""

_PROCESSES_PER_SECOND = 16
"""Number of processes among which each of them looks once a second."""

STALE_LOOKS = 300
"""Looks after which a process of another machine whose count does not change is lost. They are counted and not timed: a
batch system may suspend all processes of a job for hours."""

GRACE_SECONDS = 3.0
"""Seconds that a process gets to end by itself, with its own message, after another one was lost."""


class LostProcess(RuntimeError):
    """Another process of the launch died, failed or did not answer; what was completed is kept."""

    exit_code = EXIT_LOST_PROCESS
    """Exit code of the process that raises it."""


class PeerWatch:
    """Watch over the other processes of a launch, in a context. Every process must enter it.

    An error that leaves the context is told to the others.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        """Open a connection to the store; the processes have joined each other."""
        self.rank = rank
        self.world_size = world_size
        # A connection of its own: an operation of the main thread that waits would hold the common one.
        self._store = default_store().clone()
        self._count = 0
        self._seen: dict[int, tuple[str, int]] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peer-watch", daemon=True)

    def __enter__(self) -> Self:
        """Start to count, and to watch the others."""
        self._tell()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching, and tell the others about an error."""
        self._is_over.set()
        if error is None or is_lost_connection(error):  # then another process is the cause
            return
        try:
            self._tell(f"it left with exit code {error.code}" if isinstance(error, SystemExit) else _described(error))
        except RuntimeError:  # the store is gone, and with it the process that all others depend on
            return

    def find_lost(self, seconds: float = GRACE_SECONDS) -> str | None:
        """Return which process was lost, after a connection was; it may take a moment until it can be seen."""
        deadline = time.monotonic() + seconds
        while (lost := self._lost()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return lost

    def find_killed(self) -> str | None:
        """Return which process of this machine has died without a word; None if none has."""
        return self._lost(only_killed=True)

    def _tell(self, ended: str | None = None) -> None:
        """Write this process's count, and why it ended."""
        self._count += 1
        beat = {"count": self._count, "pid": os.getpid(), "host": socket.gethostname(), "ended": ended}
        self._store.set(_key(self.rank), json.dumps(beat))

    def _lost(self, *, only_killed: bool = False) -> str | None:
        """Return which process was lost; None if none was."""
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        try:
            # A process that has not begun to count is not missing: its death ends the barrier before the work.
            begun = [rank for rank in others if self._store.check([_key(rank)])]
            texts = [self._store.get(_key(rank)).decode() for rank in begun]
        except RuntimeError:
            gone = "the connection among the processes is gone: process 0 or the launcher has ended"
            return None if only_killed else gone
        for rank, text in zip(begun, texts, strict=True):
            before, looks = self._seen.get(rank, ("", 0))
            self._seen[rank] = text, looks + 1 if text == before else 0
            beat = parse_json(text)
            who = f"process {rank} (pid {beat['pid']} on {beat['host']})"
            if beat["ended"] is None and beat["host"] == socket.gethostname() and not is_alive(beat["pid"]):
                return f"{who} died"
            if beat["ended"] is not None and not only_killed:
                return f"{who} failed: {beat['ended']}"
            if self._seen[rank][1] > STALE_LOOKS and not only_killed:
                return f"{who} does not answer"
        return None

    def _watch(self) -> None:
        """End this process when another one was lost and this one does not end by itself."""
        seconds = LOOK_SECONDS * max(1.0, self.world_size / _PROCESSES_PER_SECOND)
        while not self._is_over.wait(seconds):
            lost = self._lost()
            if lost is None:
                try:
                    self._tell()
                except RuntimeError:
                    continue  # found by the next look
            elif not self._is_over.wait(GRACE_SECONDS):
                say(f"error: process {self.rank} of {self.world_size} exits: {lost}; {KEPT}")
                leave_at_once(EXIT_LOST_PROCESS, lost)


def _key(rank: int) -> str:
    """Return the key of a process's count in the store."""
    return f"songgen-alive-{rank}"


def _described(error: BaseException) -> str:
    """Return an error as text."""
    return f"{type(error).__name__}: {error}"
