"""Reading and writing audio files in the preparation: checked on the way in, 16 bits and whole on the way out."""

import math
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from songgen.data.audio import INT16_SCALE, AudioOptions, AudioRejected, check_header, decode, to_int16

SUBTYPE = "PCM_16"


def read_audio(path: Path, *, sample_rate: int | None = None, mono: bool = True) -> tuple[np.ndarray, int]:
    """Read a whole audio file, however long `take_in` lets songs be; its header is checked before it is decoded.

    Args:
        path: WAV, FLAC, OGG or MP3.
        sample_rate: samples a second of the result; None keeps those of the file.
        mono: whether channels are averaged.

    Returns:
        float32 samples (N where `mono`, else channels x N), full scale is 1.0; and their rate. Resampled audio has
        round(N * sample_rate / rate of the file) samples.

    Raises:
        AudioRejected: with a code of `songgen.data.reject_codes`: the file is missing, damaged or cut.
    """
    if not path.is_file():
        raise AudioRejected("file_missing", f"there is no such file: {path}")
    header = check_header(path, AudioOptions(sample_rate=0, max_seconds=math.inf))
    samples = decode(path, header, header.frames, mono=mono)
    rate = header.sample_rate
    if sample_rate is not None and sample_rate != rate:
        samples, rate = resample_frames(samples, rate, sample_rate), sample_rate
    return np.ascontiguousarray(samples[:, 0] if mono else samples.T), rate


def resample_frames(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resample along the first axis.

    Args:
        samples: N x channels.
        rate: samples a second that come in.
        target_rate: samples a second that go out.

    Returns:
        round(N * target_rate / rate) x channels, float32; the very same array where the rates are equal.
    """
    if rate == target_rate:
        return samples
    num_frames = round(len(samples) * target_rate / rate)
    resampled = np.asarray(soxr.resample(samples, rate, target_rate, quality="HQ"), dtype=np.float32)[:num_frames]
    # The resampler's own rounding may leave it one frame short.
    return np.pad(resampled, ((0, num_frames - len(resampled)), (0, 0)))


def write_audio(path: Path, samples: np.ndarray, sample_rate: int) -> int:
    """Write a 16-bit file under a temporary name and rename it, so that a file that is there is whole.

    No dither is added: what came from 16 bits is written as it was, and the same samples give the same file.

    Args:
        path: file to write; its ending says the format (`.wav`, `.flac`).
        samples: N, or channels x N; full scale is 1.0.
        sample_rate: samples a second.

    Returns:
        How many samples lay outside of what 16 bits hold and were limited.
    """
    assert samples.ndim in (1, 2), samples.shape
    # What 16 bits hold is -32768 to 32767 once rounded.
    outside = (samples >= 1.0 - 0.5 / INT16_SCALE) | (samples < -1.0 - 0.5 / INT16_SCALE)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        soundfile.write(str(partial), to_int16(samples).T, sample_rate, subtype=SUBTYPE, format=path.suffix[1:].upper())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return int(np.count_nonzero(outside))
