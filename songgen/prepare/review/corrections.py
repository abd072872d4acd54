"""What a person has corrected, kept apart from what the steps find, so that it survives every rerun of theirs.

`<work>/corrections.jsonl` only grows: a line is one edit of one clip, or says that an earlier edit was taken back. A
clip is known by its song and by its beginning and end there, not by its id: cut anew at about the same places, it finds
its corrections again; what fits no clip any more is reported.
"""

import dataclasses
import fcntl
import json
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from songgen.prepare.engine.phases import PHASES, Phase, is_over_songs
from songgen.prepare.engine.record import JsonObject, Refusal, SongRecord
from songgen.runtime.files import write_text_atomic

REVIEW = "review"
"""In provenance and in refusals: what a person did."""

VERSION = 1
"""Of how corrections are applied; part of the provenance."""

CORRECTIONS_FILE = "corrections.jsonl"
"""In the work folder: every edit."""

APPLIED_FILE = "corrections_applied.jsonl"
"""In the work folder: the edits as the last run has read them."""

MATCH_SECONDS = 0.25
"""A clip whose beginning and end lie no farther from those of an edit is the same clip."""

ACCEPTED, REFUSED = "accepted", "refused"

VERDICT, REASON = "verdict", "reason"
WORD_FIELDS = ("language", "lyrics", "lines")
DESCRIPTION_FIELDS = ("caption", "tags")
EDITABLE = (*WORD_FIELDS, *DESCRIPTION_FIELDS, VERDICT, REASON)
"""What an edit may change."""

REFUSED_CODE = "refused_in_review"


class EditConflict(Exception):
    """The clip was changed by somebody else in the meantime."""


@dataclass(frozen=True)
class Edit:
    """One line of the file."""

    number: int
    """Of the line, from 1."""

    id: str
    """Id that the clip had then; for people, since another cut may give it to another clip."""

    song: str
    """Id of its song."""

    start: float
    """Where in the song the clip began, seconds."""

    end: float
    """Where it ended."""

    time: str
    """When it was made (ISO 8601, UTC)."""

    changes: JsonObject = field(default_factory=dict)
    """Field -> value from now on: those of `EDITABLE`, as JSON values."""

    before: JsonObject = field(default_factory=dict)
    """Field -> value until then."""

    reverts: int | None = None
    """Number of the edit that is taken back; None for an edit that changes something."""


class EditLog:
    """The file of edits, which several processes may append to."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not exist."""
        self.path = path
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._content = b""
        self._edits: list[Edit] = []

    def read(self) -> list[Edit]:
        """Return all edits, in the order in which they were made: the same list while the file stays as it is.

        Raises:
            ValueError: for a line that is no edit.
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
        """Take over the content of the file; only what was added to what is known is parsed."""
        is_longer = content.startswith(self._content)
        edits = [*self._edits] if is_longer else []
        added = content[len(self._content) :] if is_longer else content
        self._edits = [*edits, *parse_edits(added, self.path, first=len(edits) + 1)]
        # What stands behind the last line break was cut off by a kill, or is being written.
        self._content = content[: content.rfind(b"\n") + 1]

    def append(self, record: SongRecord, make: Callable[[Sequence[Edit]], JsonObject]) -> Edit:
        """Add an edit of a record; it is on the disk when this returns.

        Args:
            record: the clip.
            make: gets all edits made so far, returns the fields of the new one besides its place; it may raise.
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
            # A line that a kill has cut off is no edit.
            file.truncate(content.rfind(b"\n") + 1)
            values = {name: value for name, value in dataclasses.asdict(edit).items() if value not in (None, {})}
            del values["number"]
            file.write(json.dumps(values).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return edit


def parse_edits(content: bytes, path: Path, first: int = 1) -> list[Edit]:
    """Read lines of a file of edits, from line number `first` on; what stands behind the last line break is no line.

    Raises:
        ValueError: for a line that is no edit.
    """
    edits = []
    for number, line in enumerate(content.splitlines(keepends=True), first):
        if not line.endswith(b"\n"):
            break
        try:
            edits.append(Edit(number=number, **json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: this is no correction ({error}); remove or repair the line") from error
    return edits


@dataclass(frozen=True)
class Correction:
    """What all edits of a clip come to."""

    values: Mapping[str, Any]
    """Field -> corrected value, as JSON values; fields that no edit speaks of, or not any more, are absent."""

    version: int
    """Number of the newest edit, taken back or not; 0 for none. Who changes the clip must have seen it."""

    last: int | None
    """Number of the newest edit that was not taken back."""

    time: str
    """When the newest of those was made."""

    undone: Mapping[str, Any]
    """Field -> value before its first edit, for fields all of whose edits were taken back."""

    @property
    def verdict(self) -> str:
        """`accepted`, `refused`, or empty while nobody has decided."""
        return str(self.values.get(VERDICT, ""))


def match_edits(
    records: Iterable[SongRecord], edits: Sequence[Edit], tolerance: float = MATCH_SECONDS
) -> tuple[dict[str, list[Edit]], list[Edit]]:
    """Find the clips that edits belong to.

    Args:
        records: all of them, before or after cutting.
        edits: all of them.
        tolerance: seconds that beginning and end may differ by.

    Returns:
        Id of a record -> its edits, in order; and the edits that fit no record.
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
    """Return what the edits of a record come to.

    Times of lines, which count from the beginning of the clip, are those of the record even if it was cut anew.
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
    """Return a record as a person wants it.

    Args:
        record: as the steps have left it.
        correction: of this record.
        fields: those that apply by now. A clip that a person has accepted is in, whatever step left it out, once it is
            a clip at all.
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
    return record.changed({**changes, "provenance": {REVIEW: {"version": VERSION, "parameters": note}}})


def can_be_accepted(record: SongRecord) -> bool:
    """Whether a person may take a record in: it is a clip, or a song that was not to be cut."""
    return record.refusal is None or not is_over_songs(record.refusal.step)


def shown(record: SongRecord, correction: Correction) -> SongRecord:
    """Return a record of the last run with the corrections of now, also with those taken back that the run had seen."""
    note = record.provenance.get(REVIEW, {}).get("parameters", {})
    back = {name: value for name, value in correction.undone.items() if name in note.get("fields", [])}
    if correction.verdict != note.get(VERDICT, ""):
        if record.refusal is not None and record.refusal.step == REVIEW:
            back["refusal"] = None
        elif "lifted" in note:
            back["refusal"] = note["lifted"]
    return corrected(record.changed(back) if back else record, correction)


class Corrections:
    """Edits, as a run of the preparation applies them."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        """Keep the edits."""
        self.edits = edits

    def apply(self, records: Sequence[SongRecord], after: str) -> list[SongRecord]:
        """Return the records with what applies by now: words once clips are cut, the rest once they are described.

        To be called after every section, switched on or not: a clip that a person has accepted goes on, whatever
        section left it out, and the next section sees corrected words.

        Args:
            records: all of them.
            after: name of the section that is done.
        """
        if not self.edits or PHASES[after] is Phase.SONGS:
            return list(records)
        # Until clips are described, captions and tags wait: they would keep the tagging from its work.
        fields = EDITABLE if PHASES[after] is Phase.DESCRIBED else WORD_FIELDS
        found, _ = match_edits(records, self.edits)
        return [
            corrected(record, combine(record, found[record.id]), fields) if record.id in found else record
            for record in records
        ]

    def orphans(self, records: Sequence[SongRecord]) -> list[Edit]:
        """Return the edits that fit none of the records and were not taken back."""
        reverted = {edit.reverts for edit in self.edits}
        _, orphans = match_edits(records, self.edits)
        return [edit for edit in orphans if edit.reverts is None and edit.number not in reverted]


def set_aside(work_folder: Path) -> None:
    """Copy the edits of this moment, so that all processes of a run apply the same while a person goes on."""
    file = work_folder / CORRECTIONS_FILE
    write_text_atomic(work_folder / APPLIED_FILE, file.read_text(encoding="utf-8") if file.is_file() else "")


def read_corrections(work_folder: Path, name: str = CORRECTIONS_FILE) -> Corrections:
    """Return all edits of a work folder; `APPLIED_FILE` names those that were set aside.

    Raises:
        ValueError: for a line of the file that is no edit.
    """
    return Corrections(EditLog(work_folder / name).read())
