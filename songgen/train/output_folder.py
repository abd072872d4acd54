"""The folder of a run: whether it may be used, and by whom."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from songgen.train.checkpoint_files import CONFIG_FILE as RESOLVED_CONFIG_FILE

LOCK_FILE = ".run.lock"
RUN_ENTRIES = (
    "checkpoints",
    "checkpoint-*",
    ".tmp-*",
    "metrics.jsonl",
    "metrics.superseded.jsonl",
    "non_finite_steps.jsonl",
    "samples",
    "tensorboard",
    "wandb",
    "wandb_run_id.txt",
)
"""What a run writes beside the final model, as patterns."""


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
            "'auto' to go on with it, or overwrite_output_dir to true to replace it"
        )
    parent = next(entry for entry in (folder, *folder.absolute().parents) if entry.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {folder} cannot be written to; choose another folder or change its permissions")


def clear_run(folder: Path) -> None:
    """Remove what an earlier run wrote; files that are not a run's stay."""
    for pattern in RUN_ENTRIES:
        for entry in folder.glob(pattern):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes to it.

    Raises:
        ValueError: another run that is alive, or may be on another machine, holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    own = {"pid": os.getpid(), "host": socket.gethostname()}
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        _require_dead(path, own["host"])
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(own, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _require_dead(path: Path, host: object) -> None:
    """Raise unless the process that wrote a lock has ended."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, holder_host = int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if holder_host == host and not _is_alive(pid):
        return
    raise ValueError(
        f"{path.parent} is in use by process {pid} on {holder_host}; wait for it or choose another output_dir "
        f"(if that process has ended, remove {path})"
    )


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
