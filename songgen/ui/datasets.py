"""What the page shows of data sets: state, progress, figures, reasons of refusals, rows, lists in LJSpeech format."""

import filecmp
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songgen.data.reject_codes import REJECT_CODES
from songgen.data.schema import DATASET_FILE, REJECTED_FILE, REPORT_FILE, DatasetInfo
from songgen.doctor.listing import Entry, find_entries
from songgen.doctor.work_folders import WORK_ENDING, work_folder_of
from songgen.prepare.engine.record_files import SONGS_FILE
from songgen.prepare.inputs import TakenIn, read_notices
from songgen.prepare.output.writers import INFO_FILE, PreparedInfo
from songgen.prepare.review.corrections import APPLIED_FILE, CORRECTIONS_FILE, REVIEW_CODES
from songgen.prepare.sections import REFUSAL_CODES
from songgen.runtime.json_files import parse_json, read_json_object
from songgen.ui.folders.library import is_number, searched_folders
from songgen.ui.preparing.rows import LISTS, read_lines, read_lyrics
from songgen.ui.workspace import Workspace

KINDS = ("songs", "tokens")
"""Kinds of `songgen list` that are data sets: prepared songs, and tokens."""


@dataclass(frozen=True)
class Refused:
    """Songs and clips that were left out for one reason."""

    code: str
    """Code in `rejected.jsonl`."""

    count: int
    """Number of them."""

    meaning: str
    """Meaning in one line."""

    advice: str
    """What to do if there are many; may be empty."""


@dataclass(frozen=True)
class Split:
    """Training or evaluation part of a data set."""

    name: str
    """Name."""

    clips: int
    """Number of clips."""

    hours: float | None
    """Total length; None if it is not known."""


@dataclass
class DataSet:
    """A data set, prepared or tokenized, finished or not."""

    folder: Path
    """Folder of the finished data set, which may not exist yet."""

    kind: str
    """One of `KINDS`; empty if it is neither."""

    is_there: bool = False
    """Whether there is a finished data set."""

    problem: str = ""
    """Why it cannot be read."""

    splits: list[Split] = field(default_factory=list)
    """Its parts."""

    refused: list[Refused] = field(default_factory=list)
    """What was left out, by reason, the most frequent first."""

    without_caption: int = 0
    """Clips without a caption, which tokenizing leaves out."""

    without_lyrics: int = 0
    """Clips without words that are not marked as instrumental."""

    notices: TakenIn = field(default_factory=TakenIn)
    """Notices on the inputs."""

    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Lists in LJSpeech format, made of its rows -> their first lines."""

    report: dict[str, Any] | None = None
    """Its `report.json`; None without one."""

    work: Entry | None = None
    """Work that is running or was not finished."""

    has_corrections: bool = False
    """Whether there are corrections that the last run of `songgen prepare` has not applied."""

    @property
    def clips(self) -> int:
        """Number of clips."""
        return sum(split.clips for split in self.splits)


def list_data_sets(workspace: Workspace) -> list[Entry]:
    """Return all data sets of the workspace, newest first; `.work` folders as the data set that they become."""
    found = find_entries(searched_folders(workspace), workspace.folders)
    return [entry for entry in found if entry.kind in KINDS]


def read_data_set(folder: Path, *, with_reasons: bool = True) -> DataSet:
    """Return what is known of a data set.

    Args:
        folder: folder of the data set, or its work folder.
        with_reasons: whether to read what may have tens of thousands of lines: reasons of what was left out, lyrics.
    """
    if folder.name.endswith(WORK_ENDING):
        folder = folder.with_name(folder.name.removesuffix(WORK_ENDING))
    work = work_folder_of(folder)
    entries = find_entries([work], [folder.parent]) if work.is_dir() else []
    found = DataSet(folder, kind="", work=next((entry for entry in entries if entry.kind in KINDS), None))
    if (folder / INFO_FILE).is_file():
        _read_prepared(found)
    elif (folder / DATASET_FILE).is_file():
        _read_tokens(found)
    elif found.work is not None:
        found.kind = found.work.kind
    if found.kind == "songs":
        if (work / SONGS_FILE).with_suffix(".notices.json").is_file():
            found.notices = read_notices(work / SONGS_FILE)
        if with_reasons and not found.is_there and (work / REJECTED_FILE).is_file():
            found.refused = _refused(Counter(_code(line) for line in read_lines(work / REJECTED_FILE)))
        if with_reasons and found.is_there:
            _read_lyrics(found)
        found.has_corrections = found.is_there and _differ(work / CORRECTIONS_FILE, work / APPLIED_FILE)
    return found


def _code(line: str) -> str:
    """Return the reason in a line of `rejected.jsonl`; `?` for a damaged line."""
    try:
        return str(parse_json(line)["code"])
    except (ValueError, KeyError, TypeError):
        return "?"


def _differ(file: Path, earlier: Path) -> bool:
    """Return whether a file exists and an earlier copy of it does not, or has other content."""
    return file.is_file() and not (earlier.is_file() and filecmp.cmp(file, earlier, shallow=False))


def _read_prepared(found: DataSet) -> None:
    found.kind = "songs"
    info = PreparedInfo.read(found.folder)
    if info is None:
        found.problem = f"{INFO_FILE} cannot be read; run `songgen prepare` again, or another version has written it"
        return
    found.is_there = True
    found.splits = [Split(name, count, info.seconds[name] / 3600) for name, count in info.clips.items()]
    found.refused = _refused(info.refused)
    found.without_caption = info.without_caption
    found.report = _figures(_report(found.folder) or {})


def _read_lyrics(found: DataSet) -> None:
    for name, part in LISTS.items():
        if any(split.name == part and split.clips for split in found.splits):
            lyrics = read_lyrics(found.folder, part)
            found.without_lyrics += lyrics.missing
            found.lists[name] = lyrics.lines


def _read_tokens(found: DataSet) -> None:
    found.kind = "tokens"
    try:
        info = DatasetInfo.read(found.folder)
    except ValueError as problem:
        found.problem = str(problem)
        return
    found.is_there = True
    found.report = _report(found.folder)
    parts = {name: _table(part) for name, part in _table((found.report or {}).get("splits")).items()}
    for name in info.splits:
        hours = parts.get(name, {}).get("hours")
        found.splits.append(Split(name, info.num_rows(name), hours if is_number(hours) else None))
    counts: Counter[str] = Counter()
    for part in parts.values():
        counts.update({code: count for code, count in _table(part.get("rejected")).items() if is_number(count)})
    found.refused = _refused(counts)


def _table(value: Any) -> dict[str, Any]:
    """Return a table of a report; an empty one for another value, which a damaged or earlier report may have."""
    return value if isinstance(value, dict) else {}


def _report(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json_object(folder / REPORT_FILE)
    except ValueError:
        return None


def _figures(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures of a report that the page shows; None if one of them is not as this version writes it."""
    stages, charts = report.get("stages", ()), report.get("histograms", ())
    try:
        is_known = all(is_number(stage["seconds"]) and {"step", "songs", "clips"} <= stage.keys() for stage in stages)
        for chart in charts:
            sizes = {len(chart["edges"]) - 1, len(chart["accepted"]), len(chart["refused"])}
            numbers = [*chart["edges"], *chart["accepted"], *chart["refused"], chart["median"] or 0]
            is_text = isinstance(chart["label"], str) and isinstance(chart["unit"], str)
            is_known &= is_text and len(sizes) == 1 and all(map(is_number, numbers))
    except (KeyError, TypeError, AttributeError):
        return None
    return {"stages": stages, "histograms": charts} if is_known else None


def _refused(counts: Mapping[str, int]) -> list[Refused]:
    return [_reason(code, count) for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _reason(code: str, count: int) -> Refused:
    known = REFUSAL_CODES.get(code) or REVIEW_CODES.get(code)
    if known is not None:
        return Refused(code, count, known.meaning, known.advice)
    return Refused(code, count, REJECT_CODES[code].meaning if code in REJECT_CODES else "", "")
