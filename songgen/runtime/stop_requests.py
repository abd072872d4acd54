"""Requests to stop a run, by a signal or by a file: noted at once, obeyed at a step boundary."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from songgen.data.loader import STOP_SIGNALS
from songgen.exit_codes import EXIT_SIGNAL_BASE
from songgen.runtime.agreement import all_succeeded
from songgen.runtime.distributed import hear, leave_at_once, tell

SAME_REQUEST_SECONDS = 2.0
"""Signals that follow the first one within this time are the same request: a batch system signals every process of a
job, and the launcher, which is one of them, passes the signal on."""

LAUNCHER_ENDED = signal.SIGUSR2
"""What the system sends a training process when its launcher ends, which asks it to stop as well. It is a signal of its
own, because it may come long after the one that ended the launcher, and is no second request then."""

_LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""What `accelerate launch` and `torchrun` set in the environment of the processes that they start."""

_PR_SET_PDEATHSIG = 1
"""Number of the question to Linux; see prctl(2)."""

STOP_FILE = "STOP"
"""File in a run's folder that asks it to stop: for notices of preemption that do not come as a signal."""

STOP_FILE_SECONDS = 1.0
"""Between two looks for it."""

_NOTICE = "songgen-stop"


class Interrupted(Exception):
    """A stop was asked for in the middle of something that can be given up."""


class StopSignals:
    """While entered, the first stop signal sets a flag; a second one ends the process at once (code 128 + signal).

    The trainer asks for the flag at every step boundary and between the batches of an evaluation, agrees on it with
    the other processes, saves, and exits with 0.
    """

    def __init__(self, stop_file: Path | None = None) -> None:
        """Catch nothing before the object is entered.

        Args:
            stop_file: file whose appearance asks for the same as a signal.
        """
        self.received: signal.Signals | None = None
        self._received_at = 0.0
        self._stop_file = stop_file
        self._found_file = False
        self._looked_at = -STOP_FILE_SECONDS
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Take the signals over."""
        # `nohup` ignores the signal of a terminal that closes, and so does the run under it.
        caught = [number for number in STOP_SIGNALS if not _is_ignored_hangup(number)]
        self._previous = {number: signal.signal(number, self._note) for number in caught}
        self._previous[LAUNCHER_ENDED] = signal.signal(LAUNCHER_ENDED, self._note_end_of_launcher)
        if any(name in os.environ for name in _LAUNCHER_VARIABLES):
            _hear_of_the_parents_end(LAUNCHER_ENDED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        _hear_of_the_parents_end(None)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.received is not None or self._file_is_there()

    def requested_anywhere(self) -> bool:
        """Whether any process was asked to stop. Every process must call this at the same place."""
        return not all_succeeded(not self.requested())

    def heard(self) -> bool:
        """Whether any process is known to have been asked to stop; nobody waits, so answers may differ for a while.

        For work that processes do apart from each other. A process that is asked to stop tells the others here.
        """
        if self.requested():
            tell(_NOTICE)
            return True
        return hear(_NOTICE)

    def _file_is_there(self) -> bool:
        """Whether the file has appeared; the disk, which may be far away, is asked now and then."""
        now = time.monotonic()
        if self._stop_file is not None and not self._found_file and now - self._looked_at >= STOP_FILE_SECONDS:
            self._looked_at, self._found_file = now, self._stop_file.exists()
        return self._found_file

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Set the flag, or leave at the second signal."""
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), now
        elif now - self._received_at > SAME_REQUEST_SECONDS:
            leave_at_once(EXIT_SIGNAL_BASE + number)

    def _note_end_of_launcher(self, number: int, frame: FrameType | None) -> None:
        """Set the flag: nobody is left who would report how the run ends, or end it."""
        if self.received is None:
            self.received, self._received_at = signal.Signals(number), time.monotonic()


def _hear_of_the_parents_end(number: signal.Signals | None) -> None:
    """Ask the system for a signal when the process that started this one ends (None: for none), where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0 if number is None else int(number))


def _is_ignored_hangup(number: signal.Signals) -> bool:
    """Whether this is SIGHUP, and this process was started to outlive its terminal."""
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
