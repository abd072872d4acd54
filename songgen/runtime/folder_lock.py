"""Lock of a folder, so that only one run writes to it: a file that names its holder and is locked by the system."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK_BYTES = 4096
_LOCKED = (errno.EAGAIN, errno.EACCES)
_ENDED = ("Z", "X")
"""States of a process that has ended: zombie, dead."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system without locks; then the holder's process is checked instead."""


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Lock a folder against other runs in this context. The folder is created if it does not exist.

    The system holds the lock until this process ends, in whatever way: nothing needs to be cleaned up after a crash,
    and a new process with the number of a dead one does not matter. The file names the holder for messages. The holder
    must not open the file again: closing it would release the lock (POSIX locks belong to a process, not a descriptor).

    Args:
        folder: folder to lock.
        name: name of the lock file in it.

    Raises:
        ValueError: if another run holds the folder (alive here, or possibly alive on another machine), or the folder
            cannot be written to.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked_file(path)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to ({error}); choose another folder or change its permissions"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked_file(path: Path) -> int:
    """Lock the file, write this process's number and host into it, and return its descriptor.

    Raises:
        ValueError: if another process holds it.
        OSError: if it cannot be written.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _require_free(path, descriptor)
            # The last holder may have removed the file between `open` and the lock. Then this lock is on a file without
            # a name, which keeps no other process out: try again.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                own = {"pid": os.getpid(), "host": socket.gethostname()}
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(own).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _require_free(path: Path, descriptor: int) -> None:
    """Take the system's lock of an open file, and check that it is not held on another machine.

    Raises:
        ValueError: if another process holds it.
        OSError: if the file cannot be locked.
    """
    taken: bool | None = False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # loader workers do not inherit it
    except OSError as error:
        if error.errno not in (*_LOCKED, *_NO_LOCKS):
            raise
        taken = True if error.errno in _LOCKED else None
    try:
        holder = json.loads(os.pread(descriptor, _LOCK_BYTES, 0))
        pid, host = int(holder["pid"]), str(holder["host"])
    except (ValueError, KeyError, TypeError):
        if taken:
            raise ValueError(f"{path.parent} is in use by a run that is just starting") from None
        return
    # A network file system may not share locks between machines, so a holder on another host is trusted by its file.
    is_foreign = host != socket.gethostname()
    if taken or is_foreign or (taken is None and pid != os.getpid() and is_alive(pid)):
        raise ValueError(
            f"{path.parent} is in use by process {pid} on {host}; wait for it or choose another folder "
            f"(if that process has ended, remove {path})"
        )


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs. One that has ended, and waits for its parent, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # The state follows the name, which is in parentheses and may contain anything, also parentheses.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in _ENDED
    except (OSError, IndexError):
        return True  # a system without /proc, or it has just ended
