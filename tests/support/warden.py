"""Ends what tests have started: after each test, and when pytest itself has ended, in whatever way.

Every process that a test starts inherits an environment variable with the name of the pytest process, also those that a
launcher starts in sessions of their own. As a program, this file waits for the end of its standard input, which is the
end of pytest, and kills what still has that variable.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "SONGGEN_TESTS"
"""Environment variable with the name of the pytest process that something was started by."""

LASTING = (b"resource_tracker", b"forkserver", b"_inductor")
"""Parts of the command lines of libraries' helpers, which belong to the pytest process and not to one test."""

_ROUNDS, _ROUND_SECONDS = 50, 0.1
"""Rounds in which a warden looks again: what it has just killed may have been starting something."""


def marked_processes(name: str, variable: str = VARIABLE) -> set[int]:
    """Return the processes with this name in their environment, as it was when they began; never this one."""
    mark = f"{variable}={name}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:  # another user's, or it has just ended
            continue
    return found


def is_lasting(pid: int) -> bool:
    """Return whether a process is a helper of a library that later tests use as well."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(part in line for part in LASTING)


def end(pids: set[int]) -> None:
    """Kill processes; those that have ended already are fine."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def start_warden(name: str) -> "subprocess.Popen[bytes]":
    """Start a warden for this process. It is in a session of its own, so that Ctrl-C does not reach it."""
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    command = [sys.executable, "-S", "-E", __file__, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


def main() -> None:
    """Wait for the end of pytest, and end what it left."""
    sys.stdin.buffer.read()
    for _ in range(_ROUNDS):
        left = marked_processes(sys.argv[1])
        if not left:
            return
        end(left)
        time.sleep(_ROUND_SECONDS)


if __name__ == "__main__":
    main()
