"""What a run is asked to do while it trains: values of one type, whoever asks, obeyed at a step boundary.

A signal or a file becomes a `Command` in the inbox of the process that sees it. The processes agree on the actions in
the reduction of their training step, so that all of them obey at the same step, and the trainer obeys in one method.
Another way to ask (a console, a page) puts its commands into the inbox; a command with values of its own gets fields
for them here, which the processes exchange once the reduction has told them that there is one.
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
"""What the system sends a training process when its launcher ends, which asks it to stop as well. It is a signal of its
own, because it may come long after the one that ended the launcher, and is not a second request then."""

LOOK_SECONDS = 1.0
"""Between two looks for files: the disk may be far away."""

_LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""What `accelerate launch` and `torchrun` set in the environment of the processes that they start."""

_PR_SET_PDEATHSIG = 1
"""Number of the question to Linux; see prctl(2)."""

_NOTICE = "songgen-stop"


class Action(enum.Enum):
    """What can be asked of a run."""

    STOP = "stop"
    """Save, write the model, and end with exit code 0. A second request of the kind changes nothing."""
    SAVE = "save"
    """Save a checkpoint and continue."""


@dataclass(frozen=True)
class Command:
    """Something that a run is asked to do."""

    action: Action
    """What to do."""
    source: str
    """Who asks: name of a signal or of a file."""


STOP_FILE, SAVE_FILE = "STOP", "SAVE"

COMMAND_FILES = {STOP_FILE: Action.STOP, SAVE_FILE: Action.SAVE}
"""File in a run's folder -> what its appearance asks for: for notices of preemption that do not come as a signal, and
for whoever has no other way to reach the run."""


class Interrupted(Exception):
    """A stop was asked for in the middle of something that can be given up."""


class Inbox:
    """Commands to this process. While entered, the first stop signal is one; a second one ends the process at once.

    The trainer takes the commands at every step boundary, and asks for a stop between the batches of an evaluation.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Look nowhere yet, and catch nothing before the object is entered.

        Args:
            folder: of the run, in which files may ask for the same as signals.
        """
        self.stop: Command | None = None
        self._signalled_at: float | None = None
        self._folder = folder
        self._looked_at = -LOOK_SECONDS
        self._waiting: list[Command] = []
        self._handlers = ExitStack()

    def __enter__(self) -> Inbox:
        """Take the signals over."""
        self._handlers.enter_context(
            handling({**dict.fromkeys(STOP_SIGNALS, self._note), LAUNCHER_ENDED: self._note_end_of_launcher})
        )
        if any(name in os.environ for name in _LAUNCHER_VARIABLES):
            _hear_of_the_parents_end(LAUNCHER_ENDED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        _hear_of_the_parents_end(None)
        self._handlers.close()

    def take(self) -> list[Command]:
        """Return the commands to obey now. A stop is returned again each time: it cannot be taken back."""
        self._look()
        taken, self._waiting = self._waiting, []
        return taken if self.stop is None else [self.stop, *taken]

    def stop_requested(self) -> bool:
        """Whether this process was asked to stop; other commands wait."""
        self._look()
        return self.stop is not None

    def stop_requested_anywhere(self) -> bool:
        """Whether any process was asked to stop. Every process must call this at the same place."""
        return not all_succeeded(not self.stop_requested())

    def stop_heard(self) -> bool:
        """Whether any process is known to have been asked to stop; nobody waits, so answers may differ for a while.

        For work that processes do apart from each other. A process that is asked to stop tells the others here.
        """
        if self.stop_requested():
            tell(_NOTICE)
            return True
        return hear(_NOTICE)

    def _look(self) -> None:
        """Look for files, now and then."""
        now = time.monotonic()
        if self._folder is None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if self.stop is None and (self._folder / STOP_FILE).exists():
            self.stop = Command(Action.STOP, f"the file {STOP_FILE}")
        if _removed(self._folder / SAVE_FILE):
            self._waiting.append(Command(Action.SAVE, f"the file {SAVE_FILE}"))

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Take a stop signal for a command, or leave at the second one."""
        now = time.monotonic()
        if self._signalled_at is None:
            self._stop_by(signal.Signals(number).name)
        elif now - self._signalled_at > SAME_REQUEST_SECONDS:
            leave_at_once(EXIT_SIGNAL_BASE + number)

    def _note_end_of_launcher(self, number: int, frame: FrameType | None) -> None:
        """Stop: nobody is left who would report how the run ends, or end it."""
        if self._signalled_at is None:
            self._stop_by("the end of the launcher")

    def _stop_by(self, source: str) -> None:
        """Note the first signal."""
        self._signalled_at = time.monotonic()
        self.stop = self.stop or Command(Action.STOP, source)


def actions_of(commands: Collection[Command]) -> list[bool]:
    """Say of each `Action`, in their order, whether it is asked for: what the processes add up."""
    return [any(command.action is action for command in commands) for action in Action]


def agreed_actions(counts: Collection[float]) -> frozenset[Action]:
    """Return the actions that any process asks for, of the sums of `actions_of` over all processes."""
    return frozenset(action for action, count in zip(Action, counts, strict=True) if count > 0)


def remove_command_files(folder: Path) -> None:
    """Forget what an earlier run in a folder was asked for."""
    for name in COMMAND_FILES:
        (folder / name).unlink(missing_ok=True)


def _removed(path: Path) -> bool:
    """Remove a file; whether it was there. Of several processes that see it, one removes it, and so obeys for all."""
    try:
        path.unlink()
    except OSError:  # mostly, that there is none
        return False
    return True


def _hear_of_the_parents_end(number: signal.Signals | None) -> None:
    """Ask the system for a signal when the process that started this one ends (None: for none), where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0 if number is None else int(number))
