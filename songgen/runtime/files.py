"""Atomic and durable writing of files, hashes of files, and free space on a disk.

Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from pathlib import Path

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
