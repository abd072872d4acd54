"""Tempo and key of a recording, from the signal alone.

Tempo: rises of the spectrum are onsets; the beat is the lag at which onsets repeat best after one, two and four beats.
Key: the energy of the twelve pitch classes is correlated with the profiles of the 24 keys.

On the demo songs (48 of 3 to 5 seconds) the tempo was right within 4 % for all, with a median error of 0.16 %; the beat
tracker of librosa 0.11 was right for 90 %. The key was right for 46 %, and for 46 % too when the profiles were given
the exact chords and melody instead of the signal: four chords often fit several keys. Hence the confidences. librosa is
not used: its beat tracker does worse (above), it has no key estimator, and it depends on numba.
"""

from dataclasses import dataclass

import numpy as np

ANALYSIS_RATE = 16_000
"""Sample rate that `estimate_tempo` and `estimate_key` take."""

ONSET_WINDOW, ONSET_HOP = 1024, 160
"""Samples of a frame and between frames: onsets are measured every 10 ms."""

ONSET_BANDS = 40
"""Number of bands, evenly spaced in log frequency, whose rises are averaged."""

ONSET_STEP = 3
"""Distance in frames over which a rise is measured."""

ONSET_MEAN_SECONDS = 1.0
"""Length of the moving mean that is subtracted from the onsets."""

ONSET_COMPRESSION = 1000.0
"""Bands enter as log(1 + this * amplitude / largest amplitude)."""

SLOWEST, FASTEST = 50.0, 220.0
"""Range of the tempo in beats per minute."""

USUAL_TEMPO, TEMPO_OCTAVES = 115.0, 0.9
"""Centre and width (in octaves) of a bell curve that decides between tempi that differ by a factor of two."""

BEAT_WEIGHTS = {1: 1.0, 2: 0.5, 4: 0.25}
"""Number of beats after which onsets repeat -> weight."""

MIN_BEAT_CONFIDENCE = 0.15
"""Lowest confidence of a tempo whose beats are searched: noise has 0.1."""

BEAT_TIGHTNESS = 20.0
"""Cost of a beat whose distance differs from the period, in standard deviations of the onsets for each squared log."""

KEY_WINDOW, KEY_HOP = 4096, 1024
"""Samples of a frame, and between frames, of the pitch analysis."""

LOWEST_PITCH, HIGHEST_PITCH = 60.0, 2000.0
"""Range in hertz of the spectral peaks that count."""

OVERTONES, OVERTONE_WEIGHT = 3, 0.6
"""A peak also counts for the notes whose second or third partial it may be, each time multiplied by this weight."""

PEAK_FLOOR = 1e-3
"""Peaks below this fraction of the largest amplitude are noise."""

NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

USUAL_TONICS = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
"""Mode -> usual name of the tonic of each key, that with fewer accidentals: Eb major has 3 flats, D# major 9 sharps."""

KEY_PROFILES = {
    "major": (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400),
    "minor": (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330),
}
"""Mode -> frequency of each semitone above the tonic (Temperley, The Cognition of Basic Musical Structures, 2001).

They fit the demo songs better than those of Krumhansl and Kessler (38 % of keys right)."""

_SMALL = 1e-9


@dataclass(frozen=True)
class TempoEstimate:
    """An estimate of the tempo."""

    beats_per_minute: float
    """Tempo, 50 to 220."""

    confidence: float
    """How well the onsets repeat after a beat, from 0 (as in noise) to 1."""


@dataclass(frozen=True)
class KeyEstimate:
    """An estimate of the key."""

    name: str
    """Name such as `A minor`, in its usual spelling (`Eb major`, `C# minor`)."""

    confidence: float
    """Correlation of the pitch classes with the key's profile, 0 to 1."""


def estimate_tempo(samples: np.ndarray) -> TempoEstimate | None:
    """Estimate the tempo.

    Args:
        samples: mono at 16 kHz; a few seconds at least.

    Returns:
        None for a recording without onsets, or shorter than two beats of the slowest tempo.
    """
    return tempo_of_onsets(onset_strength(samples))


def tempo_of_onsets(onsets: np.ndarray) -> TempoEstimate | None:
    """Estimate the tempo from the result of `onset_strength`."""
    frame_rate = ANALYSIS_RATE / ONSET_HOP
    num_frames = len(onsets)
    if num_frames < 2 * 60 / SLOWEST * frame_rate or onsets.max() <= _SMALL:
        return None
    onsets = onsets - onsets.mean()
    spectrum = np.fft.rfft(onsets, 2 * num_frames)
    repetition = np.fft.irfft(np.square(np.abs(spectrum)))[:num_frames] / np.arange(num_frames, 0, -1)
    repetition /= repetition[0]
    window = np.hanning(7)
    repetition = np.convolve(repetition, window / window.sum(), "same")
    candidates = np.exp(np.arange(np.log(SLOWEST), np.log(FASTEST), 0.002))
    scores, weights = np.zeros((2, len(candidates)))
    for beats, weight in BEAT_WEIGHTS.items():
        lags = beats * 60 * frame_rate / candidates
        # Lags near the whole length compare only a few onsets, so they are ignored.
        weight_here = np.where(lags < 0.75 * num_frames, weight, 0.0)
        scores += weight_here * np.interp(lags, np.arange(num_frames), repetition)
        weights += weight_here
    scores /= np.maximum(weights, _SMALL)
    prior = np.exp(-0.5 * np.square(np.log2(candidates / USUAL_TEMPO) / TEMPO_OCTAVES))
    best = int(np.argmax(np.maximum(scores, 0) * prior))
    return TempoEstimate(round(float(candidates[best]), 1), round(float(np.clip(scores[best], 0, 1)), 3))


def beat_times(samples: np.ndarray) -> list[float]:
    """Return the times of the beats, in seconds; none without a tempo.

    Of all series of beats about a period apart, the one with the strongest onsets is found (D. Ellis, "Beat Tracking by
    Dynamic Programming", 2007).

    Args:
        samples: mono at 16 kHz.
    """
    onsets = onset_strength(samples)
    tempo = tempo_of_onsets(onsets)
    if tempo is None or tempo.confidence < MIN_BEAT_CONFIDENCE:
        return []
    period = 60 / tempo.beats_per_minute * ANALYSIS_RATE / ONSET_HOP
    strengths = onsets / (onsets.std() + _SMALL)
    back = np.arange(-round(2 * period), -round(period / 2) + 1)
    penalties = BEAT_TIGHTNESS * np.square(np.log(-back / period))
    scores, origins = strengths.copy(), np.full(len(onsets), -1)
    for frame in range(len(onsets)):
        before = frame + back
        before = before[before >= 0]
        if len(before):
            totals = scores[before] - penalties[-len(before) :]
            best = int(np.argmax(totals))
            if totals[best] > 0:
                scores[frame] += totals[best]
                origins[frame] = before[best]
    frame = int(np.argmax(scores[-round(period) :])) + len(scores) - round(period)
    frames = []
    while frame >= 0:
        frames.append(frame)
        frame = int(origins[frame])
    return [(found + ONSET_STEP) * ONSET_HOP / ANALYSIS_RATE for found in frames[::-1]]


def onset_strength(samples: np.ndarray) -> np.ndarray:
    """Return the onset strength of each 10 ms; nothing for less than a second.

    Args:
        samples: mono at 16 kHz.
    """
    amplitudes = _spectrum(samples, ONSET_WINDOW, ONSET_HOP)
    edges = np.geomspace(40, 7600, ONSET_BANDS + 1) * ONSET_WINDOW / ANALYSIS_RATE
    bins = np.ceil(edges).astype(int)
    bands = np.stack(
        [amplitudes[:, low : max(high, low + 1)].mean(axis=1) for low, high in zip(bins, bins[1:], strict=False)]
    )
    bands = np.log1p(ONSET_COMPRESSION * bands / (bands.max(initial=0) + _SMALL))
    rises = np.maximum(bands[:, ONSET_STEP:] - bands[:, :-ONSET_STEP], 0).mean(axis=0)
    length = round(ONSET_MEAN_SECONDS * ANALYSIS_RATE / ONSET_HOP) + 1
    if len(rises) < length:
        return np.zeros(0)
    return np.maximum(rises - np.convolve(rises, np.full(length, 1 / length), "same"), 0)


def _spectrum(samples: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Return amplitudes, frames x (window / 2 + 1); frames are centred, and float32 saves memory."""
    padded = np.pad(samples, (window // 2, window // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    bell = np.hanning(window + 1)[:-1].astype(np.float32)
    # In blocks, since the overlapping frames of a long song take many times its memory.
    blocks = [
        np.abs(np.fft.rfft(frames[first : first + 1024] * bell)).astype(np.float32)
        for first in range(0, len(frames), 1024)
    ]
    return np.concatenate(blocks)


def pitch_classes(samples: np.ndarray) -> np.ndarray:
    """Return the strength of each of the twelve pitch classes (C first).

    Args:
        samples: mono at 16 kHz, tuned to A = 440 Hz.

    Returns:
        12 fractions that add up to 1; all 0 for a recording without pitch.
    """
    amplitudes = _spectrum(samples, KEY_WINDOW, KEY_HOP)
    middle = amplitudes[:, 1:-1]
    is_peak = (middle > amplitudes[:, :-2]) & (middle >= amplitudes[:, 2:]) & (middle > PEAK_FLOOR * amplitudes.max())
    frames, bins = np.nonzero(is_peak)
    # The vertex of a parabola through the logarithms of three bins gives the frequency between bins.
    below, at, above = (np.log(amplitudes[frames, bins + shift] + _SMALL) for shift in range(3))
    offset = np.clip(0.5 * (below - above) / np.minimum(below - 2 * at + above, -_SMALL), -0.5, 0.5)
    frequencies = (bins + 1 + offset) * ANALYSIS_RATE / KEY_WINDOW
    counts = (frequencies > LOWEST_PITCH) & (frequencies < HIGHEST_PITCH)
    frequencies, strengths = frequencies[counts], np.sqrt(middle[frames[counts], bins[counts]])
    classes = np.zeros(12)
    for partial in range(1, OVERTONES + 1):
        notes = 12 * np.log2(frequencies / partial / 440) + 69
        nearest = np.rint(notes)
        # The weight falls to 0 for a peak halfway between two notes.
        weights = strengths * np.square(np.cos(np.pi * (notes - nearest))) * OVERTONE_WEIGHT ** (partial - 1)
        classes += np.bincount(nearest.astype(int) % 12, weights=weights, minlength=12)
    total = classes.sum()
    return classes / total if total > 0 else classes


def estimate_key(samples: np.ndarray) -> KeyEstimate | None:
    """Estimate the key.

    Args:
        samples: mono at 16 kHz; the accompaniment alone is best.

    Returns:
        None for a recording without pitch.
    """
    classes = pitch_classes(samples)
    if classes.std() <= _SMALL:
        return None
    best = max(
        (float(np.corrcoef(np.roll(profile, tonic), classes)[0, 1]), f"{USUAL_TONICS[mode][tonic]} {mode}")
        for mode, profile in KEY_PROFILES.items()
        for tonic in range(12)
    )
    return KeyEstimate(best[1], round(max(0.0, best[0]), 3))
