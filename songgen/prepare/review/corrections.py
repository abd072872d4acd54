"""Corrections by a person, stored separately from the results of the steps, so that they survive every rerun.

`<work>/corrections.jsonl` is only appended to: a line is one edit of one clip, or undoes an earlier edit. A clip is
identified by its song and its start and end there, not by its id, so that it keeps its corrections if it is cut again
at about the same places. Edits that match no clip any more are reported.
"""

import dataclasses
import fcntl
import io
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from songgen.prepare.engine.record import ACCEPTED, REVIEW, VERDICT, JsonObject, Refusal, SongRecord
from songgen.prepare.engine.section import Phase, RefusalCode
from songgen.prepare.sections import is_over_songs
from songgen.runtime.files import write_bytes_atomic
from songgen.runtime.json_lines import seal, unseal, was_complete

CORRECTIONS_VERSION = 1
"""Version of how corrections are applied; part of the provenance."""

CORRECTIONS_FILE = "corrections.jsonl"
"""In the work folder: every edit."""

APPLIED_FILE = "corrections_applied.jsonl"
"""In the work folder: the edits as the last run read them."""

MATCH_SECONDS = 0.25
"""Largest distance of start and end between a clip and an edit that belongs to it."""

REFUSED, REASON = "refused", "reason"
WORD_FIELDS = ("language", "lyrics", "lines")
DESCRIPTION_FIELDS = ("caption", "tags")
EDITABLE = (*WORD_FIELDS, *DESCRIPTION_FIELDS, VERDICT, REASON)
"""Fields that an edit may change."""

REFUSED_CODE = "refused_in_review"
REVIEW_CODES = {REFUSED_CODE: RefusalCode("a person has left it out")}


GIVEN_UP = b"{}"
"""Line in place of a damaged edit that a person gives up."""

_PLACE_FIELDS = {"id", "song", "start", "end", "time"}
_CHANGE_FIELDS = {"changes", "before", "reverts"}


class EditConflict(Exception):
    """The clip was changed elsewhere in the meantime."""


@dataclass(frozen=True)
class Edit:
    """One line of the file."""

    number: int
    """Number of the line, from 1."""

    id: str
    """Id of the clip at that time, for information only: after another cut, it may belong to another clip."""

    song: str
    """Id of the clip's song."""

    start: float
    """Start of the clip in the song, in seconds."""

    end: float
    """End of the clip in the song, in seconds."""

    time: str
    """Time of the edit (ISO 8601, UTC)."""

    changes: JsonObject = field(default_factory=dict)
    """Field -> new value; fields of `EDITABLE`, as JSON values."""

    before: JsonObject = field(default_factory=dict)
    """Field -> previous value."""

    reverts: int | None = None
    """Number of the edit that is undone; None for an edit that changes fields."""


class EditLog:
    """The file of edits; several processes may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._content = b""
        self._edits: list[Edit] = []

    def read(self) -> list[Edit]:
        """Return all edits in order; the list is the same object until the file changes.

        Raises:
            ValueError: If a line is not an edit.
        """
        with self._lock:
            try:
                status = self.path.stat()
                state = (status.st_size, status.st_mtime_ns, status.st_ino)
                if state != self._state:
                    content = self.path.read_bytes()
                    self._parse(content)
                    self._state = state if len(content) == state[0] else None
            except FileNotFoundError:
                if self._edits:
                    self._parse(b"")
                self._state = None
            return self._edits

    def _parse(self, content: bytes) -> None:
        """Update the edits from the content of the file; only new lines are parsed."""
        is_longer = content.startswith(self._content)
        edits = [*self._edits] if is_longer else []
        added = content[len(self._content) :] if is_longer else content
        self._edits = [*edits, *parse_edits(added, self.path, first=len(edits) + 1)]
        # Anything after the last line break was cut off by a kill, or is being written.
        self._content = content[: content.rfind(b"\n") + 1]

    def append(self, record: SongRecord, make: Callable[[Sequence[Edit]], JsonObject]) -> Edit:
        """Append an edit of a record; it is on disk when this returns.

        Args:
            record: record of the clip.
            make: function from all edits so far to the fields of the new one, without its place; it may raise.
        """
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            with self._lock:
                self._parse(content)
                edits = self._edits
            place: JsonObject = {"id": record.id, "song": record.song}
            place |= {"start": record.start, "end": record.start + record.duration}
            time = datetime.now(UTC).isoformat(timespec="seconds")
            edit = Edit(number=len(edits) + 1, time=time, **{**place, **make(edits)})
            # A line that a kill has cut off is not an edit.
            file.truncate(content.rfind(b"\n") + 1)
            values = {name: value for name, value in dataclasses.asdict(edit).items() if value not in (None, {})}
            del values["number"]
            file.write(seal(values).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return edit


def parse_edits(content: bytes, path: Path, first: int = 1) -> list[Edit]:
    """Parse lines of a file of edits, starting with number `first`; text after the last line break is ignored.

    Raises:
        ValueError: If a line is not an edit. It is not set aside like a result, because nobody can compute it again,
            and the clip would return to the data set, or leave it, without notice.
    """
    edits = []
    for number, line in enumerate(io.BytesIO(content), first):
        if not line.endswith(b"\n") and not was_complete(line, _read_edit):
            break
        try:
            edits.append(Edit(number=number, **_read_edit(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: this is not a correction, or it is damaged ({error}); restore the line from a copy, "
                f"or replace it with {GIVEN_UP.decode()} to give this correction up"
            ) from error
    return edits


def _read_edit(line: bytes) -> JsonObject:
    """Parse a line; one that was given up keeps its number, to which other lines refer."""
    if line.strip() == GIVEN_UP:
        return {"id": "", "song": "", "start": 0.0, "end": 0.0, "time": ""}
    return unseal(line, lambda values: _PLACE_FIELDS <= values.keys() <= _PLACE_FIELDS | _CHANGE_FIELDS)


@dataclass(frozen=True)
class Correction:
    """Combined result of all edits of a clip."""

    values: Mapping[str, Any]
    """Field -> corrected value, as JSON values; fields without a valid edit are absent."""

    version: int
    """Number of the newest edit, undone or not; 0 for none. A change must be based on this version."""

    last: int | None
    """Number of the newest edit that was not undone."""

    time: str
    """Time of the newest edit that was not undone."""

    undone: Mapping[str, Any]
    """Field -> value before its first edit, for fields whose edits were all undone."""

    @property
    def verdict(self) -> str:
        """`accepted`, `refused`, or empty without a decision."""
        return str(self.values.get(VERDICT, ""))


def match_edits(
    records: Iterable[SongRecord], edits: Sequence[Edit], tolerance: float = MATCH_SECONDS
) -> tuple[dict[str, list[Edit]], list[Edit]]:
    """Assign edits to clips.

    Args:
        records: all records, before or after cutting.
        edits: all edits.
        tolerance: largest difference of start and end, in seconds.

    Returns:
        Id of a record -> its edits, in order; and the edits that match no record.
    """
    clips: dict[str, list[SongRecord]] = defaultdict(list)
    edited = {edit.song for edit in edits}
    for record in records:
        if record.song in edited:
            clips[record.song].append(record)
    found: dict[str, list[Edit]] = defaultdict(list)
    orphans = []
    for edit in edits:
        near = [(max(abs(record.start - edit.start), abs(record.start + record.duration - edit.end)), record.id)
                for record in clips[edit.song]]  # fmt: skip
        distance, record_id = min(near, default=(float("inf"), ""))
        if distance <= tolerance:
            found[record_id].append(edit)
        else:
            orphans.append(edit)
    return dict(found), orphans


def combine(record: SongRecord, edits: Sequence[Edit]) -> Correction:
    """Combine the edits of a record.

    Times of lines count from the start of the clip, so they are shifted if the clip was cut again.
    """
    reverted = {edit.reverts for edit in edits}
    values: JsonObject = {}
    undone: JsonObject = {}
    last: Edit | None = None
    for edit in edits:
        for name, value in edit.before.items():
            undone.setdefault(name, _in_time_of(record, edit, name, value))
        if edit.reverts is None and edit.number not in reverted:
            values |= {name: _in_time_of(record, edit, name, value) for name, value in edit.changes.items()}
            last = edit
    return Correction(
        values=values,
        version=edits[-1].number if edits else 0,
        last=last.number if last else None,
        time=last.time if last else "",
        undone={name: value for name, value in undone.items() if name not in values},
    )


def _in_time_of(record: SongRecord, edit: Edit, name: str, value: Any) -> Any:
    if name != "lines":
        return value
    shift = edit.start - record.start
    return [
        {**line, **{side: round(min(max(line[side] + shift, 0.0), record.duration), 6) for side in ("start", "end")}}
        for line in value
    ]


def corrected(record: SongRecord, correction: Correction, fields: Collection[str] = EDITABLE) -> SongRecord:
    """Return a record with its corrections.

    Args:
        record: result of the steps.
        correction: correction of this record.
        fields: fields that apply at this point. An accepted clip is included, whatever step refused it, unless the
            refused record is a whole song.
    """
    changes = {name: correction.values[name] for name in (*WORD_FIELDS, *DESCRIPTION_FIELDS)
               if name in fields and name in correction.values}  # fmt: skip
    if "lyrics" in changes:
        changes["lyrics_source"] = REVIEW if changes["lyrics"] else "instrumental"
    note: JsonObject = {**record.provenance.get(REVIEW, {}).get("parameters", {}), "time": correction.time}
    note["fields"] = sorted({*note.get("fields", []), *changes} - {"lyrics_source"})
    if correction.verdict == ACCEPTED and can_be_accepted(record) and record.refusal is not None:
        note["lifted"] = dataclasses.asdict(record.refusal)
        changes["refusal"] = None
    if correction.verdict == REFUSED and VERDICT in fields and record.refusal is None:
        reason = correction.values.get(REASON) or "left out by a person"
        changes["refusal"] = dataclasses.asdict(Refusal(REVIEW, REFUSED_CODE, reason))
    if correction.verdict and VERDICT in fields:
        note[VERDICT] = correction.verdict
    elif not changes:
        return record
    return record.changed({**changes, "provenance": {REVIEW: {"version": CORRECTIONS_VERSION, "parameters": note}}})


def can_be_accepted(record: SongRecord) -> bool:
    """Return whether a person may accept a record: it is a clip, or a song that was not to be cut."""
    return record.refusal is None or not is_over_songs(record.refusal.step)


def shown(record: SongRecord, correction: Correction) -> SongRecord:
    """Return a record of the last run with the present corrections, and without those undone since."""
    note = record.provenance.get(REVIEW, {}).get("parameters", {})
    back = {name: value for name, value in correction.undone.items() if name in note.get("fields", [])}
    if correction.verdict != note.get(VERDICT, ""):
        if record.refusal is not None and record.refusal.step == REVIEW:
            back["refusal"] = None
        elif "lifted" in note:
            back["refusal"] = note["lifted"]
    return corrected(record.changed(back) if back else record, correction)


class Corrections:
    """The edits that a run applies."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = edits

    def apply(self, records: Sequence[SongRecord], after: Phase) -> list[SongRecord]:
        """Return the records with corrections: words once clips are cut, other fields once clips are described.

        This is called after every section, on or off, so that an accepted clip continues whatever section refused it,
        and the next section gets corrected words.

        Args:
            records: all records.
            after: phase of the section that is done.
        """
        if not self.edits or after is Phase.SONGS:
            return list(records)
        # Captions and tags wait until clips are described, since the tag step skips clips that have them.
        fields = EDITABLE if after is Phase.DESCRIBED else WORD_FIELDS
        found, _ = match_edits(records, self.edits)
        return [
            corrected(record, combine(record, found[record.id]), fields) if record.id in found else record
            for record in records
        ]

    def orphans(self, records: Sequence[SongRecord]) -> list[Edit]:
        """Return the edits that match no record and were not undone."""
        reverted = {edit.reverts for edit in self.edits}
        _, orphans = match_edits(records, self.edits)
        return [edit for edit in orphans if edit.changes and edit.number not in reverted]


def set_aside(work_folder: Path) -> None:
    """Copy the present edits, so that all processes of a run apply the same ones while a person continues.

    Raises:
        ValueError: If a line of the file is not an edit.
    """
    file = work_folder / CORRECTIONS_FILE
    content = file.read_bytes() if file.is_file() else b""
    parse_edits(content, file)
    write_bytes_atomic(work_folder / APPLIED_FILE, content)


def read_corrections(work_folder: Path, name: str = CORRECTIONS_FILE) -> Corrections:
    """Read the edits of a work folder; `APPLIED_FILE` is the copy of the last run.

    Raises:
        ValueError: If a line of the file is not an edit.
    """
    return Corrections(EditLog(work_folder / name).read())
