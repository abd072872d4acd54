"""Songs that were generated on the page: folders with a request, their state and their files."""

import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from songgen.families.use.generating import OptionGroup, option_groups
from songgen.families.use.song_folder import (
    REQUEST_FILE,
    RESERVED_OPTIONS,
    SONG_LOCK_FILE,
    SONG_STATUS_FILE,
    TEXT_OPTIONS,
    SongRequest,
    Take,
    read_song_request,
    read_song_texts,
    song_files,
    write_song_request,
)
from songgen.jobs.record import JobView, find_jobs, newest_job
from songgen.jobs.starting import start_job
from songgen.runtime.model_folders import CHECKPOINT_NAME
from songgen.runtime.status import RunStatus, read_run_status
from songgen.ui.commands import command_text, command_words, require_parsable
from songgen.ui.folders.library import searched_folders
from songgen.ui.folders.trash import holder_of
from songgen.ui.site import text_in
from songgen.ui.workspace import SONGS_FOLDER, Workspace

ENDINGS = (".wav", ".flac", ".mp3", ".ogg")
"""Formats that browsers play as well."""

MAX_TAKES = 2
"""Models that are compared with one request."""

TICK_NANOSECONDS = 2_000_000_000
"""Time in which two changes of a file may have the same time; FAT has the longest."""

_LETTERS = "abcdefgh"


class Songs:
    """The generated songs of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        """Read nothing yet."""
        self._workspace = workspace
        self.folder = workspace.root / SONGS_FOLDER
        self._changing = threading.Lock()
        self._known: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}
        """Name of a song -> times of the last changes, and what was read."""

    def commands(self, values: Mapping[str, Any], takes: Sequence[Any], ending: str) -> list[list[str]]:
        """Return the commands of each take, as typed by a user.

        Args:
            values: options of `songgen generate`, without those in `RESERVED_OPTIONS`.
            takes: objects with `model` and `adapter`, a list of `FOLDER:STRENGTH`.
            ending: ending of the files.

        Raises:
            ValueError: if a value is wrong.
        """
        if reserved := sorted(RESERVED_OPTIONS & {*values}):
            raise ValueError(f"{', '.join(reserved)}: not an option of a song")
        if ending not in ENDINGS:
            raise ValueError(f"format: one of {', '.join(ENDINGS)} is expected")
        if not 1 <= len(takes) <= MAX_TAKES:
            raise ValueError(f"one or {MAX_TAKES} models are expected")
        commands = []
        for take, name in zip(map(_take, takes, _LETTERS), ["song"] if len(takes) == 1 else _LETTERS, strict=False):
            own = {"model": take.model, "adapter": list(take.adapter), "out": name + ending}
            words = command_words("generate", {**values, **own}, self._workspace)
            require_parsable(words)
            if _is_whole_checkpoint(self._workspace.root / take.model):
                # A request writes the checkpoint out as a model by itself; in a terminal it is a command of its own.
                model = f"--model=model-{name}"
                commands.append(["songgen", "export", model, take.model])
                words = [model if word.startswith("--model=") else word for word in words]
            commands.append(words)
        return commands

    def create(self, values: Mapping[str, Any], takes: Sequence[Any], ending: str) -> Path:
        """Write the folder of a new request, with a seed if none is given, and start to generate.

        Raises:
            ValueError: if a value is wrong, or nothing is said about the song.
        """
        self.commands(values, takes, ending)
        texts = {name: text_in(values, name) if values.get(name) is not None else "" for name in TEXT_OPTIONS}
        if not any(text.strip() for text in texts.values()):
            raise ValueError("a caption or lyrics are needed")
        options = {name: value for name, value in values.items() if name not in texts and value not in (None, "", [])}
        if options.get("seed") is None:
            options["seed"] = secrets.randbelow(1 << 31)
        request = SongRequest(
            tuple(map(_take, takes, _LETTERS)), options=options, ending=ending, created=time.time()
        )  # fmt: skip
        folder = self._new_folder()
        write_song_request(folder, request, texts)
        self.start(folder)
        return folder

    def start(self, folder: Path) -> None:
        """Start to generate the songs of a folder; an earlier try is replaced.

        Raises:
            ValueError: if they are being generated.
        """
        shown = self._workspace.shown(folder)
        words = command_words("generate", {"request": shown}, self._workspace)
        with self._changing:  # so that two browsers do not start it at once
            if self._is_active(folder):
                raise ValueError(f"the songs of {shown} are being generated")
            start_job(self._workspace.jobs, words, title=f"generate {shown}", cwd=self._workspace.root, subject=shown)

    def delete(self, folder: Path) -> None:
        """Move a folder to the trash.

        Raises:
            ValueError: if its songs are being generated, or it cannot be moved.
        """
        with self._changing:
            if self._is_active(folder):
                raise ValueError(f"the songs of {self._workspace.shown(folder)} are being generated; stop that first")
            self._workspace.move_to_trash(folder)

    def existing(self, name: str) -> Path:
        """Return the folder of a song.

        Raises:
            ValueError: if there is none of this name.
        """
        self._workspace.path(str(SONGS_FOLDER), "songs")  # a link may lead out of the folders
        if name != Path(name).name or not _is_song(self.folder / name):
            raise ValueError(f"there is no song {name}; it may have been moved or deleted")
        return self.folder / name

    def find(self, search: str, offset: int, count: int) -> tuple[list[dict[str, Any]], int]:
        """Return songs, newest first, and how many match in all.

        Args:
            search: part of a name, text, model or adapter, in any case; empty for all.
            offset: number of songs to leave out.
            count: maximum number of songs to return.
        """
        wanted = search.casefold().strip()
        found = [values for values in self._all() if _matches(values, wanted)]
        found.sort(key=lambda values: (-values["created"], values["name"]))
        jobs = find_jobs(self._workspace.jobs) if found else []
        shown = found[offset : offset + count]
        return [self._with_state(values, jobs) for values in shown], len(found)

    def values(self, folder: Path) -> dict[str, Any]:
        """Return what the page shows of a song."""
        return self._with_state(self._basics(folder), find_jobs(self._workspace.jobs))

    def _names(self) -> list[str]:
        """Return the names of folders with a request; links are left out, since they may lead anywhere."""
        if not self._workspace.path(str(SONGS_FOLDER), "songs").is_dir():
            return []
        return [path.name for path in self.folder.iterdir() if _is_song(path)]

    def _all(self) -> list[dict[str, Any]]:
        """Return the requests of all songs; of those that have not changed since, as they were read before.

        A search asks for them after each pause in typing, and reading 2,000 takes more than a second.
        """
        known = {}
        for name in self._names():
            changes = _changes(self.folder / name)
            remembered = self._known.get(name)
            is_same = remembered is not None and remembered[0] == changes and _is_over(changes)
            known[name] = remembered if is_same and remembered else (changes, self._basics(self.folder / name))
        self._known = known
        return [values for _, values in known.values()]

    def _new_folder(self) -> Path:
        self._workspace.path(str(SONGS_FOLDER), "songs")  # a link may lead out of the folders
        while True:  # two requests at the same moment take different names
            folder = self._workspace.root / self._workspace.new_name(SONGS_FOLDER, time.strftime("%Y%m%d-%H%M%S"))
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ValueError(f"{self._workspace.shown(folder)} cannot be created: {error.strerror}") from error
            return folder

    def _basics(self, folder: Path) -> dict[str, Any]:
        """Return the request of a folder, or what is wrong with it."""
        basics = {"name": folder.name, "folder": self._workspace.shown(folder)}
        try:
            request, texts = read_song_request(folder), read_song_texts(folder)
            files = [
                {"take": file.take, "song": file.song, "track": file.track, "path": self._workspace.shown(file.path),
                 "bytes": file.path.stat().st_size}
                for file in song_files(folder, request)
            ]  # fmt: skip
        except (ValueError, OSError) as error:  # damaged, or another browser has just deleted it
            return {**basics, "created": _changed(folder), "problem": str(error)}
        return {**basics, **asdict(request), **texts, "problem": "", "files": files}

    def _with_state(self, values: dict[str, Any], jobs: Sequence[JobView]) -> dict[str, Any]:
        folder = self.folder / values["name"]
        job = self._job(folder, jobs)
        has_job = job is not None and job.is_active
        is_active = has_job or _is_locked(folder)
        if is_active:
            values = self._basics(folder)  # a file that grows does not change the folder
        status = read_run_status(folder, SONG_STATUS_FILE)
        if job is not None and status is not None and (status.started or 0.0) < job.job.created:
            status = None  # of an earlier try: the new one has not written its own yet
        state, reason = ("running", "") if is_active else _state(job, status)
        progress = status.progress if status is not None and state == "running" else None
        return {
            **values, "state": state, "reason": reason, "job": None if job is None else job.job.id,
            "is_active": is_active, "can_be_stopped": has_job,
            "progress": None if progress is None else asdict(progress),
        }  # fmt: skip

    def _job(self, folder: Path, jobs: Sequence[JobView]) -> JobView | None:
        """Return the newest job of a folder."""
        return newest_job(jobs, self._workspace.shown(folder), ("generate",))

    def _is_active(self, folder: Path) -> bool:
        """Return whether the songs of a folder are being generated, by a job or by a command in a terminal."""
        job = self._job(folder, find_jobs(self._workspace.jobs))
        return (job is not None and job.is_active) or _is_locked(folder)


def groups_of(name: str, workspace: Workspace) -> OptionGroup | None:
    """Return the options that only the family of a model has; None if the family is not known here.

    Nothing is downloaded: of a model on a hub the family is not known before it is used.

    Raises:
        ValueError: if the path is outside of the folders.
    """
    from songgen.adapters.choice import base_of, find_adapter, has_adapter
    from songgen.families.registry import family_of
    from songgen.runtime.model_folders import model_config_file

    if not name:
        return None
    folder = workspace.path(name, "model")
    try:
        if folder.is_dir() and model_config_file(folder) is None:
            base = base_of(find_adapter(folder)) if has_adapter(folder) else _base_of_run(folder)
            folder = workspace.path(base, "base")  # whoever wrote the adapter named it
        if not folder.is_dir() or model_config_file(folder) is None:
            return None
        songs = family_of(folder).songs
    except ValueError:
        return None
    return None if songs is None else next(group for group in option_groups() if group.title == songs.group.title)


def _base_of_run(folder: Path) -> str:
    from songgen.train.checkpoints.files import RUN_CONFIG_FILE
    from songgen.train.checkpoints.state import read_saved_config

    return read_saved_config(folder / RUN_CONFIG_FILE).model.model_name_or_path


def found_models(workspace: Workspace) -> list[dict[str, Any]]:
    """Return models, adapters, runs and their checkpoints in all folders, newest first.

    `is_adapter` says whether it can be applied to another model; `is_model` whether it can be used by itself: an
    adapter names its base.
    """
    from songgen.adapters.folder import is_adapter_folder
    from songgen.doctor.listing import find_entries
    from songgen.runtime.model_folders import model_config_file
    from songgen.train.checkpoints.folders import checkpoint_folders

    found = []
    for entry in find_entries(searched_folders(workspace), workspace.folders):
        folder = Path(entry.folder)
        if entry.kind in ("model", "adapter") or (
            entry.kind == "run" and (model_config_file(folder) or is_adapter_folder(folder))
        ):
            found.append(_model_values(workspace, folder, entry.kind, is_adapter=is_adapter_folder(folder)))
        if entry.kind == "run":
            newest = sorted(checkpoint_folders(folder), key=_changed, reverse=True)
            found += [
                _model_values(workspace, path, "checkpoint", is_adapter=is_adapter_folder(path)) for path in newest
            ]
        elif entry.kind == "checkpoint":
            found.append(_model_values(workspace, folder, "checkpoint", is_adapter=is_adapter_folder(folder)))
    return found


def _model_values(workspace: Workspace, folder: Path, kind: str, *, is_adapter: bool) -> dict[str, Any]:
    return {"path": workspace.shown(folder), "kind": kind, "is_adapter": is_adapter}


def _is_whole_checkpoint(folder: Path) -> bool:
    if not CHECKPOINT_NAME.fullmatch(folder.name):
        return False
    from songgen.train.checkpoint_model import is_whole_checkpoint

    return is_whole_checkpoint(folder)


def _is_song(folder: Path) -> bool:
    """Return whether a folder has a request; links are left out, since they may lead anywhere."""
    return not folder.is_symlink() and folder.name[:1] not in ("", ".") and os.path.isfile(folder / REQUEST_FILE)


def _is_locked(folder: Path) -> bool:
    return holder_of(folder / SONG_LOCK_FILE) is not None


def _changes(folder: Path) -> tuple[int, ...]:
    """Return the times of the last changes of a folder and of the files in it that are read, in nanoseconds.

    An editor may write into a file without a change of the folder.
    """
    times = []
    for path in (folder, folder / REQUEST_FILE, *(folder / name for name in TEXT_OPTIONS.values())):
        try:
            times.append(path.lstat().st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)


def _is_over(changes: Sequence[int]) -> bool:
    """Return whether changes are so long ago that another one would have another time: clocks of disks have ticks."""
    return max(changes) < time.time_ns() - TICK_NANOSECONDS


def _changed(folder: Path) -> float:
    """Return the time of the last change of a folder; 0 if it does not exist any more."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def shown_commands(commands: Sequence[Sequence[str]]) -> str:
    """Return commands as they can be pasted into a terminal."""
    return "\n".join(map(command_text, commands))


def _take(values: Any, name: str) -> Take:
    """Return a take of a request.

    Raises:
        ValueError: if it has another form.
    """
    if not isinstance(values, dict):
        raise ValueError("takes: an object with a model is expected")
    model, adapters = values.get("model"), values.get("adapter") or []
    if not isinstance(model, str) or not model.strip():
        raise ValueError("choose a model")
    if not isinstance(adapters, list) or not all(isinstance(each, str) and each for each in adapters):
        raise ValueError("adapter: a list of FOLDER:STRENGTH is expected")
    return Take(name, model.strip(), tuple(adapters))


def _matches(values: Mapping[str, Any], wanted: str) -> bool:
    takes = values.get("takes", ())
    texts = [values["name"], values.get("caption", ""), values.get("lyrics", "")]
    texts += [text for take in takes for text in (take["model"], *take["adapter"])]
    return any(wanted in text.casefold() for text in texts)


def _state(job: JobView | None, status: RunStatus | None) -> tuple[str, str]:
    """Return the state of songs that are not being generated, and the reason of a failure."""
    if status is not None and status.status != "running" and (job is None or job.state != "lost"):
        # "ValueError: " tells a user nothing, nor does "a signal".
        reason = (status.reason or "").removeprefix("ValueError: ")
        return status.status, reason if status.status == "failed" else ""
    if status is not None:
        return "lost", ""
    if job is None:
        return "unfinished", ""
    reason = "" if job.status is None else job.status.reason or ""
    return job.state, reason
