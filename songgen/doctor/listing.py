"""List of the data sets, preparations, runs and models in folders; only small files are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from songgen.adapters.choice import base_of
from songgen.data.manifests.clip import escaped
from songgen.data.schema import REPORT_FILE, DatasetInfo
from songgen.doctor.findings import Kind
from songgen.doctor.folders import recognize
from songgen.doctor.work_folders import WORK_ENDING, activity
from songgen.families.use.song_folder import SONGS_FOLDER
from songgen.jobs.record import JOBS_FOLDER
from songgen.prepare.output.writers import INFO_FILE, PreparedInfo
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import PIPELINE_FILE
from songgen.runtime.status import PREPARE_STATUS_FILE, TOKENIZE_STATUS_FILE, Progress, read_run_status
from songgen.tokenize.work_list import WorkPlan
from songgen.tokenize.workspace import CHUNK_FOLDER
from songgen.train.checkpoints.state import read_trainer_state
from songgen.train.reporting.run_state import FAILED, FINISHED, RUNNING, STOPPED, UNFINISHED, read_run_state

MAX_DEPTH = 4
"""Maximum depth of folders that are searched."""

SHOWN_DETAIL = 60
"""Maximum number of characters of a reason in the table; JSON has all of it."""

NAMES = {
    Kind.RUN: "run",
    Kind.CHECKPOINT: "checkpoint",
    Kind.DATASET: "tokens",
    Kind.WORK: "tokens",
    Kind.PREPARED: "songs",
    Kind.PREPARING: "songs",
    Kind.MODEL: "model",
    Kind.ADAPTER: "adapter",
    Kind.CODEC: "part",
    Kind.ENCODER: "part",
    Kind.TOKENIZERS: "part",
}
"""Kind of folder -> name in the table."""


@dataclass(frozen=True)
class Entry:
    """Data set, preparation, run or model in a list."""

    folder: str
    """Path, starting with the folder that was asked for."""

    kind: str
    """Kind of the entry: `tokens` (of `songgen tokenize`), `songs` (of `songgen prepare`), `run`, `model`,
    `adapter`, `part` of a model (a codec, an encoder, tokenizers), or `checkpoint`."""

    state: str
    """State of the entry: `finished`, `running`, `stopped` by a signal, `failed` (also if killed), or `unfinished`."""

    changed: float
    """Time of the last change in the folder, in seconds since 1970."""

    detail: str = ""
    """Further details: step and plan of a run, reason of a failure, problem of a file."""

    rows: int | None = None
    """Number of clips of a data set."""

    hours: float | None = None
    """Total length of the clips in hours."""

    size: int | None = None
    """Size of the weights of a model or a run, in bytes."""

    progress: Progress | None = None
    """Progress of tokenizing or preparing."""


def find_entries(roots: Sequence[Path], within: Sequence[Path] | None = None) -> list[Entry]:
    """Return the entries in folders and their subfolders, newest first.

    Args:
        roots: the folders.
        within: real paths of folders; what a link outside of them leads to is not opened. None allows every folder.

    Raises:
        ValueError: if one of the folders does not exist.
    """
    missing = [str(root) for root in roots if not root.is_dir()]
    if missing:
        raise ValueError(f"there is no folder {', '.join(missing)}")
    seen: set[str] = set()
    found = [entry for root in roots for entry in _below(root, MAX_DEPTH, seen, within)]
    return sorted(found, key=lambda entry: (-entry.changed, entry.folder))


def table(entries: Sequence[Entry]) -> list[str]:
    """Return the table as lines for a terminal, with control characters in names escaped."""
    rows = [("folder", "what", "size", "state", "changed")]
    for entry in entries:
        detail = entry.detail if len(entry.detail) <= SHOWN_DETAIL else f"{entry.detail[: SHOWN_DETAIL - 3]}..."
        state = f"{entry.state}: {detail}" if detail else entry.state
        changed = datetime.fromtimestamp(entry.changed).strftime("%Y-%m-%d %H:%M")
        rows.append((escaped(entry.folder), entry.kind, _size(entry), escaped(state), changed))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def to_json(entries: Sequence[Entry]) -> str:
    """Return the entries as JSON text, with times in ISO 8601 (UTC)."""
    listed = [{**asdict(entry), "changed": datetime.fromtimestamp(entry.changed, UTC).isoformat()} for entry in entries]
    return json.dumps(listed, indent=2, ensure_ascii=True)


def _below(folder: Path, depth: int, seen: set[str], within: Sequence[Path] | None) -> Iterator[Entry]:
    """Yield the entry of a folder, or else those of its subfolders; each once, even if several links lead to it."""
    place = os.path.realpath(folder)
    is_outside = within is not None and not any(Path(place).is_relative_to(allowed) for allowed in within)
    if place in seen or is_outside:
        return
    seen.add(place)
    try:
        kind = recognize(folder)
    except (ValueError, OSError):
        kind = None
    if kind is not None:
        yield from _entry(folder, kind)
    elif depth:
        try:
            inside = sorted(folder.iterdir())
        except OSError:
            return  # no permission to read
        for path in inside:
            if path.is_dir() and not path.name.startswith(".") and not _is_skipped(path):
                yield from _below(path, depth - 1, seen, within)


def _is_skipped(folder: Path) -> bool:
    """Return whether a folder has thousands of folders with logs or with generated songs, and nothing to list."""
    return any(folder.parts[-len(skipped.parts) :] == skipped.parts for skipped in (JOBS_FOLDER, SONGS_FOLDER))


def _entry(folder: Path, kind: Kind) -> Iterator[Entry]:
    """Yield the entry of a folder of a known kind; none for the work folder of a finished prepared data set."""
    shown, changed = str(folder), _changed(folder)
    if kind is Kind.RUN:
        state, detail = _state_of_run(folder)
        yield Entry(shown, NAMES[kind], state, changed, detail, size=_weights(folder))
    elif kind is Kind.DATASET:
        yield _tokens(folder, changed)
    elif kind is Kind.PREPARED:
        info = PreparedInfo.read(folder)
        if info is None:
            yield Entry(shown, NAMES[kind], FAILED, changed, f"{INFO_FILE} cannot be read")
        else:
            hours = sum(info.seconds.values()) / 3600
            yield Entry(shown, NAMES[kind], FINISHED, changed, rows=sum(info.clips.values()), hours=hours)
    elif kind in (Kind.WORK, Kind.PREPARING):
        _, is_active = activity(folder, "")
        output = folder.with_name(folder.name.removesuffix(WORK_ENDING))
        if kind is Kind.PREPARING and not is_active and (output / INFO_FILE).is_file():
            return
        state, detail, progress = _state_of_work(folder, kind, is_active=is_active)
        yield Entry(shown, NAMES[kind], state, changed, detail, progress=progress)
    elif kind is Kind.CHECKPOINT:
        yield _checkpoint(folder, changed)
    elif kind is Kind.ADAPTER:
        yield _adapter(folder, changed)
    else:
        yield Entry(shown, NAMES[kind], FINISHED, changed, size=_weights(folder))


def _adapter(folder: Path, changed: float) -> Entry:
    try:
        detail = f"for {base_of(folder)}"
    except ValueError as problem:
        return Entry(str(folder), NAMES[Kind.ADAPTER], FAILED, changed, str(problem), size=_weights(folder))
    return Entry(str(folder), NAMES[Kind.ADAPTER], FINISHED, changed, detail, size=_weights(folder))


def _tokens(folder: Path, changed: float) -> Entry:
    try:
        info = DatasetInfo.read(folder)
    except ValueError as problem:
        return Entry(str(folder), NAMES[Kind.DATASET], FAILED, changed, str(problem))
    rows = sum(info.num_rows(split) for split in info.splits)
    try:
        report = read_json_object(folder / REPORT_FILE)
        hours = sum(float(split["hours"]) for split in report["splits"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return Entry(str(folder), NAMES[Kind.DATASET], FINISHED, changed, rows=rows)
    return Entry(str(folder), NAMES[Kind.DATASET], FINISHED, changed, rows=rows, hours=hours)


def _state_of_work(folder: Path, kind: Kind, *, is_active: bool) -> tuple[str, str, Progress | None]:
    """Return the state of tokenizing or preparing, its activity or reason of failure, and its progress."""
    status = read_run_status(folder, TOKENIZE_STATUS_FILE if kind is Kind.WORK else PREPARE_STATUS_FILE)
    if status is None or status.progress is None or (is_active and status.status != RUNNING):
        return RUNNING if is_active else UNFINISHED, _chunks(folder) if kind is Kind.WORK else "", None
    progress = status.progress
    if is_active:
        return RUNNING, str(progress), progress
    stood = replace(progress, seconds_left=None)
    if status.status == RUNNING:
        return FAILED, f"killed, {stood}", stood
    if status.status == FAILED:
        return FAILED, f"{stood}, {status.reason}", stood
    return (STOPPED if status.status == STOPPED else UNFINISHED), str(stood), stood


def _chunks(folder: Path) -> str:
    """Return the progress of tokenizing as text."""
    try:
        total = len(WorkPlan.read(folder).chunks())
    except (OSError, ValueError, KeyError, TypeError):
        return "reading manifests"
    return f"{sum(1 for _ in (folder / CHUNK_FOLDER).glob('*.json'))} of {total} chunks"


def _checkpoint(folder: Path, changed: float) -> Entry:
    try:
        state = read_trainer_state(folder)
    except (ValueError, TypeError, OSError) as problem:
        return Entry(str(folder), NAMES[Kind.CHECKPOINT], FAILED, changed, str(problem))
    detail = f"step {state.step} of {state.total_steps}"
    return Entry(str(folder), NAMES[Kind.CHECKPOINT], FINISHED, changed, detail, size=_weights(folder))


def _state_of_run(folder: Path) -> tuple[str, str]:
    """Return the state of a run, and its step or reason of failure."""
    run = read_run_state(folder)
    if run.state == RUNNING:
        return RUNNING, "; ".join(filter(None, [run.place, run.beat.milestone if run.beat else ""]))
    if run.state == FAILED:
        reason = run.status.reason if run.status else None
        parts = ["killed", run.place] if run.is_killed else [run.place, reason]
        return FAILED, ", ".join(filter(None, parts))
    return run.state, run.place or run.problem


def _weights(folder: Path) -> int | None:
    """Return the size of the weights in a folder and of the components of a pipeline in it; None if there are none."""
    places = [folder, *(folder / name for name in _components(folder))]
    files = [entry for place in places for entry in os.scandir(place) if entry.name.endswith(".safetensors")]
    return sum(entry.stat().st_size for entry in files) or None


def _components(folder: Path) -> list[str]:
    """Return the names of the components of a pipeline that have a folder here; none of other models."""
    try:
        index = read_json_object(folder / PIPELINE_FILE) if (folder / PIPELINE_FILE).is_file() else {}
    except ValueError:
        return []
    return [name for name in index if "/" not in name and not name.startswith(("_", ".")) and (folder / name).is_dir()]


def _changed(folder: Path) -> float:
    """Return the time of the last change of a folder or a file in it."""
    with os.scandir(folder) as entries:
        times = [entry.stat(follow_symlinks=False).st_mtime for entry in entries]
    return max([folder.stat().st_mtime, *times])


def _size(entry: Entry) -> str:
    parts = [] if entry.rows is None else [f"{entry.rows:,} clips"]
    parts += [] if entry.hours is None else [f"{entry.hours:,.2f} h"]
    parts += [] if entry.size is None else [f"{entry.size / 2**20:,.1f} MiB"]
    return ", ".join(parts)
