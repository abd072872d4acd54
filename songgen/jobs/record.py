"""Folders of jobs: what was started, and how it stands.

A folder may come from anyone. What is not a job folder as this version writes it is skipped, and texts for users have
one line without control characters.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from songgen.runtime.files import write_text_atomic
from songgen.runtime.folder_owner import read_owner
from songgen.runtime.json_files import read_json
from songgen.runtime.records import Format
from songgen.runtime.status import MAX_TIME, RunStatus, read_run_status
from songgen.runtime.terminal import printable

JOBS_FOLDER = Path("outputs") / "jobs"
"""Folder of the jobs in a workspace, which is the folder with `datasets` and `outputs`."""

JOB_FILE = "job.json"
JOB_STATUS_FILE = "job_status.json"
LOG_FILE = "log.txt"
STOP_FILE = "stop"
JOB_LOCK_FILE = ".job.lock"
"""Names of files in the folder of a job."""

START_SECONDS = 30.0
"""Seconds after its creation in which a job without a status counts as running: its process is starting."""

MAX_TITLE = 200
"""Maximum number of characters of a title."""

_MAX_BYTES = 1 << 20
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[a-z0-9_]{1,24}-[0-9a-f]{4}")
_ATTEMPTS = 100

_MAX_ENDED = 50_000


@dataclass(frozen=True)
class Job:
    """Command that runs, or ran, in a process of its own."""

    id: str
    """Name of the job and of its folder: local time, subcommand and random digits."""
    title: str
    """Short description for users, one line."""
    command: tuple[str, ...]
    """Command as typed by a user."""
    cwd: str
    """Folder in which the command runs."""
    created: float
    """Time of the start, in seconds since 1970."""
    subject: str = ""
    """Folder or file that the command writes or works on; empty for none."""
    schema_version: int = 1
    """Version of this record."""

    def __post_init__(self) -> None:
        """Check the values, which may come from a file, and bring the title into one line."""
        texts = (self.id, self.title, self.cwd, self.subject, *self.command)
        if not all(isinstance(text, str) for text in texts) or not self.command:
            raise TypeError("id, title, cwd, subject and the words of command are texts")
        if not isinstance(self.created, int | float) or not 0 <= self.created <= MAX_TIME:
            raise ValueError("created is not a time")
        object.__setattr__(self, "title", one_line(self.title)[:MAX_TITLE])

    @property
    def name(self) -> str:
        """Name of the subcommand, such as `tokenize`; of another program, its own name."""
        return _name_of(self.command)


_FORMAT = Format(Job, 1, "start the command again")

JobState = Literal["running", "finished", "stopped", "failed", "lost"]


@dataclass(frozen=True)
class JobView:
    """Job and its present state."""

    job: Job
    """What was started."""
    folder: Path
    """Folder of the job."""
    state: JobState
    """State of the job; `lost`: its supervisor was killed, so that how it ended is not known."""
    status: RunStatus | None
    """Content of its status file; None before there is one."""

    @property
    def is_active(self) -> bool:
        """Whether the command runs, or is about to."""
        return self.state == "running"

    def works_on(self, subject: str | Path) -> bool:
        """Return whether it works on a folder or file; a relative path begins in the folder in which the job runs."""
        own, other = (os.path.normpath(os.path.join(self.job.cwd, path)) for path in (self.job.subject, subject))
        return bool(self.job.subject) and own == other


def one_line(text: str) -> str:
    """Return a text of unknown origin in one line that can be printed: no control characters, no lone surrogates."""
    return " ".join(printable(text).encode("utf-8", "replace").decode().split())


_ended: dict[Path, tuple[int, JobView]] = {}
"""Folder of a job that has ended -> time of its last change, and the job."""


def is_job_id(text: str) -> bool:
    """Return whether a text has the form of an id, and so is a safe name of a folder."""
    return _ID.fullmatch(text) is not None


def find_jobs(jobs_folder: Path) -> list[JobView]:
    """Return the jobs in a folder, newest first. What is not a readable job folder is skipped."""
    found: list[tuple[str, int]] = []
    try:
        with os.scandir(jobs_folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and is_job_id(entry.name):
                    with suppress(FileNotFoundError):  # it is being removed; the others still count
                        found.append((entry.name, entry.stat(follow_symlinks=False).st_mtime_ns))
    except OSError:  # usually because nothing was ever started
        return []
    views = [view for name, changed in found if (view := _remembered(jobs_folder / name, changed)) is not None]
    return sorted(views, key=lambda view: (view.job.created, view.job.id), reverse=True)


def _remembered(folder: Path, changed: int) -> JobView | None:
    """Return the job in a folder, which is read once it has ended only if the folder has changed.

    A page asks for the list every few seconds, and reading 10,000 jobs takes as long.

    Args:
        folder: folder of the job.
        changed: time of the last change of the folder, in nanoseconds.
    """
    known = _ended.get(folder)
    if known is not None and known[0] == changed:
        return known[1]
    view = _view(folder)
    if view is not None and not view.is_active:
        if len(_ended) >= _MAX_ENDED:
            _ended.clear()
        _ended[folder] = (changed, view)
    return view


def newest_job(views: Iterable[JobView], subject: str | Path, names: Collection[str] = ()) -> JobView | None:
    """Return the newest job that works on a folder or file; one that runs comes before those that have ended.

    Args:
        views: jobs, the newest first.
        subject: the folder or file.
        names: names of subcommands; empty for all.
    """
    found = [view for view in views if (not names or view.job.name in names) and view.works_on(subject)]
    return next((view for view in found if view.is_active), found[0] if found else None)


def read_job(jobs_folder: Path, job_id: str) -> JobView:
    """Return a job.

    Raises:
        ValueError: if there is no such job, or its folder is damaged.
    """
    folder = jobs_folder / job_id
    view = _view(folder) if is_job_id(job_id) and folder.is_dir() and not folder.is_symlink() else None
    if view is None:
        raise ValueError(f"there is no job {printable(job_id)!r} in {jobs_folder}; `songgen jobs` lists them")
    return view


def create_job(jobs_folder: Path, command: Sequence[str], *, title: str, cwd: Path, subject: str = "") -> Path:
    """Create the folder of a job that is about to start, and return it.

    Raises:
        ValueError: if it cannot be written.
    """
    created = time.time()
    try:
        jobs_folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            job = Job(_new_id(created, _name_of(command)), title, tuple(command), str(cwd), created, subject)
            folder = jobs_folder / job.id
            try:
                folder.mkdir()
            except FileExistsError:  # another job of this second has the same digits
                continue
            write_text_atomic(folder / JOB_FILE, json.dumps(dataclasses.asdict(job), indent=1) + "\n")
            return folder
        raise FileExistsError("no free id was found")
    except OSError as error:
        raise ValueError(f"no job can be started: {jobs_folder} cannot be written to ({error})") from error


def read_record(folder: Path) -> Job:
    """Return what was started in the folder of a job.

    Raises:
        ValueError: if the file is missing or damaged, or belongs into another folder.
    """
    job = _FORMAT.read(read_json(folder / JOB_FILE, max_bytes=_MAX_BYTES), JOB_FILE)
    if job.id != folder.name:
        raise ValueError(f"{folder / JOB_FILE} has the id of another job, {job.id}")
    return job


def _view(folder: Path) -> JobView | None:
    """Return the job in a folder; None if it cannot be read."""
    try:
        job = read_record(folder)
    except ValueError:
        return None
    state, status = _state(folder, job)
    return JobView(job, folder, state, status)


def _state(folder: Path, job: Job) -> tuple[JobState, RunStatus | None]:
    """Return the state of a job and its status.

    The supervisor takes the lock before it writes the first status, and releases it after it has written the last one.
    So a job whose status is `running` has had its lock taken; if the lock is free now, the status is read once more,
    because the job may have ended between the two looks.
    """
    status = read_run_status(folder, JOB_STATUS_FILE)
    if status is not None and status.status != "running":
        return status.status, status
    if _is_locked(folder):
        return "running", status
    status = read_run_status(folder, JOB_STATUS_FILE)
    if status is None and abs(time.time() - job.created) < START_SECONDS:
        return "running", None
    return ("lost" if status is None or status.status == "running" else status.status), status


def _is_locked(folder: Path) -> bool:
    """Return whether the supervisor of a job runs; one on another machine, which cannot be asked, counts as running."""
    try:
        owner = read_owner(folder / JOB_LOCK_FILE)
    except ValueError:  # it is just being written
        return False
    return owner is not None and owner.may_hold


def _name_of(command: Sequence[str]) -> str:
    """Return the name of the subcommand; of another program than `songgen`, its own name."""
    return command[1] if command[0] == "songgen" and len(command) > 1 else command[0]


def _new_id(created: float, name: str) -> str:
    """Return an id: local time, name, random digits."""
    word = re.sub(r"[^a-z0-9_]+", "_", name.lower())[:24] or "job"
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(created))}-{word}-{secrets.token_hex(2)}"
