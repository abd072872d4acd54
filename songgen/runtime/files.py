"""Files that appear whole and survive a power cut; hashes of their content; room on a disk.

Nothing here loads torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from pathlib import Path

_AT_CWD, _RENAME_EXCHANGE = -100, 2
"""Constants of Linux' renameat2: names are absolute or relative to the current folder; the two are exchanged."""


def synchronize(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # elsewhere a folder cannot be opened
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is on the disk when this returns; a kill in between leaves a part of it."""
    path.write_text(text, encoding="utf-8")
    synchronize(path)


def write_text_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a text file: a reader sees the old content or the new, whenever it looks.

    Args:
        path: of the file; its folder exists.
        text: the new content.
        durable: wait until it is on the disk. Not needed for files that nobody misses after a power cut, such as
            signs of life.

    Raises:
        OSError: if it cannot be written; the old content stays, and no temporary file.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        if durable:
            write_text(temporary, text)
        else:
            temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        synchronize(path.parent)


def remove_temporaries(path: Path) -> None:
    """Remove what kills in the middle of `write_text_atomic` left next to a file. No process may be writing it."""
    for temporary in path.parent.glob(f"{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


def exchange_folders(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot (then nothing has happened)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    return bool(libc.renameat2(_AT_CWD, bytes(first), _AT_CWD, bytes(second), _RENAME_EXCHANGE) == 0)


def file_sha256(path: Path) -> str:
    """Return the hash of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """Return the free room on the disk of a folder; 0 if the folder is gone."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
