"""The step that settles tempo and key over the clips of a song, which the measurements of single clips jump between."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from songgen.prepare.engine.record import JsonObject, SongRecord
from songgen.prepare.engine.step import SetStep, StepOutput, WorkFolder
from songgen.prepare.listening.tempo_key import NOTE_NAMES, USUAL_TONICS

CONFUSED_RATIOS = (2.0, 1 / 2, 3.0, 1 / 3, 3 / 2, 2 / 3, 4 / 3, 3 / 4)
"""Ratios of a measured to the true tempo where another level of the meter was taken for the beat."""

SAME_TEMPO = 0.04
"""Largest relative difference of equal tempi."""

MAJORITY = 0.5
"""Share of the weight that a tempo or key needs to be that of the song."""

SURE_KEY = 0.9
"""Confidence from which a clip keeps a key that is not closely related to that of the song: songs modulate."""

CLOSE_STEPS = (0, 5, 7)
"""Semitones between the tonics of closely related keys of one mode: a fourth or a fifth."""

_KEY = re.compile(r"([A-G])(#|b)? (major|minor)")


def song_tempo(clips: Sequence[tuple[float, float]]) -> float | None:
    """Return the tempo that most clips of a song have, or None.

    Args:
        clips: (tempo, weight) of at least two clips.
    """
    best, support = None, 0.0
    for tempo, _ in clips:
        near = [(other, weight) for other, weight in clips if abs(other / tempo - 1) <= SAME_TEMPO]
        total = sum(weight for _, weight in near)
        if total > support:
            best, support = sum(other * weight for other, weight in near) / total, total
    return best if support > MAJORITY * sum(weight for _, weight in clips) else None


def voted_tempo(tempo: float, of_song: float) -> float:
    """Return the tempo of a clip, corrected if it differs from that of its song by a confused ratio."""
    for ratio in CONFUSED_RATIOS:
        if abs(tempo / ratio / of_song - 1) <= SAME_TEMPO:
            return round(tempo / ratio, 1)
    return tempo


def song_key(clips: Sequence[tuple[str, float]]) -> str:
    """Return the key that most clips of a song have; empty if there is none.

    Args:
        clips: (key, weight) of at least two clips.
    """
    votes: dict[str, float] = defaultdict(float)
    for key, weight in clips:
        votes[key] += weight
    best = max(sorted(votes), key=lambda key: votes[key])
    return best if votes[best] > MAJORITY * sum(votes.values()) else ""


def are_related(first: str, second: str) -> bool:
    """Return whether two keys are easily confused: neighbours in the circle of fifths, parallel or relative keys."""
    one, other = _pitch(first), _pitch(second)
    if one is None or other is None:
        return False
    (tonic, mode), (other_tonic, other_mode) = one, other
    if mode == other_mode:
        return (tonic - other_tonic) % 12 in CLOSE_STEPS
    major, minor = (tonic, other_tonic) if mode == "major" else (other_tonic, tonic)
    # The relative minor is three semitones below; its own neighbours share all tones but one.
    return (major - minor) % 12 in (0, 3, 8, 10)


def _pitch(key: str) -> tuple[int, str] | None:
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    note, accidental, mode = found.groups()
    shift = {"#": 1, "b": -1}.get(accidental or "", 0)
    return (NOTE_NAMES.index(note) + shift) % 12, mode


def usual_spelling(key: str) -> str:
    """Return a key in its usual spelling: `Eb major` for `D# major`; other texts are returned unchanged."""
    found = _pitch(key)
    return key if found is None else f"{USUAL_TONICS[found[1]][found[0]]} {found[1]}"


class SongVoteStep(SetStep):
    """Corrects measured tempi that differ from the song's by 2:1, 3:1, 3:2 or 4:3, and keys related to the song's.

    Only songs of two clips or more vote, and values that were given are not changed. A real change of tempo or a
    modulation that was measured with certainty is kept. A clip whose key was too uncertain gets that of its song.
    """

    name = "song_vote"
    version = 1

    def __init__(self, options: Any) -> None:
        """Take the options of the section; none of them changes the vote."""

    @classmethod
    def is_wanted(cls, options: Any) -> bool:
        """Return whether tempo or key are measured."""
        return options.tempo or options.key

    def parameters(self) -> JsonObject:
        """Return nothing, since there are no parameters."""
        return {}

    def run_all(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[StepOutput]:
        """Let the clips of each song vote."""
        songs: dict[str, list[SongRecord]] = defaultdict(list)
        for record in records:
            songs[record.song].append(record)
        tempi = {song: _tempo(clips) for song, clips in songs.items()}
        keys = {song: _key(clips) for song, clips in songs.items()}
        return [StepOutput(_changes(record, tempi[record.song], keys[record.song])) for record in records]


def _tempo(clips: Sequence[SongRecord]) -> float | None:
    measured = [(clip.tempo, clip.duration * clip.measures["tempo_confidence"]) for clip in clips
                if clip.tempo and "tempo_confidence" in clip.measures]  # fmt: skip
    return song_tempo(measured) if len(measured) > 1 else None


def _key(clips: Sequence[SongRecord]) -> str:
    measured = [(clip.key, clip.duration * clip.measures["key_confidence"]) for clip in clips
                if clip.key and "key_confidence" in clip.measures]  # fmt: skip
    return song_key(measured) if len(measured) > 1 else ""


def _changes(record: SongRecord, tempo: float | None, key: str) -> JsonObject:
    changes: dict[str, Any] = {}
    if tempo is not None and record.tempo and "tempo_confidence" in record.measures:
        voted = voted_tempo(record.tempo, tempo)
        if voted != record.tempo:
            changes["tempo"] = voted
    confidence = record.measures.get("key_confidence")
    if key and confidence is not None and record.key != key:
        is_weak = confidence < SURE_KEY
        if not record.key or is_weak or are_related(record.key, key):
            changes["key"] = key
    return changes
