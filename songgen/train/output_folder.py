"""Output folder of a run: whether it may be used, its lock, and the backup of an earlier run in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from songgen.adapters.folder import is_adapter_folder
from songgen.data.integrity import VERIFIED_FILE
from songgen.runtime import folder_lock
from songgen.runtime.folder_lock import RUN_LOCK_FILE as RUN_LOCK_FILE
from songgen.runtime.model_folders import model_config_file
from songgen.runtime.processes.heartbeat import is_heartbeat
from songgen.runtime.status import EVALUATION_STATUS_FILE, RUN_STATUS_FILE
from songgen.train.checkpoints.files import RUN_CONFIG_FILE
from songgen.train.checkpoints.folders import checkpoint_folders
from songgen.train.reporting.console import CONSOLE_FILE
from songgen.train.reporting.progress_file import PROGRESS_FILE


def require_usable(folder: Path, *, resume: str, overwrite: bool) -> None:
    """Check that a run may write to a folder: it is new, empty, or holds the run that is resumed.

    Raises:
        ValueError: if it holds something else, or cannot be written to; the message says what to change.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file; name a folder")
    found = sorted(entry.name for entry in folder.iterdir() if entry.name != RUN_LOCK_FILE) if folder.exists() else []
    if found and RUN_CONFIG_FILE not in found and not overwrite:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"output_dir {folder} holds files that no training run wrote ({listed}); choose another folder, or set "
            "overwrite_output_dir to true to write to it all the same"
        )
    if found and RUN_CONFIG_FILE in found and resume == "never" and not overwrite:
        raise ValueError(
            f"output_dir {folder} holds a run already, and resume is 'never'; choose another folder, set resume to "
            "'auto' to continue it, or overwrite_output_dir to true to move it to a backup and start again"
        )
    parent = next(entry for entry in (folder, *folder.absolute().parents) if entry.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {folder} cannot be written to; choose another folder or change its permissions")


def require_way_back(folder: Path) -> None:
    """Check that a run whose checkpoints are gone does not start again and replace its trained model.

    Raises:
        ValueError: if the folder holds a model but no checkpoint, not even a damaged one.
    """
    if has_lone_model(folder):
        raise ValueError(
            f"output_dir {folder} holds a trained model, but no checkpoint to resume from, and a new run would "
            "replace it. Restore a checkpoint; or train the model further, with this folder as model_name_or_path and "
            "another output_dir; or set overwrite_output_dir to true to move it to a backup and start again"
        )


def has_lone_model(folder: Path) -> bool:
    """Return whether a run's folder holds its model or adapter but no checkpoint, not even a damaged one."""
    is_written = model_config_file(folder) is not None or is_adapter_folder(folder)
    return is_written and not checkpoint_folders(folder)


def back_up_run(folder: Path) -> Path | None:
    """Move the run in a folder to a backup folder next to it, so that a new run can start. Nothing is deleted.

    Returns:
        The backup folder, `<folder>.backup-<number>`; None if the folder holds no run (other files are kept), or only
        the files of a run that was refused before it trained.
    """
    entries = [entry for entry in folder.iterdir() if entry.name != RUN_LOCK_FILE]
    trifles = {RUN_CONFIG_FILE, RUN_STATUS_FILE, EVALUATION_STATUS_FILE, VERIFIED_FILE, PROGRESS_FILE, CONSOLE_FILE}
    has_content = any(entry.name not in trifles and not is_heartbeat(entry.name) for entry in entries)
    if not (folder / RUN_CONFIG_FILE).exists() or not has_content:
        return None
    number = 1
    while (backup := folder.with_name(f"{folder.name}.backup-{number}")).exists():
        number += 1
    backup.mkdir()
    # The configuration marks a folder as a run's. It is moved last, so that an interrupted move is continued next time.
    for entry in sorted(entries, key=lambda entry: entry.name == RUN_CONFIG_FILE):
        shutil.move(entry, backup / entry.name)
    return backup


def require_outside(folder: Path, inputs: Mapping[str, str]) -> None:
    """Check that a run reads nothing from a folder whose contents are about to be moved away.

    Args:
        folder: output folder of the run.
        inputs: key of the configuration -> path; hub ids are not local paths, and pass.

    Raises:
        ValueError: if it does; the message names the keys.
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


def locked(folder: Path) -> AbstractContextManager[None]:
    """Lock an output folder against other runs; see `songgen.runtime.folder_lock.locked`."""
    return folder_lock.locked(folder, RUN_LOCK_FILE)
