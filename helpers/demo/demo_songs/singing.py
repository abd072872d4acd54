"""Singing: spoken words are put on notes by Praat's pitch-synchronous overlap-add (with parselmouth)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import soxr

from demo_songs.composition import Song, SungWord, Voice
from demo_songs.speech import EXTRA_MISSING, speak_words

_ANALYSIS_STEP = 0.005
# The speaking pitch is known; searching a narrow range around it avoids octave errors.
_PITCH_FLOOR, _PITCH_CEILING = 0.75, 1.4
_SHORTEST_FACTOR, _LONGEST_FACTOR = 0.3, 6.0
_VIBRATO_RATE = 5.5
_VIBRATO_CENTS = 12.0
_VIBRATO_DELAY = 0.25
_FADE_SECONDS = 0.01


def speak_vocabulary(
    words: Sequence[str], voices: Sequence[Voice], sample_rate: int
) -> dict[tuple[str, str], np.ndarray]:
    """Speak every word with every voice, at ``sample_rate`` and without silence at the ends.

    Returns:
        float64 samples by (word, espeak-ng voice name).
    """
    spoken, rate = speak_words(words, [(voice.speech_name, voice.speech_pitch) for voice in voices])
    return {
        name: _trim_silence(soxr.resample(samples.astype(np.float64), rate, sample_rate))
        for name, samples in spoken.items()
    }


def sing(song: Song, spoken: Mapping[tuple[str, str], np.ndarray], sample_rate: int) -> np.ndarray:
    """Return the vocal track of a song: each word at the time, pitch and length of its note.

    Returns:
        float64 samples of the whole song at ``sample_rate``, with a root mean square of 0.1 for every word.
    """
    track = np.zeros(round(song.duration * sample_rate))
    for word in song.words:
        sung = sing_word(spoken[word.word, song.voice.speech_name], song.voice.speech_frequency, word, sample_rate)
        start = round(word.start * sample_rate)
        track[start : start + len(sung)] += sung
    return track


def sing_word(speech: np.ndarray, speech_frequency: float, word: SungWord, sample_rate: int) -> np.ndarray:
    """Put a spoken word on its note: voiced parts are stretched to the note's length, consonants keep theirs.

    Raises:
        ValueError: if parselmouth is not installed.
    """
    try:
        import parselmouth
        from parselmouth.praat import call, run
    except ImportError as error:
        raise ValueError(EXTRA_MISSING) from error

    sound = parselmouth.Sound(speech, sampling_frequency=sample_rate)
    floor, ceiling = _PITCH_FLOOR * speech_frequency, _PITCH_CEILING * speech_frequency
    manipulation = call(sound, "To Manipulation", _ANALYSIS_STEP, floor, ceiling)
    pitch = sound.to_pitch(time_step=_ANALYSIS_STEP, pitch_floor=floor, pitch_ceiling=ceiling)
    voiced = pitch.selected_array["frequency"] > 0
    duration = word.end - word.start
    num_unvoiced = int((~voiced).sum())
    unvoiced_seconds = max(0.0, len(speech) / sample_rate - float(voiced.sum()) * _ANALYSIS_STEP)
    voiced_seconds = len(speech) / sample_rate - unvoiced_seconds
    # A note that is shorter than the consonants shortens them as well.
    unvoiced_factor = min(1.0, 0.5 * duration / unvoiced_seconds) if num_unvoiced else 1.0
    voiced_factor = (duration - unvoiced_factor * unvoiced_seconds) / voiced_seconds
    voiced_factor = float(np.clip(voiced_factor, _SHORTEST_FACTOR, _LONGEST_FACTOR))

    duration_tier = call("Create DurationTier", "durations", 0.0, sound.xmax)
    factors = np.where(voiced, voiced_factor, unvoiced_factor)
    source_times = pitch.xs()
    for time, factor in zip(source_times, factors, strict=True):
        call(duration_tier, "Add point", time, float(factor))
    # Times of the analysed frames after stretching.
    sung_times = np.cumsum(factors) * _ANALYSIS_STEP
    pitch_tier = call("Create PitchTier", "note", 0.0, sound.xmax)
    for time, frequency in zip(source_times, _with_vibrato(word.frequency, sung_times), strict=True):
        call(pitch_tier, "Add point", time, float(frequency))

    call([manipulation, pitch_tier], "Replace pitch tier")
    call([manipulation, duration_tier], "Replace duration tier")
    # The resynthesis reverses windows of unvoiced sound at random, so its generator needs a seed.
    run("random_initializeWithSeedUnsafelyButPredictably (1)")
    sung = call(manipulation, "Get resynthesis (overlap-add)").values[0]
    return _fit(sung, round(duration * sample_rate), sample_rate)


def _with_vibrato(frequency: float, times: np.ndarray) -> np.ndarray:
    """Return frequencies with a slight vibrato that begins after a delay."""
    depth = _VIBRATO_CENTS * np.clip((times - _VIBRATO_DELAY) / 0.1, 0.0, 1.0)
    return frequency * 2.0 ** (depth * np.sin(2 * np.pi * _VIBRATO_RATE * times) / 1200)


def _fit(samples: np.ndarray, length: int, sample_rate: int) -> np.ndarray:
    """Limit samples to ``length``, fade both ends and scale to a root mean square of 0.1."""
    samples = samples[:length].copy()
    fade = np.linspace(0.0, 1.0, min(round(_FADE_SECONDS * sample_rate), len(samples) // 2))
    samples[: len(fade)] *= fade
    samples[len(samples) - len(fade) :] *= fade[::-1]
    return samples * float(0.1 / np.sqrt(np.mean(samples**2)))


def _trim_silence(samples: np.ndarray) -> np.ndarray:
    """Remove samples below 1 % of the loudest one from both ends."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]
