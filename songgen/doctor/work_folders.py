"""Common parts of the work folders of preprocessing and of preparing: their names and their owners."""

from __future__ import annotations

from pathlib import Path

from songgen.doctor.findings import Finding, ok, warning
from songgen.runtime.folder_owner import read_owner
from songgen.tokenize.workspace import WORK_LOCK_FILE

WORK_ENDING = ".work"
"""Ending of a work folder: that of a data set `NAME` is `NAME.work` next to it."""


def work_folder_of(folder: Path) -> Path:
    """Return the folder with the unfinished parts of a data set."""
    return folder.with_name(folder.name + WORK_ENDING)


def activity(folder: Path, what: str) -> tuple[list[Finding], bool]:
    """Report whether a process is active in a work folder.

    Args:
        folder: Work folder.
        what: Name of the activity, such as `preprocessing`.

    Returns:
        The findings, and whether a process is active, or may be on another machine.
    """
    lock = folder / WORK_LOCK_FILE
    found = []
    try:
        owner = read_owner(lock)
    except ValueError as problem:
        found.append(warning(WORK_LOCK_FILE, str(problem), f"remove {lock} if no {what} is active"))
        owner = None
    if owner is not None and owner.is_alive:
        return [*found, ok("activity", f"{what} is active: {owner}")], True
    if owner is not None and not owner.is_here:
        what_is_held = f"the lock is held by {owner}, which cannot be checked from this machine"
        return [*found, warning("activity", what_is_held, f"if that process has ended, remove {lock}")], True
    return [*found, ok("activity", f"no {what} is active")], False
