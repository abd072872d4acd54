"""Commands to a run while it trains: collected from any source, carried out at a step boundary.

A signal or a file becomes a `Command` in the inbox of the process that sees it, and so do the commands of further
sources, such as the terminal. The processes learn in the reduction of their training step whether any of them has
commands, and then exchange them (`songgen.train.control`), so that all of them act at the same step.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol

from songgen.exit_codes import EXIT_SIGNAL_BASE
from songgen.runtime.control.commands import Action, Command
from songgen.runtime.control.requests import remove_requests
from songgen.runtime.files import remove_file
from songgen.runtime.processes.agreement import all_succeeded
from songgen.runtime.processes.group import hear, tell
from songgen.runtime.processes.signals import (
    LAUNCHER_VARIABLE,
    STOP_SIGNALS,
    handling,
    hear_of_parents_end,
    heard_at_once,
    is_launched,
    launcher_has_ended,
    leave_at_once,
)
from songgen.runtime.terminal import say

SAME_REQUEST_SECONDS = 2.0
"""Signals that follow the first one within this time are the same request: a batch system signals every process of a
job, and the launcher, which is one of them, passes the signal on."""

LAUNCHER_ENDED = signal.SIGUSR2
"""Signal that the system sends to a training process when its launcher ends; it asks for a stop as well. It is a
separate signal, since it may come long after the one that ended the launcher, and is not a second request then."""

LOOK_SECONDS = 1.0
"""Seconds between two checks for command files, which may be on a slow network disk."""

_NOTICE = "songgen-stop"


STOP_FILE, SAVE_FILE = "STOP", "SAVE"
"""Names of files in a run's folder that ask for a stop or a checkpoint when they appear; for preemption notices that
are not signals, and for users who cannot send a signal to the run."""


class Interrupted(Exception):
    """Raised when a stop was asked for during work that can be abandoned."""


class Source(Protocol):
    """Source of commands: a context manager that is asked at every step boundary, and in evaluations."""

    def __enter__(self) -> object:
        """Begin to receive commands."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Receive no more commands."""

    def take(self) -> list[Command]:
        """Return the commands that have arrived since the last call, without waiting."""


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
        self._sources: list[Source] = []
        self._signalled_at: float | None = None
        self._folder = folder
        self._looked_at = -LOOK_SECONDS
        self._waiting: list[Command] = []
        self._handlers = ExitStack()

    def __enter__(self) -> Inbox:
        """Install the signal handlers."""
        self._handlers.enter_context(heard_at_once(self._hear))
        self._handlers.enter_context(handling(dict.fromkeys((*STOP_SIGNALS, LAUNCHER_ENDED), self._note)))
        if is_launched():
            self._handlers.callback(hear_of_parents_end, None)
            hear_of_parents_end(LAUNCHER_ENDED)
            if launcher_has_ended():  # before the system was asked for the signal
                os.kill(os.getpid(), LAUNCHER_ENDED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the earlier signal handlers."""
        self._handlers.close()

    def listen_to(self, source: Source) -> None:
        """Take the commands of a further source as well, until the end of the context, which has begun."""
        self._handlers.enter_context(source)
        self.ask(source)

    def ask(self, source: Source) -> None:
        """Take the commands of a further source as well, whose context somebody else has entered."""
        self._sources.append(source)

    def add(self, command: Command) -> None:
        """Add a command."""
        if command.action is Action.STOP and command.at is None and self.stop is None:
            self.stop = command
        else:
            self._waiting.append(command)

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
        """Ask the sources, and check for command files at most once in `LOOK_SECONDS`."""
        for source in self._sources:
            for command in source.take():
                self.add(command)
        now = time.monotonic()
        if self._folder is None or now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if self.stop is None and (self._folder / STOP_FILE).exists():
            self.add(Command(Action.STOP, f"the file {STOP_FILE}"))
        if _removed(self._folder / SAVE_FILE):
            self.add(Command(Action.SAVE, f"the file {SAVE_FILE}"))

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Record a stop signal; runs in the main thread, before its next instruction."""
        self.stop = self.stop or Command(Action.STOP, _source_of(number))

    def _hear(self, number: int) -> None:
        """Answer a stop signal, and end the process at the second one; runs in a thread of its own, at once.

        A closed terminal and the end of the launcher are no second request: they follow a Ctrl-C by themselves, when an
        `ssh -t` or a tmux window is closed by it, or the launcher ends of it.
        """
        if number not in (*STOP_SIGNALS, LAUNCHER_ENDED):
            return
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
            self._answer(number)
        elif number not in (signal.SIGHUP, LAUNCHER_ENDED) and now - self._signalled_at > SAME_REQUEST_SECONDS:
            if _is_first_on_machine():
                say(f"{_source_of(number)} again: the run ends at once, without saving")
            leave_at_once(EXIT_SIGNAL_BASE + number)

    def _answer(self, number: int) -> None:
        """Print what follows from a stop signal, once on each machine."""
        if not _is_first_on_machine():
            return
        source = "\n" * sys.stderr.isatty() + _source_of(number)  # below the progress bar
        place = "" if self._folder is None else f" to {self._folder}"
        say(
            f"{source}: the run stops after this step, and saves a checkpoint and the model{place}. "
            "Once more (Ctrl-C) to give up: then it ends at once, and what follows the last checkpoint is lost"
        )
        if is_launched() and LAUNCHER_VARIABLE not in os.environ:
            say(
                "the launcher (accelerate or torchrun) may print a traceback of its own when it gets the same signal, "
                "which is not an error of the run; it ends the run after 30 seconds, which `songgen train` does not"
            )


def remove_command_files(folder: Path) -> None:
    """Remove the command files and requests of an earlier run."""
    for name in (STOP_FILE, SAVE_FILE):
        remove_file(folder / name)
    remove_requests(folder)


def _source_of(number: int) -> str:
    """Return the name of a stop signal for users."""
    return "the end of the launcher" if number == LAUNCHER_ENDED else signal.Signals(number).name


def _is_first_on_machine() -> bool:
    """Return whether this process answers for all processes of the launch on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _removed(path: Path) -> bool:
    """Remove a file and return whether it existed. If several processes see it, only one of them takes the command."""
    try:
        path.unlink()
    except OSError:  # usually because it does not exist
        return False
    return True
