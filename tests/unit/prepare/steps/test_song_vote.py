"""Tempo and key are settled over the clips of a song."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.steps.measures import MeasureOptions
from songgen.prepare.steps.song_vote import SongVoteStep, are_related, usual_spelling
from songgen.prepare.steps.voice_activity import FRAME_SECONDS, VoiceOptions, voiced_intervals


def clip(
    number: int, *, song: str = "s", is_measured: bool = True, confidence: float = 0.85, **values: Any
) -> SongRecord:
    measures = {"tempo_confidence": 0.5, "key_confidence": confidence} if is_measured else {}
    return SongRecord(id=f"{song}~{number}", song=song, file="f", line=1, duration=12.0, measures=measures, **values)


def voted(clips: list[SongRecord]) -> list[SongRecord]:
    outcomes = SongVoteStep(MeasureOptions()).run_all(clips, WorkFolder(Path()))
    return [record.changed(outcome.changes) for record, outcome in zip(clips, outcomes, strict=True)]


@pytest.mark.parametrize("ratio", [2.0, 1 / 2, 3 / 2, 2 / 3, 4 / 3, 3 / 4])
def test_a_clip_at_another_level_of_the_meter_gets_the_tempo_of_its_song(ratio: float) -> None:
    tempi = [118.0, 118.4, round(118.2 * ratio, 1), 117.9, 118.2]
    found = [record.tempo for record in voted([clip(number, tempo=tempo) for number, tempo in enumerate(tempi)])]
    assert found == pytest.approx([118.0, 118.4, 118.2, 117.9, 118.2], abs=0.2)


def test_a_real_change_of_tempo_stays() -> None:
    tempi = [118.0, 118.0, 118.0, 132.0]
    assert [record.tempo for record in voted([clip(n, tempo=tempo) for n, tempo in enumerate(tempi)])] == tempi


def test_given_values_songs_without_a_majority_and_single_clips_stay() -> None:
    given = [clip(0, tempo=60.0, is_measured=False), clip(1, tempo=120.0), clip(2, tempo=120.0)]
    assert [record.tempo for record in voted(given)] == [60.0, 120.0, 120.0]
    split = [clip(0, tempo=90.0), clip(1, tempo=120.0)]
    assert [record.tempo for record in voted(split)] == [90.0, 120.0]
    others = [clip(0, song=name, tempo=tempo) for name, tempo in (("a", 60.0), ("b", 120.0), ("c", 120.0))]
    assert [record.tempo for record in voted(others)] == [60.0, 120.0, 120.0]


def test_keys_that_are_easily_confused_become_that_of_the_song() -> None:
    keys = ["Eb major", "Eb major", "C minor", "Bb major", "Eb major", ""]
    assert {record.key for record in voted([clip(n, key=key) for n, key in enumerate(keys)])} == {"Eb major"}


def test_a_modulation_that_was_measured_with_certainty_stays() -> None:
    keys = [clip(n, key="Eb major") for n in range(4)] + [clip(4, key="E major", confidence=0.95)]
    assert [record.key for record in voted(keys)] == ["Eb major"] * 4 + ["E major"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("C major", "A minor", True),
        ("C major", "G major", True),
        ("C major", "F major", True),
        ("C major", "C minor", True),
        ("C major", "D minor", True),
        ("C major", "E minor", True),
        ("C major", "C# major", False),
        ("A minor", "C# major", False),
        ("C major", "", False),
    ],
)
def test_related_keys(first: str, second: str, expected: bool) -> None:
    assert are_related(first, second) is expected is are_related(second, first)


def test_usual_spelling() -> None:
    names = ["D# major", "A# minor", "Cb major", "G# minor", "E minor", "nothing"]
    assert [usual_spelling(name) for name in names] == [
        "Eb major", "Bb minor", "B major", "G# minor", "E minor", "nothing"
    ]  # fmt: skip


def passages(*voiced: tuple[float, float], seconds: float = 60.0) -> tuple[tuple[float, float], ...]:
    probabilities = np.zeros(int(seconds / FRAME_SECONDS))
    for start, end in voiced:
        probabilities[int(start / FRAME_SECONDS) : int(end / FRAME_SECONDS)] = 0.9
    return voiced_intervals(probabilities, seconds, VoiceOptions())


def test_a_short_lone_voice_is_an_instrument() -> None:
    assert passages((30.0, 30.6)) == ()
    assert passages((10.0, 10.6), (40.0, 40.5)) == ()


def test_singers_and_calls_near_them_stay() -> None:
    assert len(passages((30.0, 32.0))) == 1
    assert len(passages((30.0, 30.6), (33.0, 33.5))) == 2
    assert len(passages((5.0, 20.0), (24.0, 24.5))) == 2
    assert len(passages((2.0, 2.6), seconds=6.0)) == 1, "a short recording does not show that nobody else sings"
