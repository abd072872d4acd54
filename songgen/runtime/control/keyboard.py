"""Commands that are typed into the terminal of a run.

The terminal is only read while it is meant for the run: standard input is a terminal, and the run (or the launcher that
started this process) is in its foreground. A job in the background, `nohup`, a pipe and a batch system are not
disturbed: nothing is read, no setting of the terminal is changed, and the process cannot be stopped by SIGTTIN.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from songgen.runtime.control.commands import Command, receive

TERMINAL = "the terminal"
"""Source of the commands."""

PAUSE_SECONDS = 0.5
"""Seconds to wait while the terminal has input that is for another program, such as the shell, or is closed."""

_MAX_BYTES = 4096
_MAX_ANCESTORS = 8


class Keyboard:
    """Source of the commands that are typed, line by line. A context manager; without a terminal it does nothing.

    A thread reads, so that a wrong command is answered at once; the others wait for the run to take them.
    """

    def __init__(self, say: Callable[[str], None], descriptor: int = 0) -> None:
        """Read nothing yet.

        Args:
            say: prints a message without disturbing the progress bar; called from a thread.
            descriptor: descriptor of standard input.
        """
        self._say = say
        self._standard_input = descriptor
        self._typed: deque[Command] = deque()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Keyboard:
        """Start to read if there is a terminal."""
        try:
            if not os.isatty(self._standard_input):
                return self
        except OSError:  # standard input is closed
            return self
        self._terminal = _reopened(self._standard_input)
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._listen, name="keyboard", daemon=True)
        self._thread.start()
        if is_in_foreground(self._standard_input):
            self._say("commands can be typed while the run trains; help lists them")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to read; what is typed from now on is for the next program."""
        if self._thread is None:
            return
        self._is_over.set()
        os.write(self._waker, b"\0")
        self._thread.join()
        for descriptor in {self._terminal, self._wake, self._waker} - {self._standard_input}:
            os.close(descriptor)

    def take(self) -> list[Command]:
        """Return the commands that were typed since the last call."""
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._typed.popleft())
        return taken

    def _listen(self) -> None:
        """Read lines until the end. Runs in a thread."""
        # With SIGTTIN blocked, reading from the background fails with EIO instead of stopping the process: it may get
        # there between the check and the read. All other signals are for the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        rest = b""
        while True:
            ready, _, _ = select.select([self._terminal, self._wake], [], [])
            if self._is_over.is_set():
                return
            content = b""
            if self._terminal in ready and is_in_foreground(self._standard_input):
                with suppress(OSError):  # another program was faster, or the terminal was closed
                    content = os.read(self._terminal, _MAX_BYTES)
            if not content:  # input for another program, Ctrl-D, or a closed terminal, which stays readable
                self._is_over.wait(PAUSE_SECONDS)
                continue
            *lines, rest = (rest + content).replace(b"\r", b"\n").split(b"\n")
            rest = rest[-_MAX_BYTES:]
            for line in lines:
                self._hear(line.decode(errors="replace").strip())

    def _hear(self, line: str) -> None:
        if line and (command := receive(line, TERMINAL, lambda text, is_done: self._say(text))) is not None:
            self._typed.append(command)


def _reopened(descriptor: int) -> int:
    """Open a terminal again, so that reads cannot block; the flag is only for this process then, not for the shell."""
    try:
        return os.open(os.ttyname(descriptor), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # a terminal without a name here, as in some containers
        return descriptor


def is_in_foreground(descriptor: int) -> bool:
    """Return whether what is typed into a terminal is meant for this process.

    The process group that the terminal is in the foreground of decides, as for the shell. `torchrun` and accelerate
    start each process in a session of its own, without a terminal: then their launcher's group decides.
    """
    if sys.platform != "linux":
        try:
            return os.tcgetpgrp(descriptor) == os.getpgrp()
        except OSError:
            return False
    try:
        device, pid = os.fstat(descriptor).st_rdev, os.getpid()
        for _ in range(_MAX_ANCESTORS):
            if pid <= 1:
                break
            place = _place_of(pid)
            if place.terminal == (os.major(device), os.minor(device)):
                return place.group == place.foreground
            pid = place.parent
    except (OSError, ValueError, IndexError):  # the process has just ended
        return False
    return False


@dataclass(frozen=True)
class _Place:
    """Place of a process among the jobs of a terminal."""

    parent: int
    """Process id of the parent."""
    group: int
    """Process group."""
    terminal: tuple[int, int]
    """Device of the controlling terminal, major and minor; zeros for none."""
    foreground: int
    """Process group in the foreground of that terminal; -1 for none."""


def _place_of(pid: int) -> _Place:
    """Read the place of a process.

    Raises:
        OSError: if the process has ended.
    """
    # The name of the program is in parentheses and may contain anything. After it: state, parent, group, session,
    # terminal, foreground group. The kernel packs a device as in `new_encode_dev`: minor bits 0-7, major 8-19, minor.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    device = int(fields[4]) & 0xFFFFFFFF
    terminal = ((device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00))
    return _Place(parent=int(fields[1]), group=int(fields[2]), terminal=terminal, foreground=int(fields[5]))
