"""Owners of folders, from the lock files of runs and of preprocessing, which have the same form."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from songgen.runtime.files import read_regular
from songgen.runtime.folder_lock import has_local_locks, is_alive
from songgen.runtime.json_files import MAX_JSON_BYTES, parse_json

_FLOCK = "hhqqi"
"""Layout of `struct flock` on 64-bit Linux: type, whence, start, length, process."""


@dataclass(frozen=True)
class Owner:
    """Process that wrote a lock file."""

    pid: int
    """Process id."""
    host: str
    """Name of the machine."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    holds_lock: bool | None = None
    """Whether a process of this machine holds the system's lock on the file; None if the system cannot tell."""

    has_local_locks: bool = False
    """Whether the system's lock decides, whatever the name of the machine: a restarted container has another one."""

    @property
    def is_here(self) -> bool:
        """Whether the state of the process can be checked from this machine."""
        return self.host == socket.gethostname() or self.has_local_locks

    @property
    def is_alive(self) -> bool:
        """Whether the process is alive on this machine; a later process with the same id does not hold the lock."""
        if self.host != socket.gethostname():  # another container, whose process ids are not those seen here
            return self.is_here and self.holds_lock is True
        return is_alive(self.pid) and (self.holds_lock is not False or self.pid == os.getpid())

    @property
    def may_hold(self) -> bool:
        """Whether the process holds the folder, as far as is known: one on another machine cannot be asked."""
        return self.is_alive or not self.is_here


def read_owner(path: Path) -> Owner | None:
    """Return the owner named in a lock file; None if there is no such file.

    Raises:
        ValueError: if the file cannot be read.
    """
    try:
        content = parse_json(read_regular(path, MAX_JSON_BYTES))
        return Owner(int(content["pid"]), str(content["host"]), _is_locked(path), has_local_locks(path.parent))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise ValueError(f"it cannot be read ({type(failure).__name__}: {failure})") from failure


def _is_locked(path: Path) -> bool | None:
    """Return whether another process holds the lock of a file, without taking it; None if the system cannot tell."""
    question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return None
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind != fcntl.F_UNLCK
