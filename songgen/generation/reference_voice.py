"""Input of a reference voice: a few seconds of any audio file, at the voice encoder's rate."""

import logging
from pathlib import Path

import numpy as np
import soundfile
import soxr

from songgen.generation.separation import VocalSeparator

VOICE_SECONDS = 3.0
"""Length of a reference voice."""

SEPARATION_CONTEXT_SECONDS = 2.0
"""Seconds before and after the cut that a separator is given as context."""

MAX_CHANNELS = 64
"""Most channels that a recording of a voice may have."""

logger = logging.getLogger(__name__)


def read_reference_voice(
    path: str | Path,
    *,
    sample_rate: int,
    start: float = 0.0,
    seconds: float = VOICE_SECONDS,
    separator: VocalSeparator | None = None,
) -> np.ndarray:
    """Read the reference voice; of a long file, only the part that is needed is decoded.

    Args:
        path: any audio file that libsndfile reads.
        sample_rate: samples a second of the result.
        start: seconds into the file at which the cut begins.
        seconds: length of the cut; a file that ends earlier gives less.
        separator: takes the accompaniment out first.

    Returns:
        N mono float32 samples, at most `seconds * sample_rate`.

    Raises:
        ValueError: if the file cannot be read, holds values that are not finite, or ends before `start`.
    """
    if not start >= 0:
        raise ValueError(f"start must be at least 0 seconds, got {start!r}")
    context = SEPARATION_CONTEXT_SECONDS if separator is not None else 0.0
    samples, file_rate, lead = _read(Path(path), start, seconds, context)
    if separator is not None:
        voice = separator.separate(samples, file_rate)
    else:
        voice = samples.mean(axis=1)
    voice = voice[lead : lead + round(seconds * file_rate)]
    if file_rate != sample_rate:
        voice = soxr.resample(voice, file_rate, sample_rate, quality="HQ")
    voice = np.ascontiguousarray(voice[: round(seconds * sample_rate)], dtype=np.float32)
    if not voice.any():
        logger.warning("the reference voice %s is silent from %.2f s on: the song gets no reference voice", path, start)
    return voice


def _read(path: Path, start: float, seconds: float, context: float) -> tuple[np.ndarray, int, int]:
    """Decode the cut and its context: samples (N x channels), their rate, and where in them the cut begins."""
    if not path.is_file():
        raise ValueError(f"the reference voice {path} does not exist or is not a file")
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = file.samplerate
            if file.channels > MAX_CHANNELS:
                raise ValueError(f"the reference voice {path} has {file.channels} channels; at most {MAX_CHANNELS}")
            cut = round(start * rate)
            if cut >= file.frames:
                raise ValueError(
                    f"the reference voice {path} is {file.frames / rate:.2f} s long: start={start} is after its end"
                )
            begin = max(0, cut - round(context * rate))
            file.seek(begin)
            length = cut - begin + round((seconds + context) * rate)
            samples = file.read(length, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"the reference voice {path} cannot be read as audio: {error}") from error
    if not np.isfinite(samples).all():
        raise ValueError(f"the reference voice {path} holds samples that are not finite")
    return samples, rate, cut - begin
