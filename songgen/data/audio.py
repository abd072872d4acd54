"""Decoding audio files with checks: what a file declares, what it contains, and the limits on both."""

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from songgen.data.sound.contents import audio_parts
from songgen.data.sound.levels import ChannelSums, TrackSignal
from songgen.data.sound.views import CutShort, NotReadable, Part, open_part
from songgen.tasks import MIX

BLOCK_FRAMES = 1 << 16
"""Frames to decode at once, so that a file with many channels does not fill the memory."""

MP3_SLACK_FRAMES = 2304
"""Frames that an MP3 file may lack: decoders drop the first frames if these need earlier ones that are not there."""

MAX_LEVEL = 4.0
"""Largest amplitude that is accepted: 12 dB above full scale. Mixes in float samples exceed full scale by a few dB;
samples that exceed it by more have another scale, such as that of 16-bit integers."""


_HALF_POWER = 0.5**0.5
_PLACES = {
    "left": (1.0, 0.0),
    "right": (0.0, 1.0),
    "centre": (_HALF_POWER, _HALF_POWER),
    "rear left": (_HALF_POWER, 0.0),
    "rear right": (0.0, _HALF_POWER),
    "rear centre": (0.5, 0.5),
    "bass": (0.0, 0.0),
}
"""Place of a loudspeaker -> its weights on the left and on the right side (ITU-R BS.775; the bass channel repeats what
the others have)."""

_FRONT, _REAR = ("left", "right", "centre"), ("rear left", "rear right")
_ORDERS = {
    3: _FRONT,
    4: ("left", "right", *_REAR),
    5: (*_FRONT, *_REAR),
    6: (*_FRONT, "bass", *_REAR),
    7: (*_FRONT, "bass", "rear centre", *_REAR),
    8: (*_FRONT, "bass", *_REAR, *_REAR),
}
"""Number of channels -> their places, in the order of WAV and FLAC."""

MAX_REST_FRAMES = 1 << 40
"""Number of frames from which a length is a placeholder, not a length."""


@dataclass(frozen=True)
class AudioOptions:
    """Limits of accepted audio, and the form of the result."""

    sample_rate: int
    """Sample rate of the returned tracks (the codec's); 0 keeps the rate of the first required track."""

    channels: int = 1
    """Number of channels of the returned tracks: 1 for the average of a file's channels, 2 for left and right."""

    voice_sample_rate: int = 0
    """Sample rate of the reference voice; 0 for no voice."""

    min_seconds: float = 0.0
    """Length of the shortest accepted clip, in seconds."""

    max_seconds: float = 35.0
    """Length of the longest accepted clip, in seconds."""

    crop_long: bool = False
    """Whether to keep the beginning of longer clips instead of rejecting them."""

    required_tracks: tuple[str, ...] = (MIX,)
    """Names of the tracks that a clip must have."""

    length_tolerance_seconds: float = 0.1
    """Accepted difference in length between tracks, which are cut to the shortest (MP3 encoders pad)."""

    silence_energy: float = 1.0
    """Energy below which a required track counts as silent; 1 is one step of a 16-bit sample."""

    min_file_rate: int = 4000
    """Lowest plausible sample rate of a file."""

    max_file_rate: int = 384_000
    """Highest plausible sample rate of a file."""

    max_channels: int = 8
    """Maximum number of channels of a file."""

    max_file_bytes: int = 1 << 30
    """Maximum size of a file, in bytes."""


class AudioRejected(Exception):
    """Raised for a file that cannot be used, with a code for statistics and a reason for people.

    Args:
        code: key of `songgen.data.reject_codes.REJECT_CODES`.
        reason: explanation; it contains no path, since it travels with the data set.
        seconds: length of the file as far as it is known; 0 if it is not.
    """

    def __init__(self, code: str, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.seconds = seconds


@dataclass(frozen=True)
class PartHeader:
    """What libsndfile says of one part of a file."""

    part: Part
    """Bytes of the part."""

    frames: int
    """Number of frames."""


@dataclass(frozen=True)
class AudioHeader:
    """What is known of a file before it is decoded."""

    frames: int
    """Number of frames of all parts."""

    sample_rate: int
    """Frames per second."""

    channels: int
    """Number of channels."""

    slack_frames: int
    """Number of frames that decoding may lack."""

    parts: tuple[PartHeader, ...]
    """Parts that are decoded one after the other; nearly always one."""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


@dataclass(frozen=True)
class Decoded:
    """Decoded samples and their figures."""

    samples: np.ndarray
    """float32 samples, frames x channels, at the file's own rate."""

    signal: TrackSignal
    """Figures of the file's channels, before they were mixed."""


def check_header(path: Path, options: AudioOptions) -> AudioHeader:
    """Read a file's headers and compare them with the file and the limits, without decoding.

    Raises:
        AudioRejected: with one of the codes not_a_file, file_too_large, unreadable_audio, unsupported_format,
            length_differs, changing_format, bad_sample_rate, too_many_channels, empty, truncated_audio or too_long.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
            raise AudioRejected("not_a_file", "the path is not a regular file")
        if status.st_size > options.max_file_bytes:
            raise AudioRejected("file_too_large", f"{status.st_size} bytes; at most {options.max_file_bytes} are read")
        header = _read_parts(path, audio_parts(path))
    except CutShort as error:
        reason = f"the file ends before its own end mark or declared length: {error}"
        raise AudioRejected("truncated_audio", reason, _rest_seconds(path)) from error
    except NotReadable as error:
        raise AudioRejected(error.code, str(error)) from error
    except OSError as error:
        raise AudioRejected("unreadable_audio", f"the file cannot be read: {error.strerror}") from error
    if not options.min_file_rate <= header.sample_rate <= options.max_file_rate:
        reason = f"{header.sample_rate} samples per second; allowed: {options.min_file_rate} to {options.max_file_rate}"
        raise AudioRejected("bad_sample_rate", reason)
    if header.channels > options.max_channels:
        reason = f"{header.channels} channels; at most {options.max_channels}"
        raise AudioRejected("too_many_channels", reason, header.seconds)
    if header.frames <= 0:
        raise AudioRejected("empty", "the file has no samples")
    # A track may exceed the limit by the tolerance, which is cut off later. Longer files are refused here.
    if header.seconds > options.max_seconds + options.length_tolerance_seconds and not options.crop_long:
        reason = f"{header.seconds:.3f} s; the longest allowed is {options.max_seconds:g} s"
        raise AudioRejected("too_long", reason, header.seconds)
    return header


def _read_parts(path: Path, parts: Sequence[Part]) -> AudioHeader:
    """Return what libsndfile says of a file's parts, which must have one sample rate and number of channels."""
    found: list[PartHeader] = []
    kinds: list[tuple[int, int]] = []
    slack_frames = 0
    for part in parts:
        try:
            with open_part(path, part) as sound:
                found.append(PartHeader(part, sound.frames))
                kinds.append((sound.samplerate, sound.channels))
                slack_frames += MP3_SLACK_FRAMES if sound.format in ("MP3", "MPEG") else 0
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise NotReadable(f"not audio that can be read: {_without_path(error)}") from error
        if kinds[-1] != kinds[0]:
            raise NotReadable(
                f"the file begins with {_kind_text(*kinds[0])} and continues with {_kind_text(*kinds[-1])}; join its "
                "parts by decoding them (ffmpeg -i FILE NEW.flac)",
                "changing_format",
            )
    (rate, channels), frames = kinds[0], sum(part.frames for part in found)
    return AudioHeader(frames, rate, channels, slack_frames, tuple(found))


def _kind_text(rate: int, channels: int) -> str:
    return f"{rate} Hz and {channels} channel(s)"


def _without_path(error: Exception) -> str:
    """Return the message of libsndfile, which begins with the path of the file."""
    return error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)


def _rest_seconds(path: Path) -> float:
    """Return how much is left of a file that was cut, as far as libsndfile can tell."""
    try:
        with soundfile.SoundFile(str(path)) as sound:
            return sound.frames / sound.samplerate if 0 < sound.frames < MAX_REST_FRAMES else 0.0
    except (soundfile.LibsndfileError, RuntimeError):
        return 0.0


def decode(path: Path, header: AudioHeader, num_frames: int, *, channels: int | None, start: int = 0) -> Decoded:
    """Decode a passage of a file block by block.

    Args:
        path: File to decode.
        header: Result of `check_header`.
        num_frames: Number of frames to decode; fewer are returned at the end of the file.
        channels: Number of channels of the result (see `mixed`); None keeps those of the file.
        start: First frame.

    Raises:
        AudioRejected: with one of the codes unreadable_audio, truncated_audio, not_finite or out_of_scale.
    """
    num_frames = min(num_frames, header.frames - start)
    blocks: list[np.ndarray] = []
    sums = ChannelSums(header.channels)
    try:
        for block in _blocks(path, header, start, num_frames):
            sums.add(block)
            blocks.append(block if channels is None else mixed(block, channels))
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise AudioRejected("unreadable_audio", f"decoding fails: {_without_path(error)}", header.seconds) from error
    found = sums.count
    if found == 0 or found < num_frames - header.slack_frames:
        reason = f"only {found} of {num_frames} declared frames can be decoded"
        raise AudioRejected("truncated_audio", reason, found / header.sample_rate)
    if not sums.is_finite:
        raise AudioRejected("not_finite", "the samples contain NaN or infinity", header.seconds)
    samples = np.concatenate(blocks)
    del blocks  # as large as the samples: ten minutes of stereo are 230 MB
    if sums.peak > MAX_LEVEL:
        reason = (
            f"the largest sample is {sums.peak:.6g}, where 1 is full scale; samples of the size of integers must be "
            "divided (by 32768 for 16 bits) when they are written as floats"
        )
        raise AudioRejected("out_of_scale", reason, header.seconds)
    return Decoded(samples, sums.signal(samples.mean(axis=1), header.sample_rate))


def mixed(samples: np.ndarray, channels: int) -> np.ndarray:
    """Mix frames x channels of a file to one channel (the average) or two (left and right).

    One channel is used for both sides. Surround sound is folded down with the weights of ITU-R BS.775, scaled so that
    the result cannot exceed full scale where the file does not.
    """
    found = samples.shape[1]
    if found == channels:
        return samples
    if channels == 1:
        return samples.mean(axis=1, keepdims=True)
    assert channels == 2, channels
    return samples.repeat(2, axis=1) if found == 1 else samples @ _fold_down(found)


@cache
def _fold_down(channels: int) -> np.ndarray:
    """Return the weights (channels x 2) of a file's channels on both sides."""
    weights = np.array([_PLACES[place] for place in _ORDERS[channels]], dtype=np.float32)
    return weights / weights.sum(axis=0)


def _blocks(path: Path, header: AudioHeader, start: int, num_frames: int) -> Iterator[np.ndarray]:
    """Yield blocks (frames x channels, float32) of a passage."""
    for part in header.parts:
        if start >= part.frames:
            start -= part.frames
            continue
        with open_part(path, part.part) as sound:
            if start:
                sound.seek(start)
            left = min(num_frames, part.frames - start)
            num_frames -= left
            while left > 0 and len(block := sound.read(min(BLOCK_FRAMES, left), dtype="float32", always_2d=True)):
                left -= len(block)
                yield block
        start = 0
        if num_frames <= 0:
            return


def resample(samples: np.ndarray, rate: int, target_rate: int, num_samples: int) -> np.ndarray:
    """Resample float32 audio along its first axis, and cut or pad it to exactly `num_samples`.

    Args:
        samples: N samples, or N x channels, at `rate`.
        rate: Sample rate of the input.
        target_rate: Sample rate of the result.
        num_samples: Length of the result; the padding is silence and only compensates for rounding.
    """
    if rate != target_rate:
        samples = soxr.resample(samples, rate, target_rate, quality="HQ")
    samples = samples[:num_samples]
    if len(samples) < num_samples:
        samples = np.pad(samples, [(0, num_samples - len(samples)), *[(0, 0)] * (samples.ndim - 1)])
    return np.ascontiguousarray(samples, dtype=np.float32)
