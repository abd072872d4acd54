"""Diagnosis of prepared data sets, finished or in progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile

from songgen.data.audio import AudioRejected
from songgen.data.schema import REJECTED_FILE
from songgen.doctor.findings import Finding, error, ok, warning
from songgen.doctor.hashes import examine_hashes
from songgen.doctor.work_folders import WORK_ENDING, activity, work_folder_of
from songgen.prepare.engine.audio_files import read_audio
from songgen.prepare.engine.record_files import RECORDS_FILE, SONGS_FILE
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.engine.store import RESULTS_FOLDER, damaged_results
from songgen.prepare.output.writers import (
    DATA_CONFIG_FILE,
    FILE_NAME_COLUMNS,
    HASH_COLUMNS,
    INFO_FILE,
    METADATA_FILES,
    PreparedInfo,
)
from songgen.prepare.report.statistics import meaning_of
from songgen.prepare.review.corrections import APPLIED_FILE, CORRECTIONS_FILE
from songgen.runtime.files import file_sha256
from songgen.runtime.json_files import parse_json, read_json_object
from songgen.runtime.json_lines import numbered

SHOWN_FILES = 8
"""Number of damaged files that are listed."""

LENGTH_TOLERANCE = 0.1
"""Tolerance in seconds for the length of a file that the manifest states."""

WRITE_AGAIN = "run the `songgen prepare` command again: it writes the data set again from its saved results"
GO_ON = "run the `songgen prepare` command again: it keeps finished work and does the rest"


def examine_prepared(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Check a finished data set: every row and the header of every audio file; with `deep`, decode the files."""
    info = PreparedInfo.read(folder)
    if info is None:
        yield error(INFO_FILE, "it cannot be read, or was written by another version of songgen", WRITE_AGAIN)
        return
    yield from examine_hashes(folder, WRITE_AGAIN, lambda name: not name.startswith(("report", REJECTED_FILE)))
    missing = [name for name in info.files if not (folder / name).exists()]
    if missing:
        yield error("files", f"missing: {', '.join(missing)}", WRITE_AGAIN)
    for split, name in METADATA_FILES.items():
        if split in info.clips or (folder / name).exists():
            yield from _split(folder, split, info, deep=deep)
    if not info.clips:
        yield error(INFO_FILE, "it lists no split", WRITE_AGAIN)
    if info.without_caption:
        what = f"{info.without_caption:,} clips have no caption, and preprocessing leaves them out"
        yield warning("captions", what, "turn on the step `tag`")
    yield from _refused(Counter(info.refused))
    work = work_folder_of(folder)
    if work.is_dir():
        yield from _corrections(work)
        yield from activity(work, "preparation")[0]
    yield from _next(folder)


def examine_preparing(folder: Path) -> Iterator[Finding]:
    """Report the progress of the preparation in a work folder."""
    found, is_active = activity(folder, "preparation")
    yield from found
    output = folder.with_name(folder.name.removesuffix(WORK_ENDING))
    songs = _num_lines(folder / SONGS_FILE)
    if songs is None:
        yield ok("songs", "the inputs were not read yet")
    else:
        yield ok("songs", f"{songs:,} in the inputs")
    done: Counter[str] = Counter()
    for path in sorted((folder / RESULTS_FOLDER).glob("*.jsonl")):
        done[path.name.split(".")[0]] += _num_lines(path) or 0
    yield from (ok(step, f"{count:,} results are saved") for step, count in done.items())
    for name, lines in damaged_results(WorkFolder(folder)).items():
        yield warning(name, f"damaged {numbered(lines)}", "the next run moves them aside and computes them again")
    yield from _refused(_codes(folder / REJECTED_FILE))
    if (output / INFO_FILE).is_file():
        yield ok("data set", f"it is in {output}")
        yield from _corrections(folder)
    elif is_active:
        yield ok("data set", "not written yet")
    elif (folder / RECORDS_FILE).is_file():
        fix = f"{folder / REJECTED_FILE} lists the reasons; fix their causes, then {GO_ON}"
        yield error("data set", "the steps are done, but no data set was written", fix)
    else:
        yield error("data set", "unfinished: no data set was written yet", GO_ON)


def _split(folder: Path, split: str, info: PreparedInfo, *, deep: bool) -> Iterator[Finding]:
    """Check the rows of a split and their files."""
    name = METADATA_FILES[split]
    try:
        rows = [parse_json(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        problems = [problem for row in rows for problem in _row_problems(folder, row, deep=deep)]
        seconds = sum(float(row["duration"]) for row in rows)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as failure:
        yield error(name, f"it cannot be read ({type(failure).__name__}: {failure})", WRITE_AGAIN)
        return
    content = f"{len(rows):,} clips, {seconds / 3600:,.2f} h"
    if len(rows) != info.clips.get(split, 0):
        yield error(name, f"{content}; {INFO_FILE} lists {info.clips.get(split, 0):,}", WRITE_AGAIN)
    if problems:
        yield error(split, f"{content}; {len(problems):,} audio files cannot be used", WRITE_AGAIN)
        yield from (error(*problem) for problem in problems[:SHOWN_FILES])
    else:
        depth = (
            "every byte is as written" if deep else "all audio files are there, with the lengths stated in their rows"
        )
        yield ok(split, f"{content}; {depth}")


def _row_problems(folder: Path, row: dict[str, Any], *, deep: bool) -> Iterator[tuple[str, str]]:
    """Yield the file and the problem of each unusable audio file of a row."""
    for track, column in FILE_NAME_COLUMNS.items():
        if column not in row:
            continue
        path = folder / row[column]
        try:
            if deep:
                samples, rate = read_audio(path)
                seconds = len(samples) / rate
            else:
                header = soundfile.info(str(path))
                seconds = header.frames / header.samplerate
        except (AudioRejected, ValueError, OSError, soundfile.SoundFileError) as failure:
            yield row[column], "the file is missing" if not path.is_file() else f"it cannot be read: {failure}"
            continue
        if abs(seconds - float(row["duration"])) > LENGTH_TOLERANCE:
            yield row[column], f"it has {seconds:.2f} s, its row states {row['duration']:.2f} s"
        elif deep and file_sha256(path) != row.get(HASH_COLUMNS[track], file_sha256(path)):
            yield row[column], "it is not as it was written (its hash does not fit)"


def _refused(codes: Counter[str]) -> Iterator[Finding]:
    """Report the songs and clips that were left out, by reason."""
    if not codes:
        yield ok("left out", "nothing")
    for code, count in codes.most_common():
        yield ok("left out", f"{count:,} x {code}: {meaning_of(code)}")


def _codes(path: Path) -> Counter[str]:
    """Return the counts of the codes in a list of refused songs and clips."""
    codes: Counter[str] = Counter()
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            codes[str(parse_json(line)["code"])] += 1
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not written yet, or truncated by a kill; the next run writes it again
    return codes


def _corrections(work: Path) -> Iterator[Finding]:
    """Report the corrections made by a person since the last run."""
    made, applied = _num_lines(work / CORRECTIONS_FILE) or 0, _num_lines(work / APPLIED_FILE) or 0
    if made > applied:
        what = f"{made - applied:,} of {made:,} were made since the last run"
        yield warning("corrections", what, "run the `songgen prepare` command again to apply them")
    elif made:
        yield ok("corrections", f"{made:,}, all applied")


def _next(folder: Path) -> Iterator[Finding]:
    """Report the next command for the data set."""
    try:
        tokens = Path(read_json_object(folder / DATA_CONFIG_FILE)["save_to_disk"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # a missing file was reported already
    beside = folder.with_name(tokens.name)
    if beside.is_dir():
        yield ok("tokens", f"{beside} has them")
    else:
        yield ok("next", f"songgen tokenize {folder / DATA_CONFIG_FILE}")


def _num_lines(path: Path) -> int | None:
    """Return the number of complete lines of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)
    except OSError:
        return None
