"""Results of the steps on disk, so that no work is repeated: one line for each result, read by every later run.

A line is `{id, key, outcome, files, checksum}` in `<work>/results/<step>.<process>.jsonl`. Every process appends to a
file of its own and flushes each line, so that a kill loses at most the line that was being written. A torn line is
ignored; a damaged one is set aside when the next run begins, and its result is computed again.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.step import SetStep, Step, StepOutput, WorkFolder
from songgen.runtime.files import file_sha256
from songgen.runtime.json_lines import (
    LINE_ERRORS,
    has_keys,
    is_damaged_file,
    read_lines,
    seal,
    set_damaged_aside,
    unseal,
)

logger = logging.getLogger(__name__)

RESULTS_FOLDER = "results"
"""In the work folder: the results of all steps."""

HASHES_NAME = "hashes"
"""In the work folder: hashes of the contents of files, one list for each process."""

MISSING = ""
"""Hash of a file that does not exist."""

_is_plain_result = has_keys("id", "key", "outcome", "files")
_is_plain_hash = has_keys("file", "state", "sha256")


class LineFile:
    """A file of JSON lines that one process appends to; a kill may have cut off its last line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, values: JsonObject) -> None:
        """Append a line and flush it."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            self._file.truncate(_whole_length(self.path))
        self._file.write(seal(values).encode("ascii") + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _whole_length(path: Path) -> int:
    """Return the length of a file up to the end of its last complete line."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        position = size
        while position:
            start = max(0, position - (1 << 16))
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
    return 0


def repair_results(folder: WorkFolder) -> None:
    """Set damaged lines of earlier runs aside, before any process opens the files."""
    for path in _line_files(folder.root / RESULTS_FOLDER, "*.jsonl"):
        set_damaged_aside(path, _read_result, "these results are computed again")
    for path in _line_files(folder.root, f"{HASHES_NAME}.*.jsonl"):
        set_damaged_aside(path, _read_hash, "these files are hashed again")


def damaged_results(folder: WorkFolder) -> dict[str, list[int]]:
    """Return the files of results and hashes with damaged lines -> the numbers of these lines."""
    files = [(path, _read_result) for path in _line_files(folder.root / RESULTS_FOLDER, "*.jsonl")]
    files += [(path, _read_hash) for path in _line_files(folder.root, f"{HASHES_NAME}.*.jsonl")]
    found = {path.name: read_lines(path, read).damaged for path, read in files}
    return {name: damaged for name, damaged in found.items() if damaged}


def _line_files(folder: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(folder.glob(pattern)) if not is_damaged_file(path)]


def _read_result(line: bytes) -> JsonObject:
    """Parse a line of a result, including its outcome."""
    values = unseal(line, _is_plain_result)
    outcome_of_values(values["outcome"])
    return values


def _read_hash(line: bytes) -> JsonObject:
    return unseal(line, _is_plain_hash)


class _LineReader:
    """Reads the complete lines that were added to some files since the last call."""

    def __init__(self, folder: Path, pattern: str, read: Callable[[bytes], JsonObject]) -> None:
        self.folder = folder
        self.pattern = pattern
        self.read = read
        self._ends: dict[Path, int] = {}

    def new_lines(self) -> Iterator[tuple[Path, int, JsonObject]]:
        """Yield file, position and values of every new line; damaged lines are skipped."""
        for path in _line_files(self.folder, self.pattern):
            position = self._ends.get(path, 0)
            with path.open("rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    try:
                        yield path, position, self.read(line)
                    except LINE_ERRORS as error:
                        logger.warning("%s: a line at byte %d is damaged (%s) and skipped", path, position, error)
                    position += len(line)
            self._ends[path] = position


class ContentHashes:
    """Hashes of file contents; a file is read again only if its size, time or inode has changed."""

    def __init__(self, folder: WorkFolder, rank: int = 0) -> None:
        """Read the hashes of earlier runs.

        Args:
            folder: the work folder.
            rank: number of this process.
        """
        self.folder = folder
        self._known: dict[str, tuple[list[int], str]] = {}
        self._reader = _LineReader(folder.root, f"{HASHES_NAME}.*.jsonl", _read_hash)
        self._own = LineFile(folder.root / f"{HASHES_NAME}.{rank}.jsonl")
        self.refresh()

    def refresh(self) -> None:
        """Read the new hashes of other processes."""
        for _, _, line in self._reader.new_lines():
            self._known[line["file"]] = (line["state"], line["sha256"])

    def sha256(self, file: str) -> str:
        """Return the hash of a file that a record names; `MISSING` if it does not exist."""
        path = self.folder.path(file)
        try:
            status = path.stat()
        except OSError:
            return MISSING
        state = [status.st_size, status.st_mtime_ns, status.st_ino]
        known = self._known.get(file)
        if known is not None and known[0] == state:
            return known[1]
        digest = file_sha256(path)
        self._known[file] = (state, digest)
        self._own.append({"file": file, "state": state, "sha256": digest})
        return digest

    def close(self) -> None:
        """Close the list."""
        self._own.close()


class ResultStore:
    """The results of one step."""

    def __init__(self, folder: WorkFolder, hashes: ContentHashes, step: str, rank: int = 0) -> None:
        """Read the existing results.

        Args:
            folder: the work folder.
            hashes: hashes of files.
            step: name of the step.
            rank: number of this process.
        """
        self.hashes = hashes
        self.step = step
        self._places: dict[tuple[str, str], tuple[Path, int]] = {}
        results = folder.root / RESULTS_FOLDER
        # Outcomes are parsed when they are needed.
        self._reader = _LineReader(results, f"{step}.*.jsonl", lambda line: unseal(line, _is_plain_result))
        self._own = LineFile(results / f"{step}.{rank}.jsonl")
        self.refresh()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file of this process."""
        self._own.close()

    def refresh(self) -> None:
        """Read the new results of other processes."""
        for path, position, line in self._reader.new_lines():
            self._places[line["id"], line["key"]] = (path, position)

    def get(self, record_id: str, key: str) -> StepOutput | None:
        """Return a result; None if there is none, it is damaged, or a file that it names is missing or has changed."""
        place = self._places.get((record_id, key))
        if place is None:
            return None
        path, position = place
        with path.open("rb") as file:
            file.seek(position)
            line = file.readline()
        try:
            values = unseal(line, _is_plain_result)
            outcome = outcome_of_values(values["outcome"])
        except LINE_ERRORS as error:
            logger.warning("%s: the line of %r is damaged (%s); it is computed again", path, record_id, error)
            return None
        if any(self.hashes.sha256(name) != digest for name, digest in values["files"].items()):
            return None
        return outcome

    def put(self, record_id: str, key: str, outcome: StepOutput) -> None:
        """Add a result of this process."""
        files = {name: self.hashes.sha256(name) for name in named_files(outcome)}
        missing = [name for name, digest in files.items() if digest == MISSING]
        assert not missing, f"the step names files that it did not write: {missing}"
        self._own.append({"id": record_id, "key": key, "outcome": outcome_values(outcome), "files": files})


def result_key(step: Step, record: SongRecord, hashes: ContentHashes) -> str:
    """Return the key of a step's result for a record: equal keys mean equal results."""
    files = [hashes.sha256(file) for file in step.files(record)]
    content = [step.name, step.version, step.parameters(), step.inputs(record), files]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def named_files(outcome: StepOutput) -> list[str]:
    """Return the audio files that an outcome names."""
    files = list(outcome.changes.get("audio", {}).values())
    for clip in outcome.clips or ():
        files += clip.audio.values()
    return files


def outcome_values(outcome: StepOutput) -> JsonObject:
    """Return an outcome as JSON values."""
    return {
        "changes": dict(outcome.changes),
        "clips": None if outcome.clips is None else [dataclasses.asdict(clip) for clip in outcome.clips],
        "refusal": None if outcome.refusal is None else dataclasses.asdict(outcome.refusal),
    }


def outcome_of_values(values: JsonObject) -> StepOutput:
    """Build an outcome from the values of `outcome_values`."""
    clips, refusal = values["clips"], values["refusal"]
    return StepOutput(
        changes=values["changes"],
        clips=None if clips is None else tuple(SongRecord.from_values(clip) for clip in clips),
        refusal=None if refusal is None else Refusal.from_values(refusal),
    )


def apply_outcome(step: Step | SetStep, record: SongRecord, outcome: StepOutput) -> list[SongRecord]:
    """Return the record with changes or a refusal, or the clips that replace it.

    The step's name, version and parameters are added to the provenance of every record that it has changed, together
    with the details in the outcome. Clips get the present file, line and singer of their song. These are not part of
    the result's key, so that a song that has moved to another line, or whose singer is named, is not cut again.
    """
    details = outcome.changes.get("provenance", {}).get(step.name, {})
    mark = {step.name: {"version": step.version, "parameters": step.parameters(), **details}}
    if outcome.refusal is not None:
        changes = {**outcome.changes, "refusal": dataclasses.asdict(outcome.refusal), "provenance": mark}
        return [record.changed(changes)]
    if outcome.clips is not None:
        return [
            dataclasses.replace(
                clip,
                file=record.file,
                line=record.line,
                singer=record.singer,
                provenance={**record.provenance, **mark},
            )
            for clip in outcome.clips
        ]
    return [record.changed({**outcome.changes, "provenance": mark})] if outcome.changes else [record]
