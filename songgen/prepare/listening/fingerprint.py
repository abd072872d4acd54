"""Audio fingerprints: robust to loudness, file format and small shifts, and compared by counting equal bits.

The spectrum of each frame is divided into bands of equal width in pitch. For each pair of neighbouring bands, one bit
says whether energy moves from the lower to the upper band between an earlier frame and this one (after Haitsma and
Kalker, "A Highly Robust Audio Fingerprinting System", ISMIR 2002). Frames overlap so much that a clip that begins
between two frames of another one still has nearly the same bits.

Chromaprint was not used: it is a C library, made for whole songs and not for clips of a few seconds.
"""

import base64
import functools

import numpy as np

SAMPLE_RATE = 8000
"""Sample rate of the analysis; every format and bit rate keeps this range."""

FRAME_SAMPLES = 4096
"""Samples of a frame, half a second."""

HOP_SAMPLES = 400
"""Samples between two frames, 50 ms."""

FRAMES_PER_SECOND = SAMPLE_RATE / HOP_SAMPLES

NUM_BITS = 32
LOWEST, HIGHEST = 150.0, 3500.0
"""Range in hertz; the bands have equal widths in pitch, about a sixth of an octave."""

SPAN = 4
"""Distance in frames of the two energies that are compared; bits of closer frames change with every small shift."""

QUIET_DB = 50.0
"""Frames that are quieter than the loudest one by more decibels are silent: their bits are noise and are ignored."""


def fingerprint(samples: np.ndarray) -> np.ndarray:
    """Return a 32-bit value for each frame; 0 where the clip is silent.

    Args:
        samples: N mono samples at `SAMPLE_RATE`.

    Returns:
        uint32, about N / `HOP_SAMPLES` values; none for a clip shorter than a frame and `SPAN` hops.
    """
    needed = FRAME_SAMPLES + SPAN * HOP_SAMPLES
    if len(samples) < needed:
        return np.zeros(0, dtype=np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), FRAME_SAMPLES)[::HOP_SAMPLES]
    window = np.hanning(FRAME_SAMPLES).astype(np.float32)
    # In blocks, since all windowed frames of a clip at once take ten times the memory of its samples.
    blocks = [
        np.square(np.abs(np.fft.rfft(frames[start : start + 256] * window))) @ _bands()
        for start in range(0, len(frames), 256)
    ]
    energies = np.concatenate(blocks)
    steps = np.diff(energies, axis=1)
    bits = steps[SPAN:] - steps[:-SPAN] > 0
    values = bits @ (np.uint32(1) << np.arange(NUM_BITS, dtype=np.uint32))
    loudness = energies.sum(axis=1)
    is_loud = loudness > loudness.max() * 10 ** (-QUIET_DB / 10)
    return np.where(is_loud[SPAN:] & is_loud[:-SPAN], values, 0).astype(np.uint32)


@functools.cache
def _bands() -> np.ndarray:
    """Return the weights that sum a spectrum into bands: bins x (`NUM_BITS` + 1)."""
    edges = np.geomspace(LOWEST, HIGHEST, NUM_BITS + 2)
    frequencies = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE)[:, None]
    return ((frequencies >= edges[:-1]) & (frequencies < edges[1:])).astype(np.float32)


def to_text(values: np.ndarray) -> str:
    """Encode a fingerprint as text."""
    return base64.b64encode(values.astype("<u4").tobytes()).decode("ascii")


def from_text(text: str) -> np.ndarray:
    """Decode a fingerprint from `to_text`."""
    return np.frombuffer(base64.b64decode(text), dtype="<u4")


def similarity(first: np.ndarray, second: np.ndarray, offset: int) -> tuple[float, int]:
    """Compare two fingerprints where they overlap.

    Args:
        first: uint32 values.
        second: uint32 values.
        offset: frame of `first` at which `second` begins; may be negative.

    Returns:
        the similarity, from about 0 for unrelated clips to 1 (2 * fraction of equal bits - 1), and the number of frames
        that were compared: those in which neither is silent.
    """
    begin = max(0, offset)
    end = min(len(first), len(second) + offset)
    if end <= begin:
        return 0.0, 0
    upper, lower = first[begin:end], second[begin - offset : end - offset]
    counted = (upper != 0) & (lower != 0)
    number = int(counted.sum())
    if not number:
        return 0.0, 0
    different = int(np.bitwise_count((upper ^ lower)[counted]).sum())
    return 1 - 2 * different / (NUM_BITS * number), number
