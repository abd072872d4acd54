"""Results of the steps on disk, so that no work is repeated: one line for each result, read by every later run.

A line is `{id, key, outcome, files}` in `<work>/results/<step>.<process>.jsonl`. Every process appends to a file of its
own and flushes each line, so that a kill loses at most the line that was being written. A torn line is ignored.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.prepare.engine.step import SetStep, Step, StepOutcome, WorkFolder
from songgen.runtime.files import file_sha256

RESULTS_FOLDER = "results"
"""In the work folder: the results of all steps."""

HASHES_NAME = "hashes"
"""In the work folder: hashes of the contents of files, one list for each process."""

MISSING = ""
"""Hash of a file that does not exist."""


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
        self._file.write(json.dumps(values).encode("ascii") + b"\n")
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


class _LineReader:
    """Reads the complete lines that were added to some files since the last call."""

    def __init__(self, folder: Path, pattern: str) -> None:
        self.folder = folder
        self.pattern = pattern
        self._ends: dict[Path, int] = {}

    def new_lines(self) -> Iterator[tuple[Path, int, JsonObject]]:
        """Yield file, position and values of every new line; lines that are not JSON objects are skipped."""
        for path in sorted(self.folder.glob(self.pattern)):
            position = self._ends.get(path, 0)
            with path.open("rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    try:
                        values = json.loads(line)
                    except ValueError:
                        values = None
                    if isinstance(values, dict):
                        yield path, position, values
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
        self._reader = _LineReader(folder.root, f"{HASHES_NAME}.*.jsonl")
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
        self._reader = _LineReader(results, f"{step}.*.jsonl")
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

    def get(self, record_id: str, key: str) -> StepOutcome | None:
        """Return a result; None if there is none, or if a file that it names is missing or has changed."""
        place = self._places.get((record_id, key))
        if place is None:
            return None
        path, position = place
        with path.open("rb") as file:
            file.seek(position)
            line = json.loads(file.readline())
        if any(self.hashes.sha256(name) != digest for name, digest in line["files"].items()):
            return None
        return outcome_of_values(line["outcome"])

    def put(self, record_id: str, key: str, outcome: StepOutcome) -> None:
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


def named_files(outcome: StepOutcome) -> list[str]:
    """Return the audio files that an outcome names."""
    files = list(outcome.changes.get("audio", {}).values())
    for clip in outcome.clips or ():
        files += clip.audio.values()
    return files


def outcome_values(outcome: StepOutcome) -> JsonObject:
    """Return an outcome as JSON values."""
    return {
        "changes": dict(outcome.changes),
        "clips": None if outcome.clips is None else [dataclasses.asdict(clip) for clip in outcome.clips],
        "refusal": None if outcome.refusal is None else dataclasses.asdict(outcome.refusal),
    }


def outcome_of_values(values: JsonObject) -> StepOutcome:
    """Build an outcome from the values of `outcome_values`."""
    clips, refusal = values["clips"], values["refusal"]
    return StepOutcome(
        changes=values["changes"],
        clips=None if clips is None else tuple(SongRecord.from_values(clip) for clip in clips),
        refusal=None if refusal is None else Refusal.from_values(refusal),
    )


def apply_outcome(step: Step | SetStep, record: SongRecord, outcome: StepOutcome) -> list[SongRecord]:
    """Return the record with changes or a refusal, or the clips that replace it.

    The step's name, version and parameters are added to the provenance of every record that it has changed, together
    with the details in the outcome. Clips get the present file and line of their song. These are not part of the
    result's key, so that a song that has moved to another line is not cut again.
    """
    details = outcome.changes.get("provenance", {}).get(step.name, {})
    mark = {step.name: {"version": step.version, "parameters": step.parameters(), **details}}
    if outcome.refusal is not None:
        changes = {**outcome.changes, "refusal": dataclasses.asdict(outcome.refusal), "provenance": mark}
        return [record.changed(changes)]
    if outcome.clips is not None:
        return [
            dataclasses.replace(clip, file=record.file, line=record.line, provenance={**record.provenance, **mark})
            for clip in outcome.clips
        ]
    return [record.changed({**outcome.changes, "provenance": mark})] if outcome.changes else [record]
