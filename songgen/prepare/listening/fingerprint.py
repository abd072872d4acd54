"""What a clip sounds like in bits: robust to loudness, file format and small shifts, and compared by counting bits.

Every frame of the sound is split into bands along the pitch. One bit a pair of neighbouring bands says whether the
energy moves from the lower to the upper one between this frame and an earlier one (the idea is Haitsma and Kalker's, "A
Highly Robust Audio Fingerprinting System", ISMIR 2002). Frames overlap so much that a clip that begins between two
frames of another still has nearly the same bits.
"""

import base64
import functools

import numpy as np

SAMPLE_RATE = 8000
"""Samples a second that are looked at: what every format and bit rate keeps."""

FRAME_SAMPLES = 4096
"""Length of a frame, half a second."""

HOP_SAMPLES = 400
"""Distance of frames, 50 ms."""

FRAMES_PER_SECOND = SAMPLE_RATE / HOP_SAMPLES

NUM_BITS = 32
LOWEST, HIGHEST = 150.0, 3500.0
"""Hertz; bands in between have equal widths in pitch, about a sixth of an octave."""

SPAN = 4
"""Frames between the two whose energies are compared: bits of closer ones change with every small shift."""

QUIET_DB = 50.0
"""Frames that lie more below the loudest are silence: their bits are noise, and count for nothing."""


def fingerprint(samples: np.ndarray) -> np.ndarray:
    """Return one value of 32 bits a frame; 0 where the clip is silent.

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
    # In blocks: all windowed frames of a clip at once would take ten times the room of its samples.
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
    """Weights that sum a spectrum into bands: bins x (`NUM_BITS` + 1)."""
    edges = np.geomspace(LOWEST, HIGHEST, NUM_BITS + 2)
    frequencies = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE)[:, None]
    return ((frequencies >= edges[:-1]) & (frequencies < edges[1:])).astype(np.float32)


def to_text(values: np.ndarray) -> str:
    """Return a fingerprint as text, for a record."""
    return base64.b64encode(values.astype("<u4").tobytes()).decode("ascii")


def from_text(text: str) -> np.ndarray:
    """Read what `to_text` has written."""
    return np.frombuffer(base64.b64decode(text), dtype="<u4")


def similarity(first: np.ndarray, second: np.ndarray, offset: int) -> tuple[float, int]:
    """Compare two fingerprints where they lie above each other.

    Args:
        first: uint32 values.
        second: uint32 values.
        offset: frame of `first` that the beginning of `second` lies at; may be negative.

    Returns:
        how alike they are, from about 0 for strangers to 1 (twice the share of equal bits, less 1), and the number of
        frames that were compared: those in which neither is silent.
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
