"""One run at a time has a folder: a file that names its holder, and that the system keeps locked for it."""

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
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that knows no locks; then the holder's process is looked for."""


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes to it. The folder is made if it is not there.

    The system keeps the lock for as long as this process lives, however it ends: after a crash nothing has to be
    cleaned up, and a process that has the number of a dead one by chance is no obstacle. The file says who holds it.
    The holder must not open it again: closing it would give the lock up.

    Args:
        folder: to be held.
        name: of the file in it.

    Raises:
        ValueError: another run that is alive, or may be on another machine, holds the folder; or nothing can be written
            there.
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
    """Lock a file that names this process.

    Raises:
        ValueError: another process holds it.
        OSError: it cannot be written.
    """
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _require_free(path, descriptor)
            # Its last holder may have removed the file between the two calls; then it is the lock of nobody.
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
    """Take the system's lock of an open file, and see that nobody on another machine holds it.

    Raises:
        ValueError: somebody else has it.
        OSError: the file cannot be locked.
    """
    taken: bool | None = False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # processes that read data do not inherit it
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
    # Locks may not reach other machines, so the file alone has to be believed there.
    is_foreign = host != socket.gethostname()
    if taken or is_foreign or (taken is None and pid != os.getpid() and is_alive(pid)):
        raise ValueError(
            f"{path.parent} is in use by process {pid} on {host}; wait for it or choose another folder "
            f"(if that process has ended, remove {path})"
        )


def is_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
