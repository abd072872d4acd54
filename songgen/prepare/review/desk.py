"""The clips of the last run with the present corrections, for review: search, change, undo."""

import dataclasses
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.prepare.engine.record import ACCEPTED, FIRST, REVIEW, VERDICT, JsonObject, SongRecord
from songgen.prepare.engine.record_files import RECORDS_FILE, read_records
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.review.corrections import (
    CORRECTIONS_FILE,
    REASON,
    Correction,
    Edit,
    EditConflict,
    EditLog,
    combine,
    match_edits,
    shown,
)

PAGE_SIZE = 50
"""Clips on one page of the list."""

STATES = ("", "open", "accepted", "refused", "in", "out", "corrected")
"""States of clips to list: all, without verdict, accepted, refused, at present in the data set or not, corrected."""

LIST_ORDERS = ("", "confidence")
"""Orders of the list: as in the data set, or by confidence of the words, lowest first."""


@dataclass(frozen=True)
class Clip:
    """A clip under review."""

    record: SongRecord
    """Record with all corrections."""

    correction: Correction
    """Combined result of its edits."""

    confidence: float | None
    """Confidence of its words, 0 to 1; None without a transcript."""

    def is_in_state(self, state: str) -> bool:
        """Return whether the clip is in a state of `STATES`."""
        tests: Mapping[str, bool] = {
            "": True,
            "open": not self.correction.verdict,
            "accepted": self.correction.verdict == "accepted",
            "refused": self.correction.verdict == "refused",
            "in": self.record.refusal is None,
            "out": self.record.refusal is not None,
            "corrected": bool({*self.correction.values} - {VERDICT, REASON}),
        }
        return tests[state]

    def contains(self, text: str) -> bool:
        """Return whether id, lyrics, caption or tags contain a text, ignoring case."""
        record = self.record
        return any(
            text.casefold() in part.casefold() for part in (record.id, record.lyrics, record.caption, *record.tags)
        )


@dataclass(frozen=True)
class Selection:
    """Filter and order of a list of clips."""

    state: str = ""
    """One of `STATES`."""

    reason: str = ""
    """Code of a refusal; empty for all."""

    language: str | None = None
    """Language code; None for all."""

    search: str = ""
    """Text to search for; empty for none."""

    order: str = ""
    """One of `LIST_ORDERS`."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If state or order is unknown.
        """
        if self.state not in STATES or self.order not in LIST_ORDERS:
            raise ValueError(f"state must be one of {STATES}, order one of {LIST_ORDERS}")

    def of(self, clips: Sequence[Clip]) -> list[Clip]:
        """Return the selected clips, in order."""
        chosen = [
            clip
            for clip in clips
            if clip.is_in_state(self.state)
            and (not self.reason or (clip.record.refusal is not None and clip.record.refusal.code == self.reason))
            and (self.language is None or clip.record.language == self.language)
            and (not self.search or clip.contains(self.search))
        ]
        if self.order == "confidence":
            chosen.sort(key=lambda clip: 2.0 if clip.confidence is None else clip.confidence)
        return chosen


def confidence_of(record: SongRecord) -> float | None:
    """Return the confidence of a record's words: that of its transcript or of its lines, whichever is lower."""
    transcript = record.transcripts.get(FIRST)
    of_lines = [line.confidence for line in record.lines if line.confidence is not None]
    known = [transcript.confidence] if transcript is not None and transcript.confidence is not None else []
    known += [sum(of_lines) / len(of_lines)] if of_lines else []
    return min(known, default=None)


def copy_of(record: SongRecord) -> str:
    """Return the id of the clip that was kept in place of this one; empty for a clip that is not a copy."""
    if record.refusal is not None:
        return record.refusal.kept
    lifted = record.provenance.get(REVIEW, {}).get("parameters", {}).get("lifted", {})
    return str(lifted.get("kept", ""))


def find_work_folder(folder: Path) -> Path:
    """Return the work folder of a prepared data set, given either.

    Raises:
        ValueError: If there is none.
    """
    for candidate in (folder, folder.with_name(f"{folder.name}.work")):
        if (candidate / RECORDS_FILE).is_file():
            return candidate
    raise ValueError(
        f"{folder} is not a data set of `songgen prepare`: there is no {RECORDS_FILE} in it or in {folder.name}.work "
        "next to it; the work folder is needed, since corrections are kept there for the next run"
    )


class ReviewDesk:
    """All clips of a work folder; every call sees the changes of runs and other processes."""

    def __init__(self, work_folder: Path) -> None:
        """Read the clips.

        Raises:
            ValueError: If corrections cannot be read.
        """
        self.folder = WorkFolder(work_folder)
        self._log = EditLog(work_folder / CORRECTIONS_FILE)
        self._lock = threading.Lock()
        self._records_state: tuple[int, int] | None = None
        self._songs: dict[str, list[SongRecord]] = {}
        self._seen: list[Edit] = []
        self._clips: dict[str, Clip] = {}
        self._orphans: dict[str, list[Edit]] = {}
        self.clips()

    def clips(self) -> list[Clip]:
        """Return all clips, in the order of the data set."""
        with self._lock:
            self._refresh()
            return list(self._clips.values())

    def clip(self, clip_id: str) -> Clip:
        """Return a clip.

        Raises:
            KeyError: If there is no such clip.
        """
        with self._lock:
            self._refresh()
            return self._clips[clip_id]

    def orphans(self) -> list[Edit]:
        """Return the edits that match no clip of the last run."""
        with self._lock:
            self._refresh()
            orphans = [edit for edits in self._orphans.values() for edit in edits]
        reverted = {edit.reverts for edit in orphans}
        left = (edit for edit in orphans if edit.changes and edit.number not in reverted)
        return sorted(left, key=lambda edit: edit.number)

    def progress(self) -> JsonObject:
        """Return how many clips have a verdict, and how many there are."""
        clips = self.clips()
        return {"reviewed": sum(bool(clip.correction.verdict) for clip in clips), "total": len(clips)}

    def facets(self) -> JsonObject:
        """Return the existing codes of refusals and languages with counts, the most frequent first."""
        clips = self.clips()
        codes = Counter(clip.record.refusal.code for clip in clips if clip.record.refusal is not None)
        languages = Counter(clip.record.language for clip in clips)
        return {"reasons": codes.most_common(), "languages": languages.most_common()}

    def save(self, clip_id: str, version: int, changes: Mapping[str, Any]) -> Clip:
        """Change a clip; equal values are dropped, and without any difference nothing is written.

        Args:
            clip_id: id of the clip.
            version: version of the clip that the change is based on.
            changes: checked values of fields.

        Raises:
            KeyError: If there is no such clip.
            EditConflict: If the clip has a newer version.
        """
        clip = self.clip(clip_id)
        before = _plain_values(clip, changes)
        different = {name: value for name, value in changes.items() if value != before[name]}
        if not different:
            return clip

        def make(edits: Sequence[Edit]) -> JsonObject:
            self._require_version(clip_id, version, edits)
            return {"changes": different, "before": {name: before[name] for name in different}}

        self._log.append(clip.record, make)
        return self.clip(clip_id)

    def keep_instead(self, clip_id: str, version: int) -> Clip:
        """Accept a copy that was left out, and no other copy of the same recording: the next run keeps this one.

        Raises:
            KeyError: If there is no such clip.
            EditConflict: If the clip has a newer version.
            ValueError: If the clip is not a copy of another one.
        """
        kept = copy_of(self.clip(clip_id).record)
        if not kept:
            raise ValueError(f"{clip_id} was not left out as a copy of another clip")
        chosen = self.save(clip_id, version, {VERDICT: ACCEPTED})
        for other in self.clips():
            is_copy = other.record.id == kept or copy_of(other.record) == kept
            if is_copy and other.record.id != clip_id and other.correction.verdict == ACCEPTED:
                self.save(other.record.id, other.correction.version, {VERDICT: ""})
        return chosen

    def undo(self, clip_id: str, version: int) -> Clip:
        """Undo the newest edit of a clip that was not undone yet; without one, nothing happens.

        Raises:
            KeyError: If there is no such clip.
            EditConflict: If the clip has a newer version.
        """
        clip = self.clip(clip_id)

        def make(edits: Sequence[Edit]) -> JsonObject:
            last = self._require_version(clip_id, version, edits).last
            if last is None:
                raise EditConflict
            undone = edits[last - 1]
            # At the place of the edit that it undoes, so that both match the same clip after another cut.
            return {"reverts": undone.number, "start": undone.start, "end": undone.end}

        if clip.correction.last is not None:
            self._log.append(clip.record, make)
        return self.clip(clip_id)

    def _require_version(self, clip_id: str, version: int, edits: Sequence[Edit]) -> Correction:
        """Return the combined edits of a clip; the caller holds the file lock, so that none is added."""
        with self._lock:  # another thread may be reading the clips of a new run
            record = self._clips[clip_id].record
            songs = self._songs[record.song]
        found, _ = match_edits(songs, [edit for edit in edits if edit.song == record.song])
        correction = combine(record, found.get(clip_id, []))
        if correction.version != version:
            raise EditConflict
        return correction

    def _refresh(self) -> None:
        """Read changes from disk; only songs with new edits are updated."""
        path = self.folder.path(RECORDS_FILE)
        status = path.stat()
        state = (status.st_mtime_ns, status.st_ino)
        edits = self._log.read()
        if state == self._records_state and edits is self._seen:
            return
        if state != self._records_state or edits[: len(self._seen)] != self._seen:
            records = read_records(path)
            self._songs = defaultdict(list)
            for record in records:
                self._songs[record.song].append(record)
            self._clips = {record.id: _clip(record, []) for record in records}  # in the order of the data set
            self._orphans, self._seen = {}, []
        changed = {edit.song for edit in edits[len(self._seen) :]}
        of_song: dict[str, list[Edit]] = defaultdict(list)
        for edit in edits:
            if edit.song in changed:
                of_song[edit.song].append(edit)
        for song, listed in of_song.items():
            records = self._songs.get(song, [])
            found, self._orphans[song] = match_edits(records, listed)
            self._clips |= {record.id: _clip(record, found.get(record.id, [])) for record in records}
        self._records_state, self._seen = state, edits


def _clip(record: SongRecord, edits: Sequence[Edit]) -> Clip:
    correction = combine(record, edits)
    return Clip(shown(record, correction), correction, confidence_of(record))


def _plain_values(clip: Clip, names: Mapping[str, Any]) -> JsonObject:
    """Return the present values of some fields of a clip, as JSON values."""
    values: JsonObject = {**dataclasses.asdict(clip.record), "tags": list(clip.record.tags)}
    values["lines"] = list(values["lines"])
    values |= {name: clip.correction.values.get(name, "") for name in (VERDICT, REASON)}
    return {name: values[name] for name in names}
