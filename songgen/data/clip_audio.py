"""Validation of a clip's audio on input: files from any source become checked tracks of one length and rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from songgen.data.audio import AudioHeader, AudioOptions, AudioRejected, check_header, decode, resample
from songgen.data.manifests.clip import ClipRow, Rejection
from songgen.data.sound.levels import CLIPPED_LEVEL, CLIPPED_SHARE, TrackSignal, energy, to_int16
from songgen.runtime.files import file_sha256
from songgen.tasks import VOCAL


@dataclass(frozen=True)
class ClipAudio:
    """Checked tracks of one clip."""

    tracks: dict[str, np.ndarray]
    """Track name -> float32 samples at the codec's rate, all of one length: N, or 2 x N of two channels."""

    energies: dict[str, float]
    """Track name -> root mean square of the 16-bit samples of the average of the channels."""

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

    signals: dict[str, TrackSignal] = field(default_factory=dict)
    """Track name -> figures that reveal a wrong recording."""


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
    name, headers = "", {}
    try:
        for name, track in row.tracks.items():
            headers[name] = check_header(Path(track.resolved), options)
        name = _check_lengths({name: header.seconds for name, header in headers.items()}, options)
        cropped = max(0.0, headers[name].seconds - options.max_seconds) if options.crop_long else 0.0
        samples, signals = {}, {}
        for name, track in row.tracks.items():
            _check_unchanged(name, row)
            samples[name], signals[name] = _decode(Path(track.resolved), headers[name], options)
        rates = {name: header.sample_rate for name, header in headers.items()}
        options = options if options.sample_rate else replace(options, sample_rate=rates[options.required_tracks[0]])
        seconds = {name: len(samples[name]) / rates[name] for name in samples}
        # The decoded lengths decide, because a header may state a wrong one.
        name = _check_lengths(seconds, options)
        return replace(_finish(samples, signals, rates, cropped, options), signals=signals)
    except AudioRejected as error:
        at_fault = error.track if isinstance(error, _TrackRejected) else name
        known = error.seconds or (headers[at_fault].seconds if at_fault in headers else 0.0)
        return row.reject(error.code, error.reason, row.tracks[at_fault].given, known)


class _TrackRejected(AudioRejected):
    """A rejection that names the track at fault."""

    def __init__(self, track: str, code: str, reason: str) -> None:
        super().__init__(code, f"track {track!r} {reason}")
        self.track = track


def _check_unchanged(name: str, row: ClipRow) -> None:
    """Compare the file of a track with the hash that the row states, if any; decoding reads it from memory then."""
    if name in row.hashes and file_sha256(Path(row.tracks[name].resolved)) != row.hashes[name]:
        reason = (
            "is not the file whose SHA-256 its row states: it is damaged or was replaced; write the data set again, or "
            "remove the SHA-256 from the row"
        )
        raise _TrackRejected(name, "changed_audio", reason)


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
    signals: Mapping[str, TrackSignal],
    rates: Mapping[str, int],
    cropped_seconds: float,
    options: AudioOptions,
) -> ClipAudio:
    """Cut all tracks to the shortest one and to the longest allowed length, resample and measure them."""
    track_seconds = {name: len(samples[name]) / rates[name] for name in samples}
    shortest = min(track_seconds.values())
    trimmed_seconds = 0.0 if cropped_seconds else max(track_seconds.values()) - shortest
    seconds = min(shortest, options.max_seconds)
    num_samples = round(seconds * options.sample_rate)
    if num_samples == 0:
        raise _TrackRejected(next(iter(samples)), "empty", "has no samples")
    tracks = {name: resample(track, rates[name], options.sample_rate, num_samples) for name, track in samples.items()}
    energies = {name: energy(_mono(track)) for name, track in tracks.items()}
    for name, track_energy in energies.items():
        if track_energy >= options.silence_energy:
            continue
        if signals[name].channel_energy >= options.silence_energy:
            if options.channels > 1:
                continue  # only the average of the channels is silent, and they are kept apart
            raise _TrackRejected(name, "cancelling_channels", _cancelling_text(track_energy, signals[name]))
        # The vocal track of an instrumental passage may be silent, also where a vocal track is required.
        if name in options.required_tracks and name != VOCAL:
            raise _TrackRejected(name, "silent", f"is silent (energy {track_energy:.2f})")
    voice = None
    if options.voice_sample_rate and VOCAL in samples:
        voice_length = round(seconds * options.voice_sample_rate)
        voice = to_int16(resample(_mono(samples[VOCAL]), rates[VOCAL], options.voice_sample_rate, voice_length))
    clipped = tuple(name for name, track in samples.items() if np.mean(np.abs(track) >= CLIPPED_LEVEL) > CLIPPED_SHARE)
    duration = num_samples / options.sample_rate
    tracks = {name: track if track.ndim == 1 else np.ascontiguousarray(track.T) for name, track in tracks.items()}
    return ClipAudio(tracks, energies, voice, duration, clipped, cropped_seconds, trimmed_seconds)


def _cancelling_text(mono_energy: float, signal: TrackSignal) -> str:
    return (
        f"has channels that cancel each other: their average is silent (energy {mono_energy:.2f}, of the channels "
        f"{signal.channel_energy:.0f}); invert one channel, or convert the file to mono from one of them"
    )


def _mono(samples: np.ndarray) -> np.ndarray:
    """Return N samples: the average of the channels where samples are N x channels."""
    return samples if samples.ndim == 1 else samples.mean(axis=1)


def _decode(path: Path, header: AudioHeader, options: AudioOptions) -> tuple[np.ndarray, TrackSignal]:
    """Decode as much of a file as may be needed, and mix its channels: N samples, or N x 2."""
    needed = math.ceil((options.max_seconds + options.length_tolerance_seconds) * header.sample_rate)
    decoded = decode(path, header, needed, channels=options.channels)
    return decoded.samples if options.channels > 1 else decoded.samples[:, 0], decoded.signal
