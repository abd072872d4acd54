"""Lock of a folder, so that only one run writes to it: a file that the system locks, and that names its holder.

Who holds a folder is decided by the system's lock. The process and host in the file are only for messages: a restarted
container has another host name every time, and its predecessor cannot be asked. Only where locks may not reach other
machines (network file systems) does the file decide as well: its holder touches it every few seconds, and one that was
not touched for a minute has no holder any more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from songgen.runtime.json_files import parse_json

logger = logging.getLogger(__name__)

RUN_LOCK_FILE = ".run.lock"
"""Lock file in the output folder of a training run."""

_LOCK_BYTES = 4096
_LOCKED = (errno.EAGAIN, errno.EACCES)
_ENDED = ("Z", "X")
"""States of a process that has ended: zombie, dead."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system without locks; then the holder's process is checked instead."""

_TEMPORARY_NAME = re.compile(r".+\.(\d{1,18})(?:\.spill)?\.tmp")
"""Name of a temporary file, with the number of the process that writes it."""
_LOCAL_FILE_SYSTEMS = frozenset(
    "apfs bcachefs btrfs exfat ext2 ext3 ext4 f2fs fuseblk hfs jfs ntfs ntfs3 overlay ramfs reiserfs tmpfs vfat xfs "
    "zfs".split()
)
"""File systems that one machine uses at a time: everyone who can see a file asks the same system for its lock."""

TOUCH_SECONDS = 10.0
"""Seconds between two touches of the lock file by its holder."""

FRESH_SECONDS = 60.0
"""Seconds without a touch after which a holder on another machine counts as gone."""

_LOOK_SECONDS = 1.0
"""Seconds between two looks at a lock file of another machine."""


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
    with locked_without_thread(folder, name) as touch:
        is_over = threading.Event()
        toucher = threading.Thread(target=_keep_fresh, args=(touch, is_over), name="lock", daemon=True)
        toucher.start()
        try:
            yield
        finally:
            is_over.set()
            toucher.join(TOUCH_SECONDS)  # the number of a closed descriptor may be another file's next


@contextmanager
def locked_without_thread(folder: Path, name: str) -> Iterator[Callable[[], None]]:
    """Lock a folder as `locked` does, and leave it to the holder to touch the lock file every `TOUCH_SECONDS`.

    Yields:
        Function that touches the file. It is not opened again: see `locked`.
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
        remove_dead_temporaries(folder)
        yield partial(_touch, descriptor)
    finally:
        with suppress(OSError):  # must not hide why the run ends; the lock itself is released below
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _keep_fresh(touch: Callable[[], None], is_over: threading.Event) -> None:
    """Touch the lock file until the lock is released."""
    while not is_over.wait(TOUCH_SECONDS):
        touch()


def _touch(descriptor: int) -> None:
    with suppress(OSError):  # a disk that does not answer for a while
        os.utime(descriptor)


def _locked_file(path: Path) -> int:
    """Lock the file, write this process's number and host into it, and return its descriptor.

    Raises:
        ValueError: if another process holds it.
        OSError: if it cannot be written.
    """
    _wait_for_other_machine(path)
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _require_free(path, descriptor)
            # The last holder may have removed the file between `open` and the lock. Then this lock is on a file without
            # a name, which keeps no other process out: try again.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                own = {"pid": os.getpid(), "host": socket.gethostname(), "touched_every": TOUCH_SECONDS}
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(own).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _require_free(path: Path, descriptor: int) -> None:
    """Take the system's lock of an open file.

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
    holder = _holder(os.pread(descriptor, _LOCK_BYTES, 0))
    if holder is None:
        if taken:
            raise ValueError(f"{path.parent} is in use by a run that is just starting")
        return
    pid, is_here = int(holder["pid"]), holder["host"] == socket.gethostname()
    if taken or (taken is None and is_here and pid != os.getpid() and is_alive(pid)):
        raise ValueError(_in_use(path, holder))


def _wait_for_other_machine(path: Path) -> None:
    """Check that no run on another machine holds a folder whose file system may not share locks between machines.

    A holder that was killed a moment ago looks alive, so this waits until its file is touched again or has become old.

    Raises:
        ValueError: if such a run holds it.
        OSError: if the folder cannot be read.
    """
    if has_local_locks(path.parent):
        return
    first: int | None = None
    while True:
        try:
            touched, holder = path.stat().st_mtime_ns, _holder(path.read_bytes())
        except FileNotFoundError:
            return
        if holder is None or holder["host"] == socket.gethostname():
            return
        if "touched_every" not in holder or (first is not None and touched != first):
            raise ValueError(_in_use(path, holder))
        age = _now_there(path.parent) - touched / 1e9
        if age > FRESH_SECONDS:
            logger.warning("process %s on %s has left %s locked %.0f s ago", holder["pid"], holder["host"], path, age)
            return
        if first is None:
            logger.warning("%s; looking for up to %.0f s whether it is alive", _in_use(path, holder), FRESH_SECONDS)
        first = touched
        time.sleep(_LOOK_SECONDS)


def has_local_locks(folder: Path) -> bool:
    """Return whether everyone who can write to a folder asks the same system for locks; False if it is not known."""
    import psutil

    place = folder.resolve()
    mounts = [entry for entry in psutil.disk_partitions(all=True) if place.is_relative_to(entry.mountpoint)]
    nearest = max(mounts, key=lambda entry: len(entry.mountpoint), default=None)
    return nearest is not None and nearest.fstype in _LOCAL_FILE_SYSTEMS


def _now_there(folder: Path) -> float:
    """Return the time by the clock of the machine that keeps a folder, which may not be that of this machine."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def _holder(content: bytes) -> dict[str, Any] | None:
    """Return what a lock file says of its holder; None if it is not written yet, or cannot be read."""
    try:
        holder = parse_json(content)
        return {**holder, "pid": int(holder["pid"]), "host": str(holder["host"])}
    except (ValueError, KeyError, TypeError):
        return None


def _in_use(path: Path, holder: dict[str, Any]) -> str:
    """Return that a folder is in use, by whom, and what to do."""
    return (
        f"{path.parent} is in use by process {holder['pid']} on {holder['host']}; wait for it or choose another folder "
        f"(if that process has ended, remove {path})"
    )


def remove_dead_temporaries(folder: Path) -> None:
    """Remove temporary files, named `NAME.PID.tmp`, of processes that have ended, also in folders inside.

    Only the holder of the folder's lock may call this: then they are left by a kill or a full disk. Those of living
    processes of this machine are kept: they may be other processes of the same launch.
    """
    for place, _, names in os.walk(folder):  # links to folders are not followed
        for name in names:
            found = _TEMPORARY_NAME.fullmatch(name)
            if found is not None and (int(found[1]) == os.getpid() or not is_alive(int(found[1]))):
                with suppress(OSError):
                    Path(place, name).unlink()


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs. One that has ended, and waits for its parent, does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has a number that is too large for the system
        return False
    except PermissionError:
        return True
    try:
        # The state follows the name, which is in parentheses and may contain anything, also parentheses.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in _ENDED
    except (OSError, IndexError):
        return True  # a system without /proc, or it has just ended
