"""The trash: deleting a folder moves it there, unless something uses it; until it is emptied, it can be restored."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from songgen.jobs.record import JOB_LOCK_FILE, JOBS_FOLDER, Job, JobView
from songgen.runtime.folder_lock import RUN_LOCK_FILE
from songgen.runtime.folder_owner import read_owner
from songgen.ui.folders.library import Item, folders_inside, values_of
from songgen.ui.workspace import MOVING, TRASH_FOLDER, Workspace, origin_file

WORK_LOCK, WORK_ENDING = "lock.json", ".work"
"""Lock file and ending of work folders (`songgen.tokenize.workspace`, which imports torch)."""

LOCKS = (RUN_LOCK_FILE, WORK_LOCK, JOB_LOCK_FILE)

RUNS_THERE = "{0}: a run or another command is working in it ({1}). Stop it first"
JOB_WORKS = "{0}: the job {1} is working on it. Wait for it, or stop it on the page of jobs"
IS_BASE = "{0} is the base that {1} needs: delete that adapter first, or merge it into a whole model (export)"
IS_READ = "{0}: the run {1} is using it. Stop that run first"
NOT_OURS = "{0} is not deleted here: only data sets, runs and models, and what is in the folders datasets and outputs"
WRONG_NAME = "the name does not match: type {0} to delete it"
NOT_THERE = "there is nothing of this name in the trash"
TAKEN = "{0} exists again: rename it first, and restore then"

_SEPARATORS = re.compile("[+,:]")
"""Characters between the paths of one value, and before the strength of an adapter."""

_ID = re.compile(r"\d{8}-\d{6}-[^/\0]{1,255}")


@dataclass(frozen=True)
class Trashed:
    """A folder in the trash."""

    id: str
    """Name in the trash folder."""

    folder: str
    """Path at which it was; empty if that is not known."""

    time: float
    """Time at which it was deleted, in seconds since 1970."""

    size: int
    """Size of everything in it, in bytes."""


def delete(workspace: Workspace, folder: Path, name: str, items: Sequence[Item], jobs: Sequence[JobView]) -> Path:
    """Move a folder to the trash folder, and return its path there.

    Args:
        workspace: folders of the page.
        folder: real path of the folder.
        name: its name, typed by the user.
        items: everything that there is, which may need the folder.
        jobs: the jobs.

    Raises:
        ValueError: if the name is another one, the folder is not one to delete, or it is in use.
    """
    shown = workspace.shown(folder)
    if name.strip() != folder.name:
        raise ValueError(WRONG_NAME.format(folder.name))
    if not is_deletable(workspace, folder, items):
        raise ValueError(NOT_OURS.format(shown))
    if (reason := next(uses(workspace, folder, items, jobs), None)) is not None:
        raise ValueError(reason)
    return workspace.move_to_trash(folder)


def is_deletable(workspace: Workspace, folder: Path, items: Sequence[Item]) -> bool:
    """Return whether a folder is a data set, run, model or part of one, or is below `datasets` or `outputs`."""
    kept = (workspace.jobs, workspace.root / TRASH_FOLDER)
    if any(place.is_relative_to(folder) or folder.is_relative_to(place) for place in kept):
        return False
    known = {workspace.root / item.folder for item in items}
    inside = (workspace.root / "datasets", workspace.root / JOBS_FOLDER.parent)
    return folder in known or folder.parent in known or any(place in folder.parents for place in inside)


def uses(workspace: Workspace, folder: Path, items: Sequence[Item], jobs: Sequence[JobView]) -> Iterator[str]:
    """Yield why a folder cannot be deleted now."""
    for owner in _owners(folder):
        yield RUNS_THERE.format(workspace.shown(folder), owner)
    for view in jobs:
        if view.is_active and any(_within(workspace.root / path, folder) for path in _paths_of(view.job)):
            yield JOB_WORKS.format(workspace.shown(folder), view.job.title)
    for item in items:
        if (workspace.root / item.folder).is_relative_to(folder):
            continue  # deleted with it
        if item.is_adapter and item.base and _within(workspace.root / item.base, folder):
            yield IS_BASE.format(workspace.shown(folder), item.folder)
        read = [name for name in (item.data, item.base) if name]
        if item.state == "running" and any(_within(workspace.root / name, folder) for name in read):
            yield IS_READ.format(workspace.shown(folder), item.folder)


def trashed(workspace: Workspace) -> list[Trashed]:
    """Return what is in the trash, newest first."""
    place = workspace.trash()
    found = []
    for path in place.iterdir() if place.is_dir() else ():
        if path.suffix == ".json" and path.is_file():
            continue
        origin = values_of(origin_file(path))
        folder, when = origin.get("folder"), origin.get("time")
        moved = when if isinstance(when, int | float) else path.lstat().st_mtime
        found.append(Trashed(path.name, folder if isinstance(folder, str) else "", float(moved), size_of(path)))
    return sorted(found, key=lambda entry: -entry.time)


def restore(workspace: Workspace, trash_id: str) -> Path:
    """Move a folder back to where it was, and return its path.

    Raises:
        ValueError: if there is none of this name, its place is not known or taken, or it cannot be moved.
    """
    path = workspace.trash() / trash_id
    if not _ID.fullmatch(trash_id) or not path.is_dir():
        raise ValueError(NOT_THERE)
    origin = values_of(origin_file(path)).get("folder")
    # The record could have been changed: the place must be in the folders of the page, as for any path.
    target = workspace.path(origin if isinstance(origin, str) else "", "folder")
    with MOVING:
        if target.exists():
            raise ValueError(TAKEN.format(workspace.shown(target)))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
            origin_file(path).unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(f"{trash_id} could not be moved to {workspace.shown(target)}: {error}") from error
    return target


def empty(workspace: Workspace) -> int:
    """Remove everything in the trash for good, and return its size in bytes.

    Raises:
        ValueError: if something cannot be removed.
    """
    freed = 0
    for entry in trashed(workspace):
        path = workspace.trash() / entry.id
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            origin_file(path).unlink(missing_ok=True)
        except OSError as error:
            raise ValueError(f"{entry.id} could not be removed: {error}") from error
        freed += entry.size
    return freed


def size_of(path: Path) -> int:
    """Return the size of all files in a folder, in bytes; links are not followed."""
    total, places = 0, [path]
    while places:
        place = places.pop()
        try:
            if place.is_dir() and not place.is_symlink():
                places += place.iterdir()
            else:
                total += place.lstat().st_size
        except OSError:  # removed meanwhile
            continue
    return total


def _owners(folder: Path) -> Iterator[str]:
    """Yield who holds a lock in a folder, or in the work folder of a data set."""
    for place in (*folders_inside(folder), folder.with_name(folder.name + WORK_ENDING)):
        for lock in LOCKS:
            try:
                owner = read_owner(place / lock)
            except ValueError:
                continue
            if owner is not None and owner.may_hold:
                yield str(owner)


def _paths_of(job: Job) -> Iterator[str]:
    """Yield the texts of a job that may be paths: its subject, its arguments, and the values of its options."""
    for text in (job.subject, *(word.partition("=")[2] or word for word in job.command[2:])):
        yield from filter(None, (text, *_SEPARATORS.split(text)))


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)
