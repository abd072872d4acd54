"""Levels of a signal: energies, and figures that reveal a wrong recording."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

INT16_SCALE = 32768.0
"""Amplitude 1.0 in units of 16-bit samples; energies are root mean squares in this unit."""

VOICE_MIN_ENERGY = 200.0
"""Lowest energy of a reference voice, unless a configuration sets another (`voice_min_energy`)."""

CLIPPED_LEVEL = 0.9999
"""Amplitude from which a sample counts as clipped."""

CLIPPED_SHARE = 1e-3
"""Fraction of clipped samples from which a track counts as clipped."""

DC_OFFSET = 0.01
"""Mean of a channel, as a fraction of full scale, from which it counts as offset; recordings have less than 0.001."""

DEAD_CHANNEL_DB = -50.0
"""Level of one channel of a stereo file relative to the other, below which it counts as dead."""

CANCELLED_DB = -15.0
"""Level of the average of the channels relative to the channels, below which they count as cancelling each other;
unrelated channels have -3 dB, the widest stereo mixes about -6 dB."""

FLOOR_DB = -120.0
"""Level of silence."""

FRAME_SECONDS = 0.05
"""Length of the frames whose levels are compared."""

MIN_FRAMES = 40
"""Number of frames below which noise is not looked for."""

MAX_SPECTRA = 400
"""Number of frames, spread over the track, whose spectra are averaged."""

NOISE_BAND = (200.0, 0.3)
"""Band in which peaks are looked for: from this frequency in Hz to this fraction of the sample rate, below the edge of
the low-pass filters of encoders."""

NEIGHBOURS = 15
"""Number of bins on each side with which a bin of the spectrum is compared."""

NOISE_LEVEL_DB = 1.0
"""Standard deviation of the levels of frames below which a sound counts as steady: white noise has 0.2 dB, songs have
more than 2 dB."""

NOISE_PEAK_DB = 6.0
"""Height of the largest peaks of the average spectrum below which it counts as noise; tones have 15 dB and more."""


def energy(samples: np.ndarray) -> float:
    """Return the root mean square of the samples as 16-bit integers (about 1,000 for a normal voice)."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) * INT16_SCALE


def is_loud_enough(voice_energy: float | None, min_energy: float = VOICE_MIN_ENERGY) -> bool:
    """Return whether a track of this energy can be a reference voice; one of unknown energy cannot.

    Training and generation use this rule, so that a model is never given a voice of a kind that it has not met.
    """
    return voice_energy is not None and voice_energy >= min_energy


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Convert float samples to 16-bit integers, clipped to their range."""
    return np.clip(np.rint(samples * INT16_SCALE), -32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class TrackSignal:
    """Figures of a track that reveal a wrong recording."""

    channel_energy: float
    """Energy of the channels before they are averaged (root mean square over all)."""

    dc_offset: float
    """Largest absolute mean of a channel; 1 is full scale."""

    quiet_channel_db: float
    """Level of the quieter channel of a stereo file relative to the other; 0 for any other number of channels."""

    downmix_db: float
    """Level of the average of the channels relative to the channels; 0 for one channel."""

    level_deviation_db: float
    """Standard deviation of the levels of frames of 50 ms; 0 for a track that is too short to tell."""

    spectrum_peak_db: float
    """Height of the peaks of the average spectrum above their neighbours; 0 for a track that is too short to tell."""


@dataclass(frozen=True)
class Flaw:
    """Property of a track that is probably not wanted."""

    meaning: str
    """Explanation in a few words."""

    advice: str
    """Suggested fix."""


FLAWS = {
    "dc_offset": Flaw(
        "the waveform is not centred around 0", "Remove the offset, with a high-pass filter of 20 Hz for example."
    ),
    "dead_channel": Flaw(
        "one of two channels is silent",
        "Averaging halves the level of the other: convert these files to mono from the channel that has sound.",
    ),
    "cancelling_channels": Flaw(
        "the channels nearly cancel each other when they are averaged",
        "One of them has the opposite sign: invert it, or convert the files to mono from one channel.",
    ),
    "steady_noise": Flaw(
        "the sound has the same level and spectrum throughout, as noise has", "Listen to these files."
    ),
}
"""Name of a flaw -> its meaning, in the order of reports."""


def flaws(signal: TrackSignal) -> dict[str, float]:
    """Return the flaws of a track, each with the figure that shows it."""
    found = {}
    if signal.dc_offset >= DC_OFFSET:
        found["dc_offset"] = signal.dc_offset
    if signal.quiet_channel_db <= DEAD_CHANNEL_DB:
        found["dead_channel"] = signal.quiet_channel_db
    if signal.downmix_db <= CANCELLED_DB:
        found["cancelling_channels"] = signal.downmix_db
    if signal.spectrum_peak_db and signal.level_deviation_db < NOISE_LEVEL_DB:
        if signal.spectrum_peak_db < NOISE_PEAK_DB:
            found["steady_noise"] = signal.spectrum_peak_db
    return found


class ChannelSums:
    """Sums over the samples of a file that is decoded block by block."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.peak = 0.0
        self.is_finite = True
        self._sums = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, block: np.ndarray) -> None:
        """Add a block of frames x channels."""
        self.count += len(block)
        # The largest and the smallest sample are NaN if any is.
        high, low = float(block.max(initial=0.0)), float(block.min(initial=0.0))
        self.is_finite = self.is_finite and bool(np.isfinite((high, low)).all())
        if self.is_finite:
            self.peak = max(self.peak, high, -low)
            self._sums += block.sum(axis=0, dtype=np.float64)
            self._squares += np.square(block, dtype=np.float64).sum(axis=0)

    def signal(self, mono: np.ndarray, sample_rate: int) -> TrackSignal:
        """Return the figures of the track, whose channels were averaged to `mono`."""
        levels = np.sqrt(self._squares / self.count)
        whole = float(np.sqrt(np.mean(np.square(levels))))
        deviation, peak = _noise_figures(mono, sample_rate)
        return TrackSignal(
            channel_energy=whole * INT16_SCALE,
            dc_offset=float(np.abs(self._sums / self.count).max()),
            quiet_channel_db=_decibels(levels.min(), levels.max()) if len(levels) == 2 else 0.0,
            downmix_db=_decibels(energy(mono) / INT16_SCALE, whole) if len(levels) > 1 else 0.0,
            level_deviation_db=deviation,
            spectrum_peak_db=peak,
        )


def _decibels(level: float, reference: float) -> float:
    if reference <= 0:
        return 0.0
    return max(FLOOR_DB, 20 * float(np.log10(max(level / reference, 1e-6))))


def _noise_figures(mono: np.ndarray, sample_rate: int) -> tuple[float, float]:
    """Return the deviation of the levels and the height of the peaks of the average spectrum, both in dB."""
    length = round(FRAME_SECONDS * sample_rate)
    count = len(mono) // length
    if count < MIN_FRAMES:
        return 0.0, 0.0
    frames = mono[: count * length].reshape(count, length)
    power = np.concatenate([np.square(part, dtype=np.float64).mean(axis=1) for part in _thousands(frames)])
    deviation = float(np.std(10 * np.log10(np.maximum(power, 1e-12))))
    if deviation >= NOISE_LEVEL_DB:
        return deviation, FLOOR_DB  # the spectrum decides nothing more
    chosen = frames[np.linspace(0, count - 1, min(count, MAX_SPECTRA)).astype(int)]
    spectrum = np.square(np.abs(np.fft.rfft(chosen * np.hanning(length), axis=1))).mean(axis=0)
    low, high = round(NOISE_BAND[0] * FRAME_SECONDS), round(NOISE_BAND[1] * length)
    decibels = 10 * np.log10(np.maximum(spectrum[low:high], 1e-20))
    if len(decibels) <= NEIGHBOURS:
        return deviation, 0.0
    padded = np.pad(decibels, NEIGHBOURS, mode="reflect")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * NEIGHBOURS + 1), axis=1)
    return deviation, float((decibels - around).max())


def _thousands(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a thousand frames at once, which keeps copies small."""
    for start in range(0, len(frames), 1000):
        yield frames[start : start + 1000]
