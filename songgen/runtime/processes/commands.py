"""Commands to a run while it trains: values of one type from any source, carried out at a step boundary.

A signal or a file becomes a `Command` in the inbox of the process that sees it. The processes agree on the actions in
the reduction of their training step, so that all of them act at the same step, in one method of the trainer. Another
source (a console, a page) puts its commands into the inbox. A command with values of its own gets fields for them here,
which the processes exchange after the reduction has shown that there is such a command.
"""

from __future__ import annotations

import ctypes
import enum
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from songgen.exit_codes import EXIT_SIGNAL_BASE
from songgen.runtime.processes.agreement import all_succeeded
from songgen.runtime.processes.group import hear, leave_at_once, tell
from songgen.runtime.processes.signals import STOP_SIGNALS, handling

SAME_REQUEST_SECONDS = 2.0
"""Signals that follow the first one within this time are the same request: a batch system signals every process of a
job, and the launcher, which is one of them, passes the signal on."""

LAUNCHER_ENDED = signal.SIGUSR2
"""Signal that the system sends to a training process when its launcher ends; it asks for a stop as well. It is a
separate signal, since it may come long after the one that ended the launcher, and is not a second request then."""

LOOK_SECONDS = 1.0
"""Seconds between two checks for command files, which may be on a slow network disk."""

_LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""Environment variables that `accelerate launch` and `torchrun` set for the processes that they start."""

_PR_SET_PDEATHSIG = 1
"""Option of Linux' prctl(2): the signal to get when the parent process ends."""

_NOTICE = "songgen-stop"


class Action(enum.Enum):
    """Action that a run can be asked for."""

    STOP = "stop"
    """Save, write the model, and end with exit code 0. A second request changes nothing."""
    SAVE = "save"
    """Save a checkpoint and continue."""


@dataclass(frozen=True)
class Command:
    """Command to a run."""

    action: Action
    """Action to take."""
    source: str
    """Source of the command: name of a signal or a file."""


STOP_FILE, SAVE_FILE = "STOP", "SAVE"

COMMAND_FILES = {STOP_FILE: Action.STOP, SAVE_FILE: Action.SAVE}
"""Name of a file in a run's folder -> action that it asks for when it appears; for preemption notices that are not
signals, and for users who cannot send a signal to the run."""


class Interrupted(Exception):
    """Raised when a stop was asked for during work that can be abandoned."""


class Inbox:
    """Commands to this process. In its context, the first stop signal is a command; a second one ends the process.

    The trainer takes the commands at every step boundary, and checks for a stop between the batches of an evaluation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Start without commands; signals are only handled once the object is entered.

        Args:
            folder: folder of the run, in which command files may appear; None to look for none.
        """
        self.stop: Command | None = None
        self._signalled_at: float | None = None
        self._folder = folder
        self._looked_at = -LOOK_SECONDS
        self._waiting: list[Command] = []
        self._handlers = ExitStack()

    def __enter__(self) -> Inbox:
        """Install the signal handlers."""
        self._handlers.enter_context(
            handling({**dict.fromkeys(STOP_SIGNALS, self._note), LAUNCHER_ENDED: self._note_end_of_launcher})
        )
        if any(name in os.environ for name in _LAUNCHER_VARIABLES):
            _hear_of_the_parents_end(LAUNCHER_ENDED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the earlier signal handlers."""
        _hear_of_the_parents_end(None)
        self._handlers.close()

    def take(self) -> list[Command]:
        """Return the commands to carry out now. A stop is returned every time: it cannot be revoked."""
        self._look()
        taken, self._waiting = self._waiting, []
        return taken if self.stop is None else [self.stop, *taken]

    def stop_requested(self) -> bool:
        """Return whether this process was asked to stop; other commands wait."""
        self._look()
        return self.stop is not None

    def stop_requested_anywhere(self) -> bool:
        """Return whether any process was asked to stop. Every process must call this at the same point."""
        return not all_succeeded(not self.stop_requested())

    def stop_heard(self) -> bool:
        """Return whether any process is known to have been asked to stop, without waiting for the others.

        For work that processes do independently; answers may differ for a while. A process that was asked to stop
        notifies the others here.
        """
        if self.stop_requested():
            tell(_NOTICE)
            return True
        return hear(_NOTICE)

    def _look(self) -> None:
        """Check for command files, at most once in `LOOK_SECONDS`."""
        now = time.monotonic()
        if self._folder is None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if self.stop is None and (self._folder / STOP_FILE).exists():
            self.stop = Command(Action.STOP, f"the file {STOP_FILE}")
        if _removed(self._folder / SAVE_FILE):
            self._waiting.append(Command(Action.SAVE, f"the file {SAVE_FILE}"))

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Handle a stop signal: a command the first time, the end of the process the second time."""
        now = time.monotonic()
        if self._signalled_at is None:
            self._stop_by(signal.Signals(number).name)
        elif now - self._signalled_at > SAME_REQUEST_SECONDS:
            leave_at_once(EXIT_SIGNAL_BASE + number)

    def _note_end_of_launcher(self, number: int, frame: FrameType | None) -> None:
        """Stop, since no launcher is left that would report how the run ends, or end it."""
        if self._signalled_at is None:
            self._stop_by("the end of the launcher")

    def _stop_by(self, source: str) -> None:
        """Record the first signal as a stop command."""
        self._signalled_at = time.monotonic()
        self.stop = self.stop or Command(Action.STOP, source)


def actions_of(commands: Collection[Command]) -> list[bool]:
    """Return for each `Action`, in their order, whether it is asked for; the processes add these flags up."""
    return [any(command.action is action for command in commands) for action in Action]


def agreed_actions(counts: Collection[float]) -> frozenset[Action]:
    """Return the actions that any process asks for, given the sums of `actions_of` over all processes."""
    return frozenset(action for action, count in zip(Action, counts, strict=True) if count > 0)


def remove_command_files(folder: Path) -> None:
    """Remove the command files of an earlier run."""
    for name in COMMAND_FILES:
        (folder / name).unlink(missing_ok=True)


def _removed(path: Path) -> bool:
    """Remove a file and return whether it existed. If several processes see it, only one of them takes the command."""
    try:
        path.unlink()
    except OSError:  # usually because it does not exist
        return False
    return True


def _hear_of_the_parents_end(number: signal.Signals | None) -> None:
    """Ask the system for a signal when the parent process ends (None: for none), where supported."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0 if number is None else int(number))
