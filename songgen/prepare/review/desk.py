"""The clips as a person reviews them: those of the last run, with the corrections of now; searched, changed, undone."""

import dataclasses
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.prepare.engine.record import FIRST, JsonObject, SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.layouts import read_records
from songgen.prepare.preparation import RECORDS_FILE
from songgen.prepare.review.corrections import (
    CORRECTIONS_FILE,
    REASON,
    VERDICT,
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
"""Which clips are listed: all, those without a verdict, those with one, those that are in the data set or not as things
stand, those that somebody has changed."""

ORDERS = ("", "confidence")
"""How clips are listed: as in the data set, or those first whose words were heard with the least certainty."""


@dataclass(frozen=True)
class Clip:
    """A clip on the desk."""

    record: SongRecord
    """With all corrections."""

    correction: Correction
    """What its edits come to."""

    confidence: float | None
    """How certain its words are, 0 to 1; None where nobody has listened."""

    def is_in_state(self, state: str) -> bool:
        """Whether it belongs to a list of clips in some state."""
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
        """Whether a text stands in its id, lyrics, caption or tags, in whatever case."""
        record = self.record
        return any(
            text.casefold() in part.casefold() for part in (record.id, record.lyrics, record.caption, *record.tags)
        )


@dataclass(frozen=True)
class Selection:
    """What a list shows."""

    state: str = ""
    """One of `STATES`."""

    reason: str = ""
    """Code of the refusal; empty for all."""

    language: str | None = None
    """Code of the language; None for all."""

    search: str = ""
    """Text that must occur; empty for none."""

    order: str = ""
    """One of `ORDERS`."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: for a state or an order that there is not.
        """
        if self.state not in STATES or self.order not in ORDERS:
            raise ValueError(f"state must be one of {STATES}, order one of {ORDERS}")

    def of(self, clips: Sequence[Clip]) -> list[Clip]:
        """Return the clips that belong to the list, in its order."""
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
    """Return how certain the words of a record are: by its transcript or by its lines, whichever is lower."""
    transcript = record.transcripts.get(FIRST)
    of_lines = [line.confidence for line in record.lines if line.confidence is not None]
    known = [transcript.confidence] if transcript is not None and transcript.confidence is not None else []
    known += [sum(of_lines) / len(of_lines)] if of_lines else []
    return min(known, default=None)


def find_work_folder(folder: Path) -> Path:
    """Return the work folder of a prepared data set, given either.

    Raises:
        ValueError: if there is none.
    """
    for candidate in (folder, folder.with_name(f"{folder.name}.work")):
        if (candidate / RECORDS_FILE).is_file():
            return candidate
    raise ValueError(
        f"{folder} is no data set of `songgen prepare`: there is no {RECORDS_FILE} in it or in {folder.name}.work "
        "beside it; the work folder is needed, since corrections stay there for the next run"
    )


class ReviewDesk:
    """All clips of a work folder; what a run or another process has changed is seen with the next question."""

    def __init__(self, work_folder: Path) -> None:
        """Read the clips.

        Raises:
            ValueError: if corrections cannot be read.
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
            KeyError: if there is none of this id.
        """
        with self._lock:
            self._refresh()
            return self._clips[clip_id]

    def orphans(self) -> list[Edit]:
        """Return the edits that fit no clip of the last run."""
        with self._lock:
            self._refresh()
            orphans = [edit for edits in self._orphans.values() for edit in edits]
        reverted = {edit.reverts for edit in orphans}
        left = (edit for edit in orphans if edit.reverts is None and edit.number not in reverted)
        return sorted(left, key=lambda edit: edit.number)

    def progress(self) -> JsonObject:
        """Return how many clips have a verdict, and how many there are."""
        clips = self.clips()
        return {"reviewed": sum(bool(clip.correction.verdict) for clip in clips), "total": len(clips)}

    def facets(self) -> JsonObject:
        """Return the refusals and the languages that there are, with counts, the most frequent first."""
        clips = self.clips()
        codes = Counter(clip.record.refusal.code for clip in clips if clip.record.refusal is not None)
        languages = Counter(clip.record.language for clip in clips)
        return {"reasons": codes.most_common(), "languages": languages.most_common()}

    def save(self, clip_id: str, version: int, changes: Mapping[str, Any]) -> Clip:
        """Change a clip; what is the same already is left out, and where nothing else is given, nothing happens.

        Args:
            clip_id: of the clip.
            version: of the clip that the person has seen.
            changes: checked values.

        Raises:
            KeyError: if there is no such clip.
            EditConflict: if the clip has another version by now.
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

    def undo(self, clip_id: str, version: int) -> Clip:
        """Take back the newest edit of a clip that was not taken back yet; without one, nothing happens.

        Raises:
            KeyError: if there is no such clip.
            EditConflict: if the clip has another version by now.
        """
        clip = self.clip(clip_id)

        def make(edits: Sequence[Edit]) -> JsonObject:
            last = self._require_version(clip_id, version, edits).last
            if last is None:
                raise EditConflict
            undone = edits[last - 1]
            # At the place of what it takes back, so that both fit the same clip after another cut.
            return {"reverts": undone.number, "start": undone.start, "end": undone.end}

        if clip.correction.last is not None:
            self._log.append(clip.record, make)
        return self.clip(clip_id)

    def _require_version(self, clip_id: str, version: int, edits: Sequence[Edit]) -> Correction:
        """Return what the edits of a clip come to; the caller holds the file, so that nobody adds any."""
        with self._lock:  # another thread may be reading the clips of a new run
            record = self._clips[clip_id].record
            songs = self._songs[record.song]
        found, _ = match_edits(songs, [edit for edit in edits if edit.song == record.song])
        correction = combine(record, found.get(clip_id, []))
        if correction.version != version:
            raise EditConflict
        return correction

    def _refresh(self) -> None:
        """Read again what has changed on disk; only songs with new edits are looked at anew."""
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
    """Return what some fields of a clip hold now, as JSON values."""
    values: JsonObject = {**dataclasses.asdict(clip.record), "tags": list(clip.record.tags)}
    values["lines"] = list(values["lines"])
    values |= {name: clip.correction.values.get(name, "") for name in (VERDICT, REASON)}
    return {name: values[name] for name in names}
