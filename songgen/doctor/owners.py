"""Who is writing to a folder: the lock files of runs and of preprocessing, which are the same thing."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from songgen.runtime.folder_lock import is_alive

_FLOCK = "hhqqi"
"""Layout of `struct flock` on 64-bit Linux: kind, origin, start, length, process."""


@dataclass(frozen=True)
class Owner:
    """The process that wrote a lock file."""

    pid: int
    """Its number on its machine."""
    host: str
    """Its machine."""

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"process {self.pid} on {self.host}"

    holds_lock: bool | None = None
    """Whether some process of this machine holds the system's lock of the file; None: the file is not locked so."""

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, so that one can tell whether it lives."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it is a living process of this machine; a later process that got its number holds no lock."""
        return self.is_here and is_alive(self.pid) and (self.holds_lock is not False or self.pid == os.getpid())


def read_owner(path: Path) -> Owner | None:
    """Return the owner that a lock file names.

    Raises:
        ValueError: if there is such a file, and it names nobody.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(int(content["pid"]), str(content["host"]), _is_locked(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise ValueError(f"it cannot be read ({type(failure).__name__}: {failure})") from failure


def _is_locked(path: Path) -> bool | None:
    """Ask the system whether another process has locked a file, without taking the lock; None if it does not say."""
    question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return None
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK
