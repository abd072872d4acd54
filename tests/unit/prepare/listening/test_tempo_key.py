"""Tempo and key are found where the signal has them."""

import numpy as np
import pytest

from songgen.prepare.engine.audio_files import read_audio
from songgen.prepare.listening.tempo_key import (
    ANALYSIS_RATE,
    NOTE_NAMES,
    USUAL_TONICS,
    beat_times,
    estimate_key,
    estimate_tempo,
    pitch_classes,
)
from songgen.prepare.steps.song_vote import usual_spelling

CADENCES = {"major": ((0, 4, 7), (5, 9, 0), (7, 11, 2), (0, 4, 7)), "minor": ((0, 3, 7), (5, 8, 0), (7, 11, 2), (0, 3, 7))}  # noqa: E501  # fmt: skip


def clicks(beats_per_minute: float, seconds: float) -> np.ndarray:
    """Short noises, one a beat, over a steady tone."""
    generator = np.random.default_rng(0)
    samples = 0.05 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * ANALYSIS_RATE)) / ANALYSIS_RATE)
    for beat in np.arange(0.1, seconds - 0.1, 60 / beats_per_minute):
        begin = round(beat * ANALYSIS_RATE)
        samples[begin : begin + 400] += 0.5 * generator.normal(size=400) * np.exp(-np.arange(400) / 80)
    return samples.astype(np.float32)


def chord(classes: tuple[int, ...], tonic: int, seconds: float = 0.8) -> np.ndarray:
    """Notes of a chord with three partials each."""
    times = np.arange(round(seconds * ANALYSIS_RATE)) / ANALYSIS_RATE
    tones = np.zeros(len(times))
    for step in classes:
        frequency = 440 * 2 ** ((48 + (step + tonic) % 12 - 69) / 12)
        tones += sum(np.sin(2 * np.pi * frequency * partial * times) / partial for partial in (1, 2, 3))
    return (0.1 * tones * np.exp(-times)).astype(np.float32)


@pytest.mark.parametrize("tempo", [62, 75, 97.3, 120, 141, 171, 199])
def test_the_tempo_of_clicks_is_found(tempo):
    found = estimate_tempo(clicks(tempo, 12))
    ratio = found.beats_per_minute / tempo
    assert min(abs(ratio * octave - 1) for octave in (0.5, 1, 2)) < 0.01
    assert found.confidence > 0.5


@pytest.mark.parametrize("tempo", [80, 97.3, 120, 141])
def test_a_usual_tempo_is_taken_for_itself(tempo):
    assert estimate_tempo(clicks(tempo, 12)).beats_per_minute == pytest.approx(tempo, rel=0.01)


def test_noise_has_no_clear_tempo_and_no_clear_key():
    noise = np.random.default_rng(1).normal(0, 0.1, size=10 * ANALYSIS_RATE).astype(np.float32)
    assert estimate_tempo(noise).confidence < 0.15
    assert estimate_key(noise).confidence < 0.6


@pytest.mark.parametrize("seconds", [0, 0.01, 0.5, 2.0, 5.0])
def test_silence_has_neither_tempo_nor_key(seconds):
    silence = np.zeros(round(seconds * ANALYSIS_RATE), dtype=np.float32)
    assert estimate_tempo(silence) is None and estimate_key(silence) is None


def test_a_recording_shorter_than_two_slow_beats_has_no_tempo():
    assert estimate_tempo(clicks(120, 2.3)) is None


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", range(12))
def test_the_key_of_a_cadence_is_found(mode, tonic):
    samples = np.concatenate([chord(classes, tonic) for classes in CADENCES[mode]])
    found = estimate_key(samples)
    assert found.name == f"{USUAL_TONICS[mode][tonic]} {mode}" and found.confidence > 0.8


def test_keys_have_their_usual_names():
    written = {f"{tonic} {mode}" for mode, tonics in USUAL_TONICS.items() for tonic in tonics}
    assert {"Eb major", "Bb minor", "C# minor", "F# major", "G# minor", "Db major"} <= written
    assert not {"D# major", "A# major", "G# major", "A# minor", "Db minor"} & written


@pytest.mark.parametrize("tempo", [80, 97.3, 120, 141])
def test_beats_are_found_where_they_sound(tempo):
    beats = np.array(beat_times(clicks(tempo, 12)))
    period = 60 / tempo
    phase = (beats[:-1] - 0.1) / period  # the last one may be in the silence at the end
    assert len(beats) > 0.8 * 12 / period
    assert np.abs(phase - np.rint(phase)).max() * period < 0.04


def test_noise_and_silence_have_no_beats():
    assert beat_times(np.random.default_rng(1).normal(0, 0.1, size=10 * ANALYSIS_RATE).astype(np.float32)) == []
    assert beat_times(np.zeros(4 * ANALYSIS_RATE, dtype=np.float32)) == []
    assert beat_times(np.zeros(10, dtype=np.float32)) == []


def test_a_single_note_is_its_own_pitch_class():
    classes = pitch_classes(chord((9,), 0))
    assert NOTE_NAMES[int(classes.argmax())] == "A" and classes.sum() == pytest.approx(1)


def test_the_demo_songs_have_the_tempo_that_they_were_made_with(demo_songs):
    for song in demo_songs:
        found = estimate_tempo(read_audio(song["audio"], sample_rate=ANALYSIS_RATE)[0])
        assert found.beats_per_minute == pytest.approx(song["tempo"], rel=0.04), song["fname"]
        assert found.confidence > 0.15


def test_the_key_of_a_demo_song_is_mostly_right_or_related(demo_songs):
    """Four chords often fit several keys; a wrong answer shares all notes or all but one with the right one."""

    def notes(key):
        tonic, mode = usual_spelling(key).split()
        scale = (0, 2, 4, 5, 7, 9, 11) if mode == "major" else (0, 2, 3, 5, 7, 8, 10)
        return {(USUAL_TONICS[mode].index(tonic) + step) % 12 for step in scale}

    shared = [
        len(notes(estimate_key(read_audio(song["acc"], sample_rate=ANALYSIS_RATE)[0]).name) & notes(song["key"]))
        for song in demo_songs
    ]
    assert sum(count >= 6 for count in shared) >= 6
