"""What the work folders of preprocessing and of preparing have in common: their names, and who works there."""

from __future__ import annotations

from pathlib import Path

from songgen.doctor.findings import Finding, ok, warning
from songgen.doctor.owners import read_owner
from songgen.tokenize.workspace import LOCK_FILE

WORK_ENDING = ".work"
"""The work folder of a data set `NAME` is `NAME.work` beside it."""


def work_folder_of(folder: Path) -> Path:
    """Return where the unfinished parts of a data set are kept."""
    return folder.with_name(folder.name + WORK_ENDING)


def activity(folder: Path, what: str) -> tuple[list[Finding], bool]:
    """Say whether somebody works in a work folder.

    Args:
        folder: the work folder.
        what: what the work is called, such as `preprocessing`.

    Returns:
        the findings, and whether somebody does or, from another machine, may.
    """
    lock = folder / LOCK_FILE
    found = []
    try:
        owner = read_owner(lock)
    except ValueError as problem:
        found.append(warning(LOCK_FILE, str(problem), f"remove {lock} if no {what} is active"))
        owner = None
    if owner is not None and owner.is_alive:
        return [*found, ok("activity", f"{what} is active: {owner}")], True
    if owner is not None and not owner.is_here:
        what_is_held = f"the lock is held by {owner}, which cannot be seen from here"
        return [*found, warning("activity", what_is_held, f"if that process has ended, remove {lock}")], True
    return [*found, ok("activity", f"no {what} is active")], False
