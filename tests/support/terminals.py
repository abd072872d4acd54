"""A program in a terminal of its own (a pseudo-terminal), as a user has it: keys, what is shown, closing the window."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from limits import SAFETY_SECONDS

Result = TypeVar("Result")

INTERRUPT = b"\x03"
"""What Ctrl-C sends."""


class Terminal:
    """A program whose session leads this terminal: a key that means a signal reaches its whole process group."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.shown = ""
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lambda: _take_terminal(0),
            start_new_session=True,
        )
        os.close(theirs)

    def press(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._ours, keys)

    def wait_for(self, text: str) -> float:
        """Read until a text is shown; returns the seconds that it took."""
        began = time.monotonic()
        while text not in self.shown:
            assert time.monotonic() - began < SAFETY_SECONDS, f"{text!r} is not shown\n{self.shown}"
            assert self._read(), f"the program has ended\n{self.shown}"
        return time.monotonic() - began

    def ask(self, line: str, answer: str) -> str:
        """Type a line, wait for an answer to it, and return what is shown since."""
        self.shown = ""
        self.press(line.encode() + b"\r")
        self.wait_for(answer)
        return self.shown

    def read_during(self, call: Callable[[], Result]) -> Result:
        """Call a function in a thread; the program would stop at a terminal that nobody reads."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call)
            while not future.done():
                self._read()
            return future.result()

    def wait(self) -> int:
        """Read to the end, and return the exit code."""
        deadline = time.monotonic() + SAFETY_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"the program does not end\n{self.shown}"
            if self._ours >= 0:
                self._read()
            else:
                time.sleep(0.05)
        return self.process.returncode

    def close(self) -> None:
        """Close the window: the system sends SIGHUP to the program, and every later output fails."""
        os.close(self._ours)
        self._ours = -1

    def _read(self) -> bool:
        """Read what is shown within a moment; returns whether the terminal is still open."""
        if select.select([self._ours], [], [], 0.1)[0]:
            try:
                self.shown += os.read(self._ours, 1 << 16).decode(errors="replace")
            except OSError:  # no process has it open any more
                return False
        return True


def _take_terminal(descriptor: int) -> None:
    """Make a terminal that of this session."""
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
