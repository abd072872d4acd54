"""Atomic and durable writing of files, hashes of files, and free space on a disk.

Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

_AT_CWD, _RENAME_EXCHANGE = -100, 2
"""Constants of Linux' renameat2: paths are relative to the current folder, and the two are exchanged."""


def expand_home(text: str) -> str:
    """Return a path with `~` as the home folder; the shell leaves it in `--key=~/x`, and nothing expands it in JSON."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def synchronize(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to the disk."""
    if os.name != "posix" and path.is_dir():
        return  # elsewhere a folder cannot be opened
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file and flush it to the disk; a kill in between can leave a part of it."""
    path.write_text(text, encoding="utf-8")
    synchronize(path)


def remove_file(path: Path) -> None:
    """Remove a file if it exists; an error is only logged. For clean-up, which must not hide why a program ends."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s could not be removed: %s", path, error)


def write_text_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a text file atomically: a reader sees either the old or the new content.

    Args:
        path: path of the file; its folder exists.
        text: new content.
        durable: whether to flush it to the disk. Not needed for files that are worthless after a power cut, such as
            heartbeats.

    Raises:
        OSError: if it cannot be written; the old content is kept, and no temporary file is left.
    """
    write_bytes_atomic(path, text.encode("utf-8"), durable=durable)


def write_bytes_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file atomically, as `write_text_atomic` does."""
    # Threads may write the same file. The process comes last: the file of one that has ended is removed.
    temporary = path.with_name(f"{path.name}.{threading.get_native_id()}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        if durable:
            synchronize(temporary)
        temporary.replace(path)
    except BaseException:  # also a signal: nothing may be left behind
        remove_file(temporary)
        raise
    if durable:
        synchronize(path.parent)


def append_whole(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Append to a file, all or nothing.

    Args:
        path: path of the file; it is created if it does not exist.
        content: bytes to append.
        durable: whether to flush them, and the name of a new file, to the disk.

    Raises:
        OSError: if they do not fit, or cannot be flushed.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if durable and size == 0:
        synchronize(path.parent)


def remove_temporaries(path: Path) -> None:
    """Remove what kills in the middle of `write_text_atomic` left next to a file. No process may be writing it."""
    for temporary in path.parent.glob(f"{path.name}.*.tmp"):
        remove_file(temporary)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file that may come from anyone, for reading.

    A pipe or device is refused, and cannot block this process.

    Args:
        path: file to read; links are followed.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # Checked after opening, so that the file cannot be replaced in between.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a file that `open_regular` opens.

    Args:
        path: file to read; links are followed.
        max_bytes: maximum size.

    Raises:
        OSError: if it cannot be opened or read.
        ValueError: if it is not a regular file, or larger than the maximum.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    return content


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that gets its name by one rename when the block ends; after an error nothing is left.

    Args:
        path: final path; nothing has this name yet.

    Raises:
        ValueError: if something has this name, before the block or after it, or its parent cannot be written to.
    """
    require_new(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{path.name}.tmp-", dir=path.parent))
    except OSError as error:
        raise ValueError(f"{path} cannot be created: {error}") from error
    try:
        temporary.chmod(0o777 & ~_umask())  # that of any new folder; only this user may enter a temporary one
        yield temporary
        require_new(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    synchronize(path.parent)


def require_new(path: Path) -> None:
    """Check that nothing has a path yet.

    Raises:
        ValueError: if something has.
    """
    if os.path.lexists(path):
        raise ValueError(f"{path} exists already and is not replaced: remove it, or give another name")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def exchange_folders(first: Path, second: Path) -> bool:
    """Exchange two folders atomically; return False if the system cannot (then nothing was changed)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    return bool(libc.renameat2(_AT_CWD, bytes(first), _AT_CWD, bytes(second), _RENAME_EXCHANGE) == 0)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder; 0 if the folder does not exist."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
