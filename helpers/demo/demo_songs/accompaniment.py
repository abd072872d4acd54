"""Chords, bass and drums of the demo songs, synthesized with numpy."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from demo_songs.composition import Song, note_frequency

_DRUM_SEED = 20
_RELEASE_SECONDS = 0.03
_CHORD_LOWEST_NOTE = 52
_BASS_LOWEST_NOTE = 33


@dataclass(frozen=True)
class Timbre:
    """Timbre of a tone by additive synthesis."""

    amplitudes: tuple[float, ...]
    """Amplitudes of the harmonics, from the fundamental."""
    decay: float
    """Seconds in which the fundamental decays to 1/e; with ``damped``, harmonic k decays k times as fast."""
    attack: float = 0.005
    """Seconds to full level."""
    damped: bool = False
    """Whether higher harmonics decay faster, as on a plucked string."""
    drive: float = 0.0
    """Strength of the distortion applied to a whole chord (0 = none)."""


@dataclass(frozen=True)
class Style:
    """Accompaniment of a genre; times are beats within a chord."""

    chord_timbre: Timbre
    chord_times: tuple[float, ...]
    chord_length: float
    """Beats."""
    arpeggio: bool
    """Whether the notes of a chord are played one after another, one at each of ``chord_times``."""
    power_chords: bool
    """Whether only root, fifth and octave are played."""
    chord_level: float
    bass_timbre: Timbre
    bass_times: tuple[float, ...]
    bass_length: float
    """Beats."""
    bass_level: float
    kick_times: tuple[float, ...]
    snare_times: tuple[float, ...]
    hat_times: tuple[float, ...]
    drum_level: float


_ROUND_BASS = Timbre((1.0, 0.5, 0.25, 0.1), decay=0.6)
STYLES = {
    "pop": Style(
        chord_timbre=Timbre((1.0, 0.25, 0.35, 0.05, 0.1), decay=0.7),
        chord_times=(0, 1), chord_length=0.9, arpeggio=False, power_chords=False, chord_level=0.5,
        bass_timbre=_ROUND_BASS, bass_times=(0, 1.5), bass_length=0.6, bass_level=0.8,
        kick_times=(0,), snare_times=(1,), hat_times=(0, 0.5, 1, 1.5), drum_level=0.6,
    ),
    "rock": Style(
        chord_timbre=Timbre(tuple(1 / harmonic for harmonic in range(1, 13)), decay=1.5, drive=4.0),
        chord_times=(0, 0.5, 1, 1.5), chord_length=0.45, arpeggio=False, power_chords=True, chord_level=0.45,
        bass_timbre=Timbre((1.0, 0.7, 0.5, 0.3, 0.2), decay=0.5),
        bass_times=(0, 0.5, 1, 1.5), bass_length=0.45, bass_level=0.7,
        kick_times=(0, 0.5), snare_times=(1,), hat_times=(0, 1), drum_level=1.0,
    ),
    "folk waltz": Style(
        chord_timbre=Timbre(tuple(1 / harmonic**1.2 for harmonic in range(1, 11)), decay=1.2, damped=True),
        chord_times=(0, 0.5, 1, 1.5, 2, 2.5), chord_length=1.5, arpeggio=True, power_chords=False, chord_level=0.7,
        bass_timbre=Timbre((1.0, 0.3, 0.1), decay=1.0), bass_times=(0,), bass_length=2.5, bass_level=0.7,
        kick_times=(), snare_times=(), hat_times=(1, 2), drum_level=0.25,
    ),
    "electronic": Style(
        chord_timbre=Timbre((1.0, 0.0, 1 / 3, 0.0, 1 / 5, 0.0, 1 / 7, 0.0, 1 / 9), decay=0.25),
        chord_times=(0.5, 1.25, 1.5, 2.5, 3.25, 3.5), chord_length=0.4, arpeggio=False, power_chords=False,
        chord_level=0.5,
        bass_timbre=Timbre((1.0, 0.15), decay=0.8, attack=0.01),
        bass_times=(0.5, 1.5, 2.5, 3.5), bass_length=0.45, bass_level=0.9,
        kick_times=(0, 1, 2, 3), snare_times=(), hat_times=(0.5, 1.5, 2.5, 3.5), drum_level=0.9,
    ),
}  # fmt: skip


def accompany(song: Song, sample_rate: int) -> np.ndarray:
    """Return the accompaniment of a song.

    Returns:
        float64 samples without a fixed level; length of the song at ``sample_rate``.
    """
    style = STYLES[song.genre.name]
    track = np.zeros(round(song.duration * sample_rate))
    for start_beat in range(0, song.genre.num_beats, song.genre.chord_beats):
        chord = song.chords[start_beat // song.genre.chord_beats % len(song.chords)]
        for offset, samples in _play_chord(song, style, chord, sample_rate):
            start = round((start_beat + offset) * song.seconds_per_beat * sample_rate)
            part = samples[: len(track) - start]
            track[start : start + len(part)] += part
    return track


def _play_chord(
    song: Song, style: Style, chord: tuple[int, int, int], sample_rate: int
) -> list[tuple[float, np.ndarray]]:
    """Return all sounds during one chord, as (beat within the chord, samples)."""
    root = (song.key_root + chord[0]) % 12
    notes = [_at_or_above(_CHORD_LOWEST_NOTE, (song.key_root + interval) % 12) for interval in chord]
    if style.power_chords:
        low_root = _at_or_above(_CHORD_LOWEST_NOTE - 12, root)
        notes = [low_root, low_root + 7, low_root + 12]
    chord_seconds = style.chord_length * song.seconds_per_beat
    bass_seconds = style.bass_length * song.seconds_per_beat
    bass_note = _at_or_above(_BASS_LOWEST_NOTE, root)
    bass = style.bass_level * play_notes([bass_note], bass_seconds, style.bass_timbre, sample_rate)
    events = [(time, bass) for time in style.bass_times]
    order = sorted(notes)
    for index, time in enumerate(style.chord_times):
        played = [order[(0, 1, 2, 1)[index % 4]]] if style.arpeggio else notes
        events.append((time, style.chord_level * play_notes(played, chord_seconds, style.chord_timbre, sample_rate)))
    drums = drum_kit(sample_rate)
    for name, times in (("kick", style.kick_times), ("snare", style.snare_times), ("hat", style.hat_times)):
        events.extend((time, style.drum_level * drums[name]) for time in times)
    return events


def play_notes(notes: list[int], seconds: float, timbre: Timbre, sample_rate: int) -> np.ndarray:
    """Return MIDI notes played together, as float64 samples of a given length."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    samples = np.zeros(len(times))
    for note in notes:
        for harmonic, amplitude in enumerate(timbre.amplitudes, start=1):
            frequency = harmonic * note_frequency(note)
            if amplitude and frequency < 0.45 * sample_rate:
                rate = (harmonic if timbre.damped else 1) / timbre.decay
                samples += amplitude * np.exp(-rate * times) * np.sin(2 * np.pi * frequency * times)
    samples /= len(notes)
    if timbre.drive:
        samples = np.tanh(timbre.drive * samples)
    attack = np.clip(times / timbre.attack, 0.0, 1.0)
    release = np.clip((seconds - times) / _RELEASE_SECONDS, 0.0, 1.0)
    return samples * attack * release


@functools.cache
def drum_kit(sample_rate: int) -> dict[str, np.ndarray]:
    """Return the sounds of kick, snare and hi-hat, which are the same for all songs, as with a drum machine."""
    generator = np.random.default_rng(_DRUM_SEED)
    times = np.arange(round(0.25 * sample_rate)) / sample_rate
    # The pitch of the kick falls from 160 to 50 Hz.
    kick_phase = 2 * np.pi * (50 * times + 110 * 0.03 * (1 - np.exp(-times / 0.03)))
    noise = generator.standard_normal(len(times))
    bright_noise = np.diff(noise, prepend=0.0)
    fade_out = np.clip((times[-1] - times) / 0.02, 0.0, 1.0)
    return {
        "kick": 1.2 * np.sin(kick_phase) * np.exp(-times / 0.09) * fade_out,
        "snare": (0.35 * noise + 0.5 * np.sin(2 * np.pi * 190 * times)) * np.exp(-times / 0.06) * fade_out,
        "hat": 0.12 * bright_noise * np.exp(-times / 0.025) * fade_out,
    }


def _at_or_above(lowest_note: int, pitch_class: int) -> int:
    """Return the lowest MIDI note of a pitch class that is not below ``lowest_note``."""
    return lowest_note + (pitch_class - lowest_note) % 12
