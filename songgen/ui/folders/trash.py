"""The trash: deleting a folder moves it there, unless something uses it; until it is emptied, it can be restored."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from songgen.families.use.song_folder import SONG_LOCK_FILE, read_song_request
from songgen.jobs.record import JOB_LOCK_FILE, JOBS_FOLDER, Job, JobView
from songgen.runtime.folder_lock import RUN_LOCK_FILE
from songgen.runtime.folder_owner import Owner, read_owner
from songgen.ui.folders.library import Item, values_of
from songgen.ui.workspace import MOVING, TRASH_FOLDER, Workspace, origin_file, size_of

WORK_LOCK, WORK_ENDING = "lock.json", ".work"
"""Lock file and ending of work folders (`songgen.tokenize.workspace`, which imports torch)."""

LOCKS = (RUN_LOCK_FILE, WORK_LOCK, JOB_LOCK_FILE, SONG_LOCK_FILE)

MAX_FOLDERS = 20_000
"""Maximum number of folders that are looked through for locks; one with more is not deleted."""

RUNS_THERE = "{0}: a run or another command is working in it ({1}). Stop it first"
JOB_WORKS = "{0}: the job {1} is working on it. Wait for it, or stop it on the page of jobs"
TOO_MANY = "{0}: it has too many folders to find out whether one is in use; move or delete it in a terminal"
IS_BASE = "{0} is the base that {1} needs: delete that adapter first, or merge it into a whole model (export)"
IS_READ = "{0}: the run {1} is using it. Stop that run first"
NOT_OURS = "{0} is not deleted here: only data sets, runs and models, and what is in the folders datasets and outputs"
WRONG_NAME = "the name does not match: type {0} to delete it"
NOT_THERE = "there is nothing of this name in the trash"
TAKEN = "{0} exists again: rename it first, and restore then"

_SEPARATORS = re.compile("[+,:]")
"""Characters between the paths of one value, and before the strength of an adapter."""


@dataclass(frozen=True)
class Trashed:
    """A folder or file in the trash."""

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
    places = _folders_inside(folder)
    if len(places) > MAX_FOLDERS:
        yield TOO_MANY.format(workspace.shown(folder))
    yield from (RUNS_THERE.format(workspace.shown(folder), owner) for owner in _owners(folder, places))
    for view in jobs:
        if view.is_active and any(_within(Path(view.job.cwd) / path, folder) for path in _paths_of(view.job)):
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
        if path.suffix == ".json" and not origin_file(path).exists():
            continue  # the record of another entry, which may still be on its way; a configuration has its own
        origin = values_of(origin_file(path))
        folder, when, size = (origin.get(name) for name in ("folder", "time", "size"))
        try:
            moved = when if isinstance(when, int | float) else path.lstat().st_mtime
        except FileNotFoundError:  # restored or removed meanwhile
            continue
        known = size if isinstance(size, int) else size_of(path)
        found.append(Trashed(path.name, folder if isinstance(folder, str) else "", float(moved), known))
    return sorted(found, key=lambda entry: -entry.time)


def restore(workspace: Workspace, trash_id: str) -> Path:
    """Move a folder or file back to where it was, and return its path.

    Raises:
        ValueError: if there is none of this name, its place is not known or taken, or it cannot be moved.
    """
    path = workspace.trash() / trash_id
    if trash_id not in {entry.id for entry in trashed(workspace)}:
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
    with MOVING:  # a record without its entry is of one that is being moved here
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


def holder_of(lock: Path) -> Owner | None:
    """Return the process that holds a lock, or may hold it on a machine that cannot be asked; None if there is none."""
    try:
        owner = read_owner(lock)
    except ValueError:
        return None
    return owner if owner is not None and owner.may_hold else None


def _owners(folder: Path, places: Sequence[Path]) -> Iterator[Owner]:
    """Yield who holds a lock in the folders inside of a folder, or in the work folder of a data set."""
    for place in (*places, folder.with_name(folder.name + WORK_ENDING)):
        yield from filter(None, (holder_of(place / lock) for lock in LOCKS))


def _folders_inside(folder: Path) -> list[Path]:
    """Return a folder and those inside of it; links are not followed. If there are more than `MAX_FOLDERS`, not all."""
    found = [folder]
    for place in found:
        if len(found) > MAX_FOLDERS:
            break
        try:
            with os.scandir(place) as entries:
                found += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
    return found


def _paths_of(job: Job) -> Iterator[str]:
    """Yield the texts of a job that may be paths: its subject, its arguments, and the values of its options.

    The models and adapters of generated songs are not in the command, but in the request that it names.
    """
    for text in (job.subject, *(word.partition("=")[2] or word for word in job.command[2:]), *_requested(job)):
        yield from filter(None, (text, *_SEPARATORS.split(text)))


def _requested(job: Job) -> Iterator[str]:
    """Yield the models and adapters of the songs that a job generates."""
    for name, _, place in (word.partition("=") for word in job.command[2:]):
        if name == "--request":
            try:
                request = read_song_request(Path(job.cwd) / place)
            except ValueError:  # damaged or moved away: the command fails
                continue
            for take in request.takes:
                yield from (take.model, *take.adapter)


def _within(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a text that cannot be a path
        return False
