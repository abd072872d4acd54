"""Validation of audio on input: files from any source become checked mono tracks of one length and sample rate."""

import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from songgen.data.manifests.clip import ClipRow, Rejection
from songgen.tasks import MIX, VOCAL

INT16_SCALE = 32768.0
"""Amplitude 1.0 in units of 16-bit samples; energies are root mean squares in this unit."""

BLOCK_FRAMES = 1 << 16
"""Frames to decode at once, so that a file with many channels does not fill the memory."""

MP3_SLACK_FRAMES = 2304
"""Tolerance for the stated length of an MP3 file: without an Info header it is estimated from the bit rate."""

OGG_TAIL_BYTES = 65_307
"""Size of the largest page of an OGG stream; the last page begins within this many bytes of the end."""

CLIPPED_LEVEL = 0.9999
"""Amplitude from which a sample counts as clipped."""


@dataclass(frozen=True)
class AudioOptions:
    """Limits of accepted audio, and the form of the result."""

    sample_rate: int
    """Sample rate of the returned tracks (the codec's); 0 keeps the rate of the first required track."""

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


@dataclass(frozen=True)
class ClipAudio:
    """Checked tracks of one clip."""

    tracks: dict[str, np.ndarray]
    """Track name -> mono float32 samples at the codec's rate, all of one length."""

    energies: dict[str, float]
    """Track name -> root mean square of the 16-bit samples."""

    voice: np.ndarray | None
    """Vocal track as int16 at the voice encoder's rate, or None."""

    duration: float
    """Length of the clip in seconds."""

    clipped_tracks: tuple[str, ...] = field(default=())
    """Names of tracks in which more than one sample in a thousand is clipped."""

    cropped_seconds: float = 0.0
    """Seconds that were cut off because the clip is longer than allowed."""

    trimmed_seconds: float = 0.0
    """Seconds that the longest track lost when the tracks were cut to the shortest."""


class AudioRejected(Exception):
    """Raised for a file that cannot be used, with a code for statistics and a reason for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class _Header:
    frames: int
    sample_rate: int
    slack_frames: int

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def declared_seconds(row: ClipRow, options: AudioOptions) -> float:
    """Return the length of a clip from the header of its first readable file, for sorting; 0 if no file is readable."""
    for track in row.tracks.values():
        if track.resolved:
            try:
                return check_header(Path(track.resolved), options).seconds
            except AudioRejected:
                continue
    return 0.0


def read_clip(row: ClipRow, options: AudioOptions) -> ClipAudio | Rejection:
    """Read, check and resample all tracks of a clip.

    The headers of all files are checked before any file is decoded. Problems of a file are returned, never raised.
    """
    if row.code:
        return row.reject(row.code, row.reason)
    for required in options.required_tracks:
        if required not in row.tracks:
            return row.reject("missing_track", f"the row has no track {required!r}")
    for track in row.tracks.values():
        if not track.resolved:
            return row.reject(track.code, track.reason, track.given)
    name = ""
    try:
        headers = {}
        for name, track in row.tracks.items():
            headers[name] = check_header(Path(track.resolved), options)
        name = _check_lengths({name: header.seconds for name, header in headers.items()}, options)
        cropped = max(0.0, headers[name].seconds - options.max_seconds) if options.crop_long else 0.0
        samples = {}
        for name, track in row.tracks.items():
            samples[name] = _decode_mono(Path(track.resolved), headers[name], options)
        rates = {name: header.sample_rate for name, header in headers.items()}
        options = options if options.sample_rate else replace(options, sample_rate=rates[options.required_tracks[0]])
        seconds = {name: len(samples[name]) / rates[name] for name in samples}
        # The decoded lengths decide, because a header may state a wrong one.
        name = _check_lengths(seconds, options)
        return _finish(samples, rates, seconds, cropped, options)
    except _TrackRejected as error:
        return row.reject(error.code, error.reason, row.tracks[error.track].given)
    except AudioRejected as error:
        return row.reject(error.code, error.reason, row.tracks[name].given)


class _TrackRejected(AudioRejected):
    """A rejection that names the track at fault."""

    def __init__(self, track: str, code: str, reason: str) -> None:
        super().__init__(code, f"track {track!r} {reason}")
        self.track = track


def _check_lengths(seconds: Mapping[str, float], options: AudioOptions) -> str:
    """Check the lengths of a clip's tracks, and return the name of the shortest track."""
    shortest = min(seconds, key=seconds.__getitem__)
    longest = max(seconds, key=seconds.__getitem__)
    if seconds[shortest] == 0:
        raise _TrackRejected(shortest, "empty", "has no samples")
    if seconds[longest] - seconds[shortest] > options.length_tolerance_seconds:
        reason = f"has {seconds[shortest]:.3f} s, but track {longest!r} has {seconds[longest]:.3f} s"
        raise _TrackRejected(shortest, "track_lengths_differ", reason)
    if seconds[shortest] < options.min_seconds:
        reason = f"has {seconds[shortest]:.3f} s; the shortest allowed is {options.min_seconds:g} s"
        raise _TrackRejected(shortest, "too_short", reason)
    if seconds[shortest] > options.max_seconds and not options.crop_long:
        reason = f"has {seconds[shortest]:.3f} s; the longest allowed is {options.max_seconds:g} s"
        raise _TrackRejected(shortest, "too_long", reason)
    return shortest


def _finish(
    samples: Mapping[str, np.ndarray],
    rates: Mapping[str, int],
    track_seconds: Mapping[str, float],
    cropped_seconds: float,
    options: AudioOptions,
) -> ClipAudio:
    """Cut all tracks to the shortest one and to the longest allowed length, resample and measure them."""
    shortest = min(track_seconds.values())
    trimmed_seconds = 0.0 if cropped_seconds else max(track_seconds.values()) - shortest
    seconds = min(shortest, options.max_seconds)
    num_samples = round(seconds * options.sample_rate)
    if num_samples == 0:
        raise _TrackRejected(next(iter(samples)), "empty", "has no samples")
    tracks = {name: resample(track, rates[name], options.sample_rate, num_samples) for name, track in samples.items()}
    energies = {name: energy(track) for name, track in tracks.items()}
    for name in options.required_tracks:
        # The vocal track of an instrumental passage may be silent, also where a vocal track is required.
        if name != VOCAL and energies[name] < options.silence_energy:
            raise _TrackRejected(name, "silent", f"is silent (energy {energies[name]:.2f})")
    voice = None
    if options.voice_sample_rate and VOCAL in samples:
        voice_length = round(seconds * options.voice_sample_rate)
        voice = to_int16(resample(samples[VOCAL], rates[VOCAL], options.voice_sample_rate, voice_length))
    clipped = tuple(name for name, track in samples.items() if np.mean(np.abs(track) >= CLIPPED_LEVEL) > 1e-3)
    duration = num_samples / options.sample_rate
    return ClipAudio(tracks, energies, voice, duration, clipped, cropped_seconds, trimmed_seconds)


def check_header(path: Path, options: AudioOptions) -> _Header:
    """Read a file's header and compare it with the limits, without decoding.

    Raises:
        AudioRejected: with one of the codes not_a_file, file_too_large, unreadable_audio, bad_sample_rate,
            too_many_channels, empty, truncated_audio or too_long.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block
            raise AudioRejected("not_a_file", "the path is not a regular file")
        num_bytes = status.st_size
        if num_bytes > options.max_file_bytes:
            raise AudioRejected("file_too_large", f"{num_bytes} bytes; at most {options.max_file_bytes} are read")
        info = soundfile.info(str(path))
        cut = _is_cut(path, info.format)
    except (soundfile.LibsndfileError, OSError, RuntimeError, struct.error) as error:
        raise AudioRejected("unreadable_audio", f"not audio that can be read: {error}") from error
    if not options.min_file_rate <= info.samplerate <= options.max_file_rate:
        reason = f"{info.samplerate} samples per second; allowed: {options.min_file_rate} to {options.max_file_rate}"
        raise AudioRejected("bad_sample_rate", reason)
    if info.channels > options.max_channels:
        raise AudioRejected("too_many_channels", f"{info.channels} channels; at most {options.max_channels}")
    if cut:
        raise AudioRejected("truncated_audio", "the file ends before its own end mark or declared length")
    if info.frames <= 0:
        raise AudioRejected("empty", "the file has no samples")
    slack_frames = MP3_SLACK_FRAMES if info.format in ("MP3", "MPEG") else 0
    header = _Header(info.frames, info.samplerate, slack_frames)
    # A track may exceed the limit by the tolerance, which is cut off later. Longer files are refused here.
    if header.seconds > options.max_seconds + options.length_tolerance_seconds and not options.crop_long:
        reason = f"{header.seconds:.3f} s; the longest allowed is {options.max_seconds:g} s"
        raise AudioRejected("too_long", reason)
    return header


def _is_cut(path: Path, audio_format: str) -> bool:
    """Return whether a WAV or OGG file is truncated.

    libsndfile reports the length of the samples that are left, so that such a file looks complete. Truncated MP3 and
    FLAC files are found in decoding.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        if audio_format in ("WAV", "WAVEX"):
            return _wav_is_cut(file, num_bytes)
        return audio_format == "OGG" and _ogg_is_cut(file, num_bytes)


def _wav_is_cut(file: BinaryIO, num_bytes: int) -> bool:
    """Return whether the data chunk of a RIFF file states more bytes than the file has."""
    if file.read(4) != b"RIFF":
        return False
    file.seek(12)
    while (chunk := _read_chunk(file)) is not None:
        name, size = chunk
        if name == b"data":
            # Programs that write to a pipe leave the size at 0 or at its maximum.
            return size not in (0, 0xFFFFFFFF) and file.tell() + size > num_bytes
        file.seek(size + size % 2, os.SEEK_CUR)  # Chunks are padded to even sizes.
    return False


def _ogg_is_cut(file: BinaryIO, num_bytes: int) -> bool:
    """Return whether an OGG file lacks a complete last page with the end-of-stream flag (RFC 3533, section 6)."""
    file.seek(max(0, num_bytes - OGG_TAIL_BYTES))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    # A page header has 27 bytes: flags at 5 (0x04 is end of stream), number of segments at 26. Their lengths follow.
    if len(page) < 27 or not page[5] & 0x04:
        return True
    num_segments = page[26]
    return len(page) < 27 + num_segments + sum(page[27 : 27 + num_segments])


def _read_chunk(file: BinaryIO) -> tuple[bytes, int] | None:
    head = file.read(8)
    if len(head) < 8:
        return None
    return head[:4], int(struct.unpack("<I", head[4:])[0])


def _decode_mono(path: Path, header: _Header, options: AudioOptions) -> np.ndarray:
    """Decode as much of a file as may be needed, and average its channels; see `decode`."""
    needed = math.ceil((options.max_seconds + options.length_tolerance_seconds) * header.sample_rate)
    return decode(path, header, min(header.frames, needed), mono=True)[:, 0]


def decode(path: Path, header: _Header, num_frames: int, *, mono: bool) -> np.ndarray:
    """Decode the beginning of a file block by block.

    Args:
        path: File to decode.
        header: Result of `check_header`.
        num_frames: Number of frames to decode, at most that of the header.
        mono: Whether to average the channels.

    Returns:
        float32 samples, frames x channels, at the file's own rate.

    Raises:
        AudioRejected: with one of the codes unreadable_audio, truncated_audio or not_finite.
    """
    blocks, found = [], 0
    try:
        with soundfile.SoundFile(str(path)) as file:
            while found < num_frames:
                block = file.read(min(BLOCK_FRAMES, num_frames - found), dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(block.mean(axis=1, keepdims=True) if mono and block.shape[1] > 1 else block)
                found += len(block)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise AudioRejected("unreadable_audio", f"decoding fails: {error}") from error
    if found == 0 or found < min(num_frames, header.frames - header.slack_frames):
        raise AudioRejected("truncated_audio", f"only {found} of {header.frames} declared frames can be decoded")
    samples = np.concatenate(blocks)
    if not np.isfinite(samples).all():
        raise AudioRejected("not_finite", "the samples contain NaN or infinity")
    return samples


def resample(samples: np.ndarray, rate: int, target_rate: int, num_samples: int) -> np.ndarray:
    """Resample mono float32 audio and cut or pad it to exactly `num_samples`.

    Args:
        samples: N samples at `rate`.
        rate: Sample rate of the input.
        target_rate: Sample rate of the result.
        num_samples: Length of the result; the padding is silence and only compensates for rounding.
    """
    if rate != target_rate:
        samples = soxr.resample(samples, rate, target_rate, quality="HQ")
    samples = samples[:num_samples]
    if len(samples) < num_samples:
        samples = np.pad(samples, (0, num_samples - len(samples)))
    return np.ascontiguousarray(samples, dtype=np.float32)


def energy(samples: np.ndarray) -> float:
    """Return the root mean square of the samples as 16-bit integers (about 1,000 for a normal voice)."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) * INT16_SCALE


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Convert float samples to 16-bit integers, clipped to their range."""
    return np.clip(np.rint(samples * INT16_SCALE), -32768, 32767).astype(np.int16)
