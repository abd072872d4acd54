"""Reading audio files with checks, and writing complete 16-bit files."""

import math
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from songgen.data.audio import AudioOptions, AudioRejected, check_header, decode
from songgen.data.sound.levels import INT16_SCALE, to_int16
from songgen.runtime.files import remove_file

SUBTYPE = "PCM_16"


def read_audio(path: Path, *, sample_rate: int | None = None, mono: bool = True) -> tuple[np.ndarray, int]:
    """Read a whole audio file of any length; its header is checked before it is decoded.

    Args:
        path: audio file of a format that is read.
        sample_rate: sample rate of the result; None keeps that of the file.
        mono: whether channels are averaged.

    Returns:
        float32 samples (N where `mono`, else channels x N), full scale is 1.0; and their rate. Resampled audio has
        round(N * sample_rate / file_rate) samples.

    Raises:
        AudioRejected: If the file is missing, damaged or cut; with a code of `songgen.data.reject_codes`.
    """
    if not path.is_file():
        raise AudioRejected("file_missing", f"the file does not exist: {path.name}")
    header = check_header(path, AudioOptions(sample_rate=0, max_seconds=math.inf))
    samples = decode(path, header, header.frames, channels=1 if mono else None).samples
    rate = header.sample_rate
    if sample_rate is not None and sample_rate != rate:
        samples, rate = resample_frames(samples, rate, sample_rate), sample_rate
    return np.ascontiguousarray(samples[:, 0] if mono else samples.T), rate


def resample_frames(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resample along the first axis.

    Args:
        samples: N x channels.
        rate: sample rate of the input.
        target_rate: sample rate of the output.

    Returns:
        round(N * target_rate / rate) x channels, float32; the same array if the rates are equal.
    """
    if rate == target_rate:
        return samples
    num_frames = round(len(samples) * target_rate / rate)
    resampled = np.asarray(soxr.resample(samples, rate, target_rate, quality="HQ"), dtype=np.float32)[:num_frames]
    # soxr rounds the length by itself, so the result may be one frame too short.
    return np.pad(resampled, ((0, num_frames - len(resampled)), (0, 0)))


def write_audio(path: Path, samples: np.ndarray, sample_rate: int) -> int:
    """Write a 16-bit file under a temporary name and rename it, so that an existing file is complete.

    No dither is added: samples that came from 16 bits are written unchanged, and equal samples give equal files.

    Args:
        path: file to write; its suffix is the format (`.wav`, `.flac`).
        samples: N, or channels x N; full scale is 1.0.
        sample_rate: sample rate.

    Returns:
        Number of samples that were clipped because 16 bits cannot hold them.
    """
    assert samples.ndim in (1, 2), samples.shape
    # 16 bits hold -32768 to 32767 after rounding.
    outside = (samples >= 1.0 - 0.5 / INT16_SCALE) | (samples < -1.0 - 0.5 / INT16_SCALE)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        soundfile.write(str(partial), to_int16(samples).T, sample_rate, subtype=SUBTYPE, format=path.suffix[1:].upper())
        partial.replace(path)
    finally:
        remove_file(partial)
    return int(np.count_nonzero(outside))
