"""Runs of a workspace, as their files tell them. Nothing is kept: every answer is read again."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from songgen.adapters.folder import is_adapter_folder
from songgen.runtime.files import open_regular
from songgen.runtime.folder_lock import RUN_LOCK_FILE
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import CHECKPOINT_NAME
from songgen.runtime.status import RUN_CONFIG_FILE, RUN_STATUS_FILE, RunStatus
from songgen.train.reporting.console import CONSOLE_FILE
from songgen.train.reporting.milestones import LOSS_METRICS
from songgen.train.reporting.plots.songs import sampled_steps, songs_of
from songgen.train.reporting.progress_file import RunProgress, read_progress
from songgen.train.reporting.run_state import RUNNING, RunState, read_run_state
from songgen.train.reporting.trackers import METRICS_FILE, samples_folder
from songgen.ui.folders.library import last_losses, last_values, searched_folders
from songgen.ui.training.texts_of_songs import texts_of
from songgen.ui.workspace import SONGS_FOLDER, Workspace

MAX_DEPTH = 5
"""Maximum depth of folders that are searched for runs."""

MAX_RUNS = 200
"""Maximum number of runs in a list; the page says how many more there are."""

LITTLE_SPACE = 200 * 10**6
"""Free bytes below which a run that was killed may have been out of disk space."""

ACTIVITIES = (
    "starting",
    "training",
    "waiting for data",
    "evaluating",
    "sampling songs",
    "saving",
    "writing the model",
    "comparing",
)
"""Activities that heartbeats name; the page translates them."""

_MARKS = (RUN_STATUS_FILE, METRICS_FILE, RUN_LOCK_FILE)
"""Files by which the output folder of a run is recognized."""


def find_runs(workspace: Workspace) -> list[Path]:
    """Return the output folders of runs in a workspace, the latest changed first. Links to folders are not followed."""
    skipped = {workspace.jobs, workspace.root / SONGS_FOLDER}  # thousands of folders, and no run
    roots = searched_folders(workspace)
    found = {folder: _changed(folder) for root in roots for folder in _below(root, MAX_DEPTH, skipped)}
    return sorted(found, key=lambda folder: -found[folder])


def list_of_runs(workspace: Workspace) -> dict[str, Any]:
    """Return the latest changed runs (`runs`), and how many others there are (`more`)."""
    folders = find_runs(workspace)
    return {"runs": [row_of(workspace, folder) for folder in folders[:MAX_RUNS]], "more": len(folders[MAX_RUNS:])}


def _below(folder: Path, depth: int, skipped: Collection[Path]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            inside = list(entries)
    except OSError:
        return
    if any(entry.name in _MARKS for entry in inside):
        yield folder
    elif depth:
        for entry in inside:
            path = folder / entry.name
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False) and path not in skipped:
                yield from _below(path, depth - 1, skipped)


def _changed(folder: Path) -> float:
    times = []
    for name in _MARKS:
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def is_run(folder: Path) -> bool:
    """Return whether a folder is the output folder of a run."""
    return any((folder / name).is_file() for name in _MARKS)


def row_of(workspace: Workspace, folder: Path) -> dict[str, Any]:
    """Return what a list of runs shows of one."""
    run = read_run_state(folder)
    progress = _progress_of(folder, run)
    return {
        "folder": workspace.shown(folder),
        "name": folder.name,
        "state": run.state,
        "changed": _changed(folder),
        "step": _step(run, progress),
        "total_steps": _total(run, progress),
        "loss": last_losses(folder / METRICS_FILE).get("train") if progress is None else progress.loss,
        "seconds_left": progress.seconds_left if progress is not None and run.state == RUNNING else None,
    }


def details_of(folder: Path) -> dict[str, Any]:
    """Return state, progress and cause of a failure of a run."""
    run = read_run_state(folder)
    progress = _progress_of(folder, run)
    status, beat = run.status, run.beat if run.state == RUNNING else None
    return {
        "state": run.state,
        "is_killed": run.is_killed,
        "is_disk_full": run.is_killed and _free(folder) < LITTLE_SPACE,
        "reason": run.problem if status is None else status.reason or "",
        "exit_code": None if status is None else status.exit_code,
        "started": None if status is None else status.started,
        "ended": None if status is None or status.status == RUNNING else status.time,
        "diagnosis": None if status is None or status.diagnosis is None else dataclasses.asdict(status.diagnosis),
        "doing": "" if beat is None or beat.doing not in ACTIVITIES else beat.doing,
        "since": None if beat is None else beat.time,
        "now": time.time(),
        "step": _step(run, progress),
        "total_steps": _total(run, progress),
        "progress": None if progress is None else dataclasses.asdict(progress),
        "latest": last_values(folder / METRICS_FILE, _FIGURES) if progress is None else {},
        "anomalies": anomalies_of(folder),
        "disk": _disk(folder) if run.state == RUNNING else None,
        "is_adapter": is_adapter_folder(folder),
        "has_console": (folder / CONSOLE_FILE).is_file(),
        "evaluates": _evaluates(folder),
    }


_FIGURES = {"epoch": ("epoch",), "loss": LOSS_METRICS, "learning_rate": ("train/learning_rate",)}
"""Figures of a run without a progress file -> names of the metrics that they are read from."""


def _evaluates(folder: Path) -> bool:
    """Return whether a run has held-out clips; without them it refuses to evaluate and to sample songs.

    A run with `do_eval` that finds no held-out clips does not start. The file in the folder is that of the first
    launch; a resumed one may have another configuration, which its checkpoints have. One whose configuration is not
    there, or cannot be read, is asked anyway.
    """
    checkpoint = _newest_checkpoint(folder)
    places = [folder] if checkpoint is None else [folder, checkpoint]
    try:
        return any(read_json_object(place / RUN_CONFIG_FILE).get("do_eval") is not False for place in places)
    except (ValueError, OSError):
        return True


def _newest_checkpoint(folder: Path) -> Path | None:
    """Return the folder of the checkpoint that was written last; None if there is none."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.stat(follow_symlinks=False).st_mtime, entry.name)
                for entry in entries
                if CHECKPOINT_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return None
    return folder / max(found)[1] if found else None


def _disk(folder: Path) -> dict[str, Any]:
    """Return the free space for a run, and whether it is little.

    A checkpoint is written before an older one is removed: there must be room for another one, and for half of one
    more, since logs, songs and whatever else is on the disk grow meanwhile.
    """
    free, checkpoint = _free(folder), _newest_checkpoint(folder)
    needed = 0 if checkpoint is None else _size(checkpoint)
    return {"free": free, "checkpoint": needed, "is_low": free < max(LITTLE_SPACE, needed + needed // 2)}


def _size(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0


def anomalies_of(folder: Path) -> dict[str, Any]:
    """Return the anomalous steps that a run has recorded: their kind -> their number, and the latest of them."""
    found = {}
    for kind, name in _ANOMALIES.items():
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        count, step = _recorded(folder / name, status.st_size, status.st_mtime_ns)
        if count:
            found[kind] = {"count": count, "step": step, "file": name}
    return found


_ANOMALIES = {"not_finite": "non_finite_steps.jsonl", "spikes": "loss_spikes.jsonl"}
"""Kind of anomalous steps -> file with a line for each (`songgen.train.optimization.anomalies`, which loads torch)."""


@lru_cache(maxsize=64)
def _recorded(path: Path, size: int, changed: int) -> tuple[int, int | None]:
    """Return the number of lines of a file, and the step of the last one; it is read again when it has changed."""
    count = 0
    try:
        with open_regular(path) as file:
            while chunk := file.read(1 << 20):
                count += chunk.count(b"\n")
    except (OSError, ValueError):
        return 0, None
    step = last_values(path, {"step": ("step",)}).get("step")
    return count, None if step is None else int(step)


def _progress_of(folder: Path, run: RunState) -> RunProgress | None:
    """Return the progress of a run; None for a launch that has written none: the file is that of an earlier one.

    A launch that failed before its first step leaves the earlier file, too.
    """
    progress, started = read_progress(folder), started_at(run.status)
    if progress is None or started is None:
        return progress
    return progress if isinstance(progress.time, int | float) and progress.time >= started else None


def started_at(status: RunStatus | None) -> float | None:
    """Return the start of the latest launch in seconds since 1970; None if that is not known."""
    started = None if status is None else status.started
    return float(started) if isinstance(started, int | float) else None


def _step(run: RunState, progress: RunProgress | None) -> int | None:
    """Return the completed steps: those of the file that is written more often, while the run trains."""
    if progress is not None and (run.state == RUNNING or run.step is None):
        return progress.step
    return run.step


def _total(run: RunState, progress: RunProgress | None) -> int | None:
    """Return the steps of the whole run: the plan of its status, or else that of its progress."""
    return run.total_steps if run.total_steps is not None or progress is None else progress.total_steps


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return LITTLE_SPACE


def checkpoints_of(workspace: Workspace, folder: Path) -> list[dict[str, Any]]:
    """Return the checkpoints of a run, the newest first; a damaged one has a problem instead of values."""
    from songgen.train.checkpoints.folders import checkpoint_folders  # loads torch, as everything about checkpoints

    rows = []
    for path in checkpoint_folders(folder):
        try:
            changed = path.stat().st_mtime
        except OSError:  # it has just been removed
            continue
        rows.append(_checkpoint(path, changed) | {"folder": workspace.shown(path)})
    rows.sort(key=lambda row: (-row["serial"], row["folder"]))
    # Each was the best when it was saved; the latest of them is the best of all.
    best = next((row for row in rows if row.get("is_best")), None)
    return [row | {"is_best": row is best} for row in rows]


@lru_cache(maxsize=512)
def _checkpoint(folder: Path, changed: float) -> dict[str, Any]:
    """Read a checkpoint, which does not change any more; `changed` is the time of its folder."""
    from songgen.train.checkpoints.files import read_manifest
    from songgen.train.checkpoints.state import read_trainer_state

    values = {"name": folder.name, "time": changed, "serial": -1, "problem": ""}
    try:
        manifest = read_manifest(folder, random_state_optional=True)
        state = read_trainer_state(folder)
    except (ValueError, TypeError, OSError) as error:
        return values | {"problem": str(error)}
    losses = state.recent_losses
    return values | {
        "serial": manifest.serial,
        "step": manifest.step,
        "total_steps": state.total_steps,
        "epoch": state.epoch + (1 if state.step_in_epoch else 0),  # that of its last step, counted from 1
        "is_best": manifest.best,
        "processes": manifest.world_size,
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "loss": losses[-1] if losses else None,
        "evaluation_loss": state.best_metric if state.best_step == manifest.step else None,
    }


def samplings_of(folder: Path) -> list[dict[str, int]]:
    """Return the steps at which songs were sampled, the latest first, and how many files each has so far."""
    found = []
    for step in sampled_steps(folder):
        place = samples_folder(folder, step)
        try:
            count = _files(place, place.stat().st_mtime_ns)
        except OSError:
            continue
        if count:
            found.append({"step": step, "files": count})
    return found


@lru_cache(maxsize=4_096)
def _files(folder: Path, changed: int) -> int:
    """Return the number of songs in the folder of a sampling, which is read again when it has changed."""
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(".wav") and entry.is_file(follow_symlinks=False) for entry in entries)


def songs_at(workspace: Workspace, folder: Path, step: int) -> list[dict[str, Any]]:
    """Return the songs that a run has sampled at a step, with files and texts."""
    songs = songs_of(folder, step)
    texts = texts_of(workspace, folder, tuple(song.name for song in songs))
    return [
        {
            "name": song.name,
            "tracks": [{"label": label, "path": workspace.shown(path)} for label, path in song.files],
            "text": texts.get(song.name),
        }
        for song in songs
    ]
