"""The folder of a run: whether it may be used, and by whom."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from songgen.train.checkpoint_files import CONFIG_FILE as RESOLVED_CONFIG_FILE

LOCK_FILE = ".run.lock"
_LOCK_BYTES = 4096
_LOCKED = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that knows no locks; then the holder's process is looked for."""


def require_usable(folder: Path, *, resume: str, overwrite: bool) -> None:
    """Check that a run may write to a folder: it is new, empty, or holds a run that this one goes on with.

    Raises:
        ValueError: it holds something else, or cannot be written to; the message says what to change.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file; name a folder")
    found = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK_FILE) if folder.exists() else []
    if found and RESOLVED_CONFIG_FILE not in found and not overwrite:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"output_dir {folder} holds files that no training run wrote ({listed}); choose another folder, or set "
            "overwrite_output_dir to true to write beside them"
        )
    if found and RESOLVED_CONFIG_FILE in found and resume == "never" and not overwrite:
        raise ValueError(
            f"output_dir {folder} holds a run already, and resume is 'never'; choose another folder, set resume to "
            "'auto' to go on with it, or overwrite_output_dir to true to move it to a backup and start anew"
        )
    parent = next(entry for entry in (folder, *folder.absolute().parents) if entry.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {folder} cannot be written to; choose another folder or change its permissions")


def back_up_run(folder: Path) -> Path | None:
    """Move the run that a folder holds to a folder beside it, so that a new one can start; nothing is deleted.

    Returns:
        where it lies now, `<folder>.backup-<number>`; None if the folder holds no run (foreign files stay).
    """
    if not (folder / RESOLVED_CONFIG_FILE).exists():
        return None
    number = 1
    while (backup := folder.with_name(f"{folder.name}.backup-{number}")).exists():
        number += 1
    backup.mkdir()
    # The configuration says that a folder holds a run: moved last, an interrupted move is taken up again.
    entries = [entry for entry in folder.iterdir() if entry.name != LOCK_FILE]
    for entry in sorted(entries, key=lambda entry: entry.name == RESOLVED_CONFIG_FILE):
        shutil.move(entry, backup / entry.name)
    return backup


def require_outside(folder: Path, inputs: Mapping[str, str]) -> None:
    """Check that what a run reads does not lie in a folder whose content is about to be moved away.

    Args:
        folder: of the run.
        inputs: key of the configuration -> path (hub ids are no paths here, and pass).

    Raises:
        ValueError: naming the keys.
    """
    inside = [
        f"{key} {path}"
        for key, path in inputs.items()
        if Path(path).exists() and Path(path).resolve().is_relative_to(folder.resolve())
    ]
    if inside:
        raise ValueError(
            f"overwrite_output_dir moves what is in {folder} to a backup, but the run reads {', '.join(inside)} there; "
            "choose another output_dir"
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes to it.

    The system keeps the lock for as long as this process lives, however it ends: after a crash nothing has to be
    cleaned up, and a process that has the number of a dead one by chance is no obstacle. The file says who holds it.

    Raises:
        ValueError: another run that is alive, or may be on another machine, holds the folder; or nothing can be written
            there.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked_file(path)
    except OSError as error:
        raise ValueError(
            f"output_dir {folder} cannot be written to ({error}); choose another folder or change its permissions"
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
            f"{path.parent} is in use by process {pid} on {host}; wait for it or choose another output_dir "
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
