"""Audio at the door: files that anyone may have written become checked mono tracks of one length and rate."""

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
"""Amplitude 1.0 in 16-bit samples; energies are root mean squares in this unit."""

BLOCK_FRAMES = 1 << 16
"""Frames decoded at once, so that a file of many channels does not fill the memory."""

MP3_SLACK_FRAMES = 2304
"""Frames by which an MP3 file's length may be off: without an Info header it is estimated from the bit rate."""

OGG_TAIL_BYTES = 65_307
"""Largest page of an OGG stream, so that the last page begins within so many bytes of the end."""

CLIPPED_LEVEL = 0.9999
"""Samples from this amplitude on count as clipped."""


@dataclass(frozen=True)
class AudioOptions:
    """What audio is accepted and what is made of it."""

    sample_rate: int
    """Samples a second of the returned tracks: the codec's rate; 0 keeps that of the first required track."""

    voice_sample_rate: int = 0
    """Samples a second of the reference voice; 0 makes none."""

    min_seconds: float = 0.0
    """Shortest clip, inclusive."""

    max_seconds: float = 35.0
    """Longest clip, inclusive."""

    crop_long: bool = False
    """Keep the beginning of longer clips instead of leaving them out."""

    required_tracks: tuple[str, ...] = (MIX,)
    """Tracks that a clip must have."""

    length_tolerance_seconds: float = 0.1
    """Tracks whose lengths differ by no more are cut to the shortest (MP3 encoders pad)."""

    silence_energy: float = 1.0
    """A required track with less energy is silent; 1 is one step of a 16-bit sample."""

    min_file_rate: int = 4000
    """Lowest sample rate of a file that is believed."""

    max_file_rate: int = 384_000
    """Highest sample rate of a file that is believed."""

    max_channels: int = 8
    """Most channels of a file."""

    max_file_bytes: int = 1 << 30
    """Largest file."""


@dataclass(frozen=True)
class ClipAudio:
    """The tracks of one clip, checked."""

    tracks: dict[str, np.ndarray]
    """Track name -> mono float32 samples at the codec's rate; all of one length."""

    energies: dict[str, float]
    """Track name -> root mean square of the 16-bit samples."""

    voice: np.ndarray | None
    """Vocal track as int16 at the voice encoder's rate, or None."""

    duration: float
    """Seconds."""

    clipped_tracks: tuple[str, ...] = field(default=())
    """Tracks in which more than one sample of a thousand is clipped."""

    cropped_seconds: float = 0.0
    """What was cut off because the clip is longer than allowed."""

    trimmed_seconds: float = 0.0
    """What the longest track lost to have the length of the shortest."""


class AudioRejected(Exception):
    """A file cannot be used: a code to count by, and a reason for people."""

    def __init__(self, code: str, reason: str) -> None:
        """Keep code and reason."""
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
    """Return the length of a clip by the header of its first readable file, 0 when there is none (to sort by)."""
    for track in row.tracks.values():
        if track.resolved:
            try:
                return check_header(Path(track.resolved), options).seconds
            except AudioRejected:
                continue
    return 0.0


def read_clip(row: ClipRow, options: AudioOptions) -> ClipAudio | Rejection:
    """Read, check and resample all tracks of a clip.

    Headers of all files are checked before any is decoded. Never raises for what is wrong with a file.
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
        # Decoded lengths decide: a header is only a promise.
        name = _check_lengths(seconds, options)
        return _finish(samples, rates, seconds, cropped, options)
    except _TrackRejected as error:
        return row.reject(error.code, error.reason, row.tracks[error.track].given)
    except AudioRejected as error:
        return row.reject(error.code, error.reason, row.tracks[name].given)


class _TrackRejected(AudioRejected):
    """A rejection that names the track that is to blame."""

    def __init__(self, track: str, code: str, reason: str) -> None:
        super().__init__(code, f"track {track!r} {reason}")
        self.track = track


def _check_lengths(seconds: Mapping[str, float], options: AudioOptions) -> str:
    """Check the lengths of a clip's tracks; return the name of the shortest."""
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
    """Cut all tracks to the shortest (and to the longest allowed), resample, measure."""
    shortest = min(track_seconds.values())
    trimmed_seconds = 0.0 if cropped_seconds else max(track_seconds.values()) - shortest
    seconds = min(shortest, options.max_seconds)
    num_samples = round(seconds * options.sample_rate)
    if num_samples == 0:
        raise _TrackRejected(next(iter(samples)), "empty", "has no samples")
    tracks = {name: resample(track, rates[name], options.sample_rate, num_samples) for name, track in samples.items()}
    energies = {name: energy(track) for name, track in tracks.items()}
    for name in options.required_tracks:
        # Only a required track must sound: the vocal track of an instrumental passage is rightly silent.
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
    """Read a file's header and hold it against the limits; nothing is decoded.

    Raises:
        AudioRejected: with codes not_a_file, file_too_large, unreadable_audio, bad_sample_rate, too_many_channels,
            empty, truncated_audio or too_long.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe that appeared since the manifest was read would wait
            raise AudioRejected("not_a_file", "the path does not lead to a regular file")
        num_bytes = status.st_size
        if num_bytes > options.max_file_bytes:
            raise AudioRejected("file_too_large", f"{num_bytes} bytes; at most {options.max_file_bytes} are read")
        info = soundfile.info(str(path))
        cut = _is_cut(path, info.format)
    except (soundfile.LibsndfileError, OSError, RuntimeError, struct.error) as error:
        raise AudioRejected("unreadable_audio", f"not audio that can be read: {error}") from error
    if not options.min_file_rate <= info.samplerate <= options.max_file_rate:
        reason = f"{info.samplerate} samples a second; allowed: {options.min_file_rate} to {options.max_file_rate}"
        raise AudioRejected("bad_sample_rate", reason)
    if info.channels > options.max_channels:
        raise AudioRejected("too_many_channels", f"{info.channels} channels; at most {options.max_channels}")
    if cut:
        raise AudioRejected("truncated_audio", "the file ends before its own end mark or declared length")
    if info.frames <= 0:
        raise AudioRejected("empty", "the file has no samples")
    slack_frames = MP3_SLACK_FRAMES if info.format in ("MP3", "MPEG") else 0
    header = _Header(info.frames, info.samplerate, slack_frames)
    # Tracks may exceed the limit by what is cut off again; anything longer is refused before decoding.
    if header.seconds > options.max_seconds + options.length_tolerance_seconds and not options.crop_long:
        reason = f"{header.seconds:.3f} s; the longest allowed is {options.max_seconds:g} s"
        raise AudioRejected("too_long", reason)
    return header


def _is_cut(path: Path, audio_format: str) -> bool:
    """Whether a WAV or OGG file lost its end.

    libsndfile reads what is there and reports that as the length, so that such a file looks whole. Cut MP3 and FLAC
    files show when they are decoded.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        if audio_format in ("WAV", "WAVEX"):
            return _wav_is_cut(file, num_bytes)
        return audio_format == "OGG" and _ogg_is_cut(file, num_bytes)


def _wav_is_cut(file: BinaryIO, num_bytes: int) -> bool:
    """Compare the size of a RIFF file's data chunk with the bytes that are there."""
    if file.read(4) != b"RIFF":
        return False
    file.seek(12)
    while (chunk := _read_chunk(file)) is not None:
        name, size = chunk
        if name == b"data":
            # Programs that write to a pipe leave the size open.
            return size not in (0, 0xFFFFFFFF) and file.tell() + size > num_bytes
        file.seek(size + size % 2, os.SEEK_CUR)
    return False


def _ogg_is_cut(file: BinaryIO, num_bytes: int) -> bool:
    """Look for a complete last page with the end-of-stream flag (RFC 3533, section 6)."""
    file.seek(max(0, num_bytes - OGG_TAIL_BYTES))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
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
    """Decode a file as far as it can be needed and average its channels; see `decode`."""
    needed = math.ceil((options.max_seconds + options.length_tolerance_seconds) * header.sample_rate)
    return decode(path, header, min(header.frames, needed), mono=True)[:, 0]


def decode(path: Path, header: _Header, num_frames: int, *, mono: bool) -> np.ndarray:
    """Decode the beginning of a file block by block.

    Args:
        path: file.
        header: what `check_header` found.
        num_frames: how many frames are wanted, at most those of the header.
        mono: whether channels are averaged.

    Returns:
        float32 samples, frames x channels, at the file's own rate.

    Raises:
        AudioRejected: with codes unreadable_audio, truncated_audio or not_finite.
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
        raise AudioRejected("not_finite", "the samples hold NaN or infinity")
    return samples


def resample(samples: np.ndarray, rate: int, target_rate: int, num_samples: int) -> np.ndarray:
    """Resample mono float32 audio and cut or pad it to exactly `num_samples`.

    Args:
        samples: N samples at `rate`.
        rate: samples a second that come in.
        target_rate: samples a second that go out.
        num_samples: length of the result; padding is silence and never more than a rounding error.
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
    """Return float samples as 16-bit integers, limited to their range."""
    return np.clip(np.rint(samples * INT16_SCALE), -32768, 32767).astype(np.int16)
