"""Input of a reference voice: a few seconds of any audio file, at the voice encoder's rate."""

import math
from pathlib import Path

import numpy as np
import soxr

from songgen.data.audio import AudioOptions, AudioRejected, Decoded, check_header, decode
from songgen.data.sound.levels import VOICE_MIN_ENERGY, TrackSignal, energy, flaws, is_loud_enough
from songgen.generation.separation import VocalSeparator

VOICE_SECONDS = 3.0
"""Length of a reference voice."""

SEPARATION_CONTEXT_SECONDS = 2.0
"""Seconds before and after the cut that a separator is given as context."""

MIN_VOICE_SECONDS = 0.25
"""Length of the shortest reference voice: the shortest vowel that can be told from another."""

_ANY_LENGTH = AudioOptions(sample_rate=0, max_seconds=math.inf)


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
        path: audio file of a format that data sets may have.
        sample_rate: samples a second of the result.
        start: seconds into the file at which the cut begins.
        seconds: length of the cut; a file that ends earlier gives less.
        separator: takes the accompaniment out first.

    Returns:
        N mono float32 samples, at most `seconds * sample_rate`.

    Raises:
        ValueError: if the file cannot be read, ends before `start`, or if the cut is too short or too quiet for a voice
            by the rule of training (`songgen.data.sound.levels.is_loud_enough`).
    """
    if not start >= 0:
        raise ValueError(f"start must be at least 0 seconds, got {start!r}")
    context = SEPARATION_CONTEXT_SECONDS if separator is not None else 0.0
    decoded, file_rate, lead = _read(Path(path), start, seconds, context)
    samples = decoded.samples
    voice = separator.separate(samples, file_rate) if separator is not None else samples.mean(axis=1)
    voice = voice[lead : lead + round(seconds * file_rate)]
    _check_voice(voice, file_rate, decoded.signal, path, start)
    if file_rate != sample_rate:
        voice = soxr.resample(voice, file_rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(voice[: round(seconds * sample_rate)], dtype=np.float32)


def _check_voice(voice: np.ndarray, rate: int, signal: TrackSignal, path: str | Path, start: float) -> None:
    """Refuse what training does not use as a voice.

    Raises:
        ValueError: if it is too short or too quiet.
    """
    if len(voice) < MIN_VOICE_SECONDS * rate:
        raise ValueError(
            f"the reference voice {path} has {len(voice) / rate:.3f} s from {start:g} s on; at least "
            f"{MIN_VOICE_SECONDS:g} s are needed: give a longer recording or an earlier start"
        )
    found = energy(voice)
    if is_loud_enough(found):
        return
    if is_loud_enough(signal.channel_energy) and "cancelling_channels" in flaws(signal):
        raise ValueError(
            f"the channels of the reference voice {path} cancel each other (energy {found:.0f} of their average, "
            f"{signal.channel_energy:.0f} of the channels): invert one, or convert the file to mono from one of them"
        )
    raise ValueError(
        f"the reference voice {path} is too quiet from {start:g} s on (energy {found:.0f}; training uses voices from "
        f"{VOICE_MIN_ENERGY:g}): give a louder recording, or another start"
    )


def _read(path: Path, start: float, seconds: float, context: float) -> tuple[Decoded, int, int]:
    """Decode the cut and its context: samples, their rate, and where in them the cut begins.

    Raises:
        ValueError: if the file cannot be read, or ends before `start`.
    """
    if not path.is_file():
        raise ValueError(f"the reference voice {path} does not exist or is not a file")
    try:
        header = check_header(path, _ANY_LENGTH)
        rate = header.sample_rate
        cut = round(start * rate)
        if cut >= header.frames:
            raise ValueError(
                f"the reference voice {path} is {header.seconds:.2f} s long: start={start} is after its end"
            )
        begin = max(0, cut - round(context * rate))
        length = cut - begin + round((seconds + context) * rate)
        return decode(path, header, length, channels=None, start=begin), rate, cut - begin
    except AudioRejected as error:
        raise ValueError(f"the reference voice {path} cannot be used ({error.code}): {error.reason}") from error
