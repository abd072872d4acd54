"""Quality of a recording as a copy: how its file was encoded, up to which frequency it has content, where it begins.

The duplicates step compares copies of one recording by these figures.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import soundfile

from songgen.data.audio import INT16_SCALE
from songgen.prepare.engine.record import SongRecord
from songgen.tasks import MIX

WINDOW = 2048
"""Samples of a frame of the spectrum."""

SMOOTHING_HERTZ = 500.0
"""Width of the moving median over the spectrum: a pilot tone or a single overtone is not bandwidth."""

QUANTIZATION_POWER = (1 / 32768) ** 2 / 12
"""Power of the noise of rounding to 16 bits; the lowest content that is counted is 6 dB above it, in each bin."""

LOWEST_CONTENT = 1e-9
"""Smallest content as a fraction of the strongest bin (-90 dB), for recordings with more than 16 bits."""

SILENCE_FRAME_SECONDS = 0.01

SILENCE_DB = 45.0
"""The beginning is silent until a frame is at most this many decibels below the loudest one."""

_LOSSLESS = ("PCM_", "FLOAT", "DOUBLE", "ALAC_", "DPCM_")
"""Beginnings of libsndfile's names of encodings that keep the samples."""


def is_lossless(path: Path) -> bool | None:
    """Return whether a file's encoding keeps the samples (WAV, FLAC), by its header; None if that is not known.

    The suffix does not count, since a `.wav` file may contain MP3.
    """
    try:
        subtype: str = soundfile.info(str(path)).subtype
    except (OSError, RuntimeError):
        return None
    return subtype.startswith(_LOSSLESS)


def bandwidth(samples: np.ndarray, sample_rate: int) -> float:
    """Return the highest frequency with content, in hertz; 0 for silence.

    Lossy encoders remove the highest frequencies: MP3 at 64 kbit/s ends at 11 kHz, at 128 kbit/s at 16 to 17 kHz.

    Args:
        samples: N mono samples, full scale is 1.0.
        sample_rate: sample rate.
    """
    power = _mean_power(samples)
    bin_hertz = sample_rate / WINDOW
    # A bin of white noise has its share of the total power: the sum over bins is the power of the samples.
    floor = max(4 * QUANTIZATION_POWER / len(power), LOWEST_CONTENT * float(power.max(initial=0)))
    found = np.flatnonzero(_moving_median(power, SMOOTHING_HERTZ / bin_hertz) > floor)
    return round(float((found[-1] + 1) * bin_hertz), 1) if len(found) else 0.0


def _mean_power(samples: np.ndarray) -> np.ndarray:
    """Return the mean power of each frequency bin; its sum is about the power of the samples."""
    padded = np.pad(samples.astype(np.float32), (0, max(0, WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[:: WINDOW // 2]
    # A squared Hann window: the side lobes of a single tone stay below the lowest content that counts.
    window = np.square(np.hanning(WINDOW)).astype(np.float32)
    total = np.zeros(WINDOW // 2 + 1)
    for first in range(0, len(frames), 256):  # in blocks, since windowed frames take twice the memory of the samples
        total += np.square(np.abs(np.fft.rfft(frames[first : first + 256] * window))).sum(axis=0)
    return 2 * total / (len(frames) * WINDOW * float(np.square(window).sum()))


def _moving_median(values: np.ndarray, width: float) -> np.ndarray:
    half = max(1, round(width / 2))
    padded = np.pad(values, half, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=-1))


def leading_silence(samples: np.ndarray, sample_rate: int) -> float:
    """Return the seconds before the first sound; the whole length for silence.

    Args:
        samples: N mono samples, at least one.
        sample_rate: sample rate.
    """
    length = max(1, round(SILENCE_FRAME_SECONDS * sample_rate))
    starts = np.arange(0, len(samples), length)
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    loudest = float(power.max())
    if loudest <= 0:
        return len(samples) / sample_rate
    first = int(np.argmax(power >= loudest * 10 ** (-SILENCE_DB / 10)))
    return round(first * length / sample_rate, 3)


LOSSLESS, BANDWIDTH, LEADING_SILENCE, CLIPPED = (
    "lossless_source",
    "bandwidth",
    "leading_silence_seconds",
    "clipped_share",
)
"""Measures of a record that `copy_losses` reads."""

FULL_BANDWIDTH = 20_000.0
"""Wider bandwidth counts as equal, in hertz: almost nobody hears more, and MP3 at 320 kbit/s has it."""

LOSS_OF_ENCODING = 0.5
"""Loss of a lossy encoding; an octave of bandwidth counts 4, so that a WAV made of a poor MP3 does not win by its
format."""

LOSS_PER_OCTAVE, LOSS_PER_SECOND = 4.0, 0.1

LOSS_PER_DECIBEL = 0.015
"""Loss of a low level, which costs resolution in 16 bits: 20 dB cost less than a lossy encoding."""

LOSS_OF_CLIPPING, FULLY_CLIPPED = 0.45, 1e-3
"""Loss of a clipped copy, in full from this share of the samples; as much as 30 dB, since a copy that is louder because
it is overdriven is worse."""


def copy_losses(record: SongRecord) -> dict[str, float]:
    """Return what a copy lacks, by kind, on one scale on which smaller is better; what was not measured is left out.

    Args:
        record: with the measures of the fingerprint step.
    """
    measures = record.measures
    losses: dict[str, float] = {}
    if measures.get(BANDWIDTH):
        losses[BANDWIDTH] = LOSS_PER_OCTAVE * max(0.0, math.log2(FULL_BANDWIDTH / measures[BANDWIDTH]))
    if LOSSLESS in measures:
        losses[LOSSLESS] = 0.0 if measures[LOSSLESS] else LOSS_OF_ENCODING
    if CLIPPED in measures:
        losses[CLIPPED] = LOSS_OF_CLIPPING * min(1.0, measures[CLIPPED] / FULLY_CLIPPED)
    if level := record.energies.get(MIX):
        losses["level"] = LOSS_PER_DECIBEL * max(0.0, 20 * math.log10(INT16_SCALE / level))
    if LEADING_SILENCE in measures:
        losses[LEADING_SILENCE] = LOSS_PER_SECOND * min(1.0, measures[LEADING_SILENCE])
    sounding = record.duration - measures.get(LEADING_SILENCE, 0.0)
    if sounding > 0:
        losses["length"] = -math.log2(sounding)
    return losses


MIN_NAMED_LOSS = 0.02
"""Smallest difference of two losses that is named as a reason: 1.3 dB, 0.2 s, 1.4 % of the length."""


def advantages(kept: SongRecord, other: SongRecord) -> list[str]:
    """Return why one copy is better than another, in words, the most important reason first."""
    ours, theirs = copy_losses(kept), copy_losses(other)
    gains = {name: theirs[name] - ours[name] for name in ours if name in theirs}
    named = [name for name in sorted(gains, key=lambda name: -gains[name]) if gains[name] > MIN_NAMED_LOSS]
    return [_REASONS[name](kept, other) for name in named]


def _decibels(kept: SongRecord, other: SongRecord) -> str:
    return f"{20 * math.log10(kept.energies[MIX] / other.energies[MIX]):.1f} dB louder"


_REASONS: Mapping[str, Callable[[SongRecord, SongRecord], str]] = {
    BANDWIDTH: lambda kept, other: (
        f"content up to {kept.measures[BANDWIDTH] / 1000:.1f} kHz instead of {other.measures[BANDWIDTH] / 1000:.1f}"
    ),
    LOSSLESS: lambda kept, other: "a lossless source",
    CLIPPED: lambda kept, other: "less clipping",
    "level": _decibels,
    LEADING_SILENCE: lambda kept, other: "less silence at its beginning",
    "length": lambda kept, other: f"{kept.duration:.1f} s instead of {other.duration:.1f}",
}
"""Kind of loss -> words for the better copy."""
