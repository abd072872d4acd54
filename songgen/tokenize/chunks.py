"""Encoding of one chunk: rows become one Arrow shard and a record of the rows left out."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from songgen.data.audio import AudioOptions
from songgen.data.clip_audio import ClipAudio
from songgen.data.manifests.clip import ClipRow, Rejection
from songgen.data.reading import AudioReaders
from songgen.data.schema import (
    CAPTION_COLUMN,
    CAPTION_IDS_COLUMN,
    DURATION_COLUMN,
    ID_COLUMN,
    LANGUAGE_COLUMN,
    LYRICS_COLUMN,
    LYRICS_IDS_COLUMN,
    NUM_FRAMES_COLUMN,
    VARIANT_IDS_COLUMN,
    VARIANT_LENGTHS_COLUMN,
    VOICE_COLUMN,
    DatasetInfo,
    arrow_schema,
    energy_column,
    target_column,
)
from songgen.data.sound.levels import flaws
from songgen.data.writer import ShardWriter
from songgen.families.encoding import Encoders
from songgen.runtime.json_lines import has_keys, seal, unseal
from songgen.tokenize.options import TokenizeOptions
from songgen.tokenize.statistics import ChunkStatistics, EnergyStatistics, count, differs
from songgen.tokenize.text import EncodedText, encode_text

COUNTED_TRIM_SECONDS = 0.001
"""Seconds up to which a track cut to the shortest one is not counted: sample rates differ, and lengths are rounded."""


_RECORD_HASH = "record_sha256"


@dataclass
class ChunkRecord:
    """Record of a finished chunk."""

    split: str
    """Split of the rows."""

    index: int
    """Number of the chunk in its split."""

    key: str
    """Hash of everything that the chunk was made from."""

    process: int
    """Rank of the process that encoded the chunk."""

    rows: int = 0
    """Number of clips in the shard."""

    sha256: str = ""
    """SHA-256 of the shard; empty if the chunk has no usable row."""

    statistics: ChunkStatistics = field(default_factory=ChunkStatistics)
    """Counts over the clips."""

    rejections: list[Rejection] = field(default_factory=list)
    """Rows left out, in the order of the manifest."""

    def to_json(self) -> str:
        """Return the record as one line of JSON with a checksum."""
        return seal({**asdict(self), "statistics": self.statistics.to_dict()})

    @staticmethod
    def from_json(line: bytes) -> "ChunkRecord":
        """Read a record from a line of JSON.

        Raises:
            ValueError: if the line is damaged.
        """
        content = unseal(line, has_keys(*(entry.name for entry in fields(ChunkRecord))))
        content["statistics"] = ChunkStatistics.from_dict(content["statistics"])
        content["rejections"] = [Rejection(**rejection) for rejection in content["rejections"]]
        return ChunkRecord(**content)


def chunk_key(settings: str, split: str, content: bytes, rows: Sequence[ClipRow]) -> str:
    """Return the hash of everything that a chunk's shard depends on.

    Args:
        settings: fingerprint of options, encoders and code.
        split: split of the rows; two splits may have the same rows, but not the same shard.
        content: bytes of the rows in the work list.
        rows: the same rows, for sizes and modification times of their files.
    """
    digest = hashlib.sha256(f"{settings}\n{split}\n".encode() + content)
    for row in rows:
        for track in row.tracks.values():
            if track.resolved:
                # Size and modification time stand for the audio: hashing terabytes would take longer than encoding
                # them.
                try:
                    status = os.stat(track.resolved)
                except OSError:
                    digest.update(b"missing\n")
                else:
                    digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def audio_options(options: TokenizeOptions, info: DatasetInfo, channels: int) -> AudioOptions:
    """Return the limits on audio of a run, and the form in which its encoder takes it."""
    return AudioOptions(
        sample_rate=info.sample_rate,
        channels=channels,
        voice_sample_rate=info.voice_sample_rate,
        min_seconds=options.min_seconds,
        max_seconds=options.longest_seconds,
        crop_long=options.crop_long,
    )


class ChunkEncoder:
    """Encoder of chunks, with the networks of this process."""

    def __init__(
        self,
        options: TokenizeOptions,
        info: DatasetInfo,
        encoders: Encoders,
        readers: AudioReaders,
        executor: Executor,
        progress: Callable[[int], object],
    ) -> None:
        """Prepare to encode.

        Args:
            options: limits and sizes.
            info: description of the data set.
            encoders: encoders of audio and texts.
            readers: processes that read audio.
            executor: threads that wait for the readers while audio is encoded.
            progress: function called with the number of newly completed rows.
        """
        self.options = options
        self.info = info
        self.encoders = encoders
        self.readers = readers
        self.executor = executor
        self.progress = progress

    def encode(self, rows: Sequence[ClipRow], path: Path, record: ChunkRecord) -> None:
        """Encode rows into a shard at `path` and fill in the record. Without a usable row, no file is written.

        Raises:
            RuntimeError: if encoding fails on every clip of the chunk, which then is not a problem of the clips.
        """
        name = self.encoders.targets.name
        rejected: dict[int, Rejection] = {}
        for position, row in enumerate(rows):
            text = encode_text(row, self.encoders, self.options, self.options.longest_seconds)
            if isinstance(text, Rejection):
                rejected[position] = text
        self.progress(len(rejected))
        usable = [position for position in range(len(rows)) if position not in rejected]
        schema = arrow_schema(self.info.tracks, self.info.target_kind, self.info.kept_columns)
        with ShardWriter(path, schema) as writer:
            failures = []
            for group in self._audio_groups(rows, usable):
                clips = {position: audio for position, audio in group if isinstance(audio, ClipAudio)}
                rejected |= {position: audio for position, audio in group if isinstance(audio, Rejection)}
                for position, targets in self._encode_audio(rows, clips).items():
                    row, clip = rows[position], clips[position]
                    text = encode_text(row, self.encoders, self.options, clip.duration)
                    if isinstance(targets, Exception):
                        failures.append(targets)
                        rejected[position] = row.reject("encoding_failed", f"the {name} fails: {targets}")
                    elif isinstance(text, Rejection):
                        rejected[position] = text
                    else:
                        writer.add(position, self._arrow_row(row, text, clip, targets))
                        self._count(record.statistics, row, text, clip, targets)
                self.progress(len(group))
            if failures and not writer.num_rows:
                raise RuntimeError(f"the {name} fails on every clip of {path.stem}") from failures[0]
            record.rows = writer.num_rows
            record.sha256 = writer.finish() if writer.num_rows else ""
        record.rejections = [rejected[position] for position in sorted(rejected)]
        for rejection in record.rejections:
            count(record.statistics.rejected, rejection.code)
            record.statistics.bad_rows += not rejection.is_filtered

    def _audio_groups(
        self, rows: Sequence[ClipRow], positions: Sequence[int]
    ) -> Iterator[list[tuple[int, ClipAudio | Rejection]]]:
        """Yield batches of clips of similar length. The next batch is read while the current one is encoded."""
        rows = [self._to_read(row) for row in rows]
        seconds = self.executor.map(lambda position: self.readers.seconds(rows[position]), positions)
        # Similar lengths keep padding small. `ShardWriter` restores the order of the rows by position.
        ordered = [position for _, position in sorted(zip(seconds, positions, strict=True))]
        pending: list[tuple[int, Future[ClipAudio | Rejection]]] = []
        # Clips that are encoded one by one may be whole songs of 230 MB: no more are in memory than are read at once.
        size = self.options.batch_size if self.encoders.targets.is_batched else self.options.num_workers
        for start in range(0, len(ordered) + size, size):  # one more round without new clips yields the last batch
            following = [
                (position, self.executor.submit(self.readers.read, rows[position]))
                for position in ordered[start : start + size]
            ]
            if pending:
                yield [(position, future.result()) for position, future in pending]
            pending = following

    def _to_read(self, row: ClipRow) -> ClipRow:
        """Return the row without tracks that the data set does not have."""
        return replace(row, tracks={name: path for name, path in row.tracks.items() if name in self.info.tracks})

    def _encode_audio(
        self, rows: Sequence[ClipRow], clips: dict[int, ClipAudio]
    ) -> dict[int, dict[str, np.ndarray] | Exception]:
        """Return targets by position and track, or the error of a clip that also fails on its own."""
        waiting = [clips] if self.encoders.targets.is_batched and clips else [{place: clips[place]} for place in clips]
        results: dict[int, dict[str, np.ndarray] | Exception] = {}
        while waiting:
            batch = waiting.pop(0)
            try:
                results |= self._encode_batch(rows, batch)
            except (RuntimeError, ValueError) as error:  # also out of memory
                if len(batch) > 1:  # clips one by one before rejecting any
                    waiting = [{place: batch[place]} for place in batch]
                else:
                    results |= dict.fromkeys(batch, error)
        return results

    def _encode_batch(self, rows: Sequence[ClipRow], clips: dict[int, ClipAudio]) -> dict[int, dict[str, np.ndarray]]:
        results: dict[int, dict[str, np.ndarray]] = {position: {} for position in clips}
        for track in self.info.tracks:
            members = [position for position, clip in clips.items() if track in clip.tracks]
            if not members:
                continue
            ids = [rows[position].id for position in members]
            targets = self.encoders.targets.encode(ids, [clips[position].tracks[track] for position in members])
            for position, values in zip(members, targets, strict=True):
                results[position][track] = values
        return results

    def _count(
        self,
        statistics: ChunkStatistics,
        row: ClipRow,
        text: EncodedText,
        clip: ClipAudio,
        targets: dict[str, np.ndarray],
    ) -> None:
        statistics.add_length(clip.duration, next(iter(targets.values())).shape[1])
        statistics.add_caption(text.caption)
        count(statistics.languages, text.language)
        statistics.instrumentals += not text.lyrics
        statistics.lyric_pieces += len(text.lyrics_ids)
        unknown = self.encoders.texts.unknown_lyrics_id
        statistics.unknown_lyric_pieces += sum(token == unknown for token in text.lyrics_ids)
        for fact in text.facts_left_out:
            count(statistics.facts_left_out, fact)
        for name in text.truncated:
            count(statistics.truncated, name)
        for track, energy in clip.energies.items():
            statistics.energies.setdefault(track, EnergyStatistics()).add(energy, self.options.voice_min_energy)
            if differs(row.energies.get(track), energy):
                count(statistics.differing_statements, f"{track}_energy")
        if differs(row.duration, clip.duration):
            count(statistics.differing_statements, "duration")
        for track in clip.clipped_tracks:
            count(statistics.clipped, track)
        for track, signal in clip.signals.items():
            for flaw in flaws(signal):
                count(statistics.flaws, f"{flaw} of {track}")
        statistics.cropped += clip.cropped_seconds > 0
        statistics.trimmed += clip.trimmed_seconds > COUNTED_TRIM_SECONDS

    def _arrow_row(
        self, row: ClipRow, text: EncodedText, clip: ClipAudio, targets: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        num_frames = {values.shape[1] for values in targets.values()}
        assert len(num_frames) == 1, "tracks of one length have one number of frames"
        content: dict[str, Any] = {
            ID_COLUMN: row.id,
            CAPTION_COLUMN: text.caption,
            LYRICS_COLUMN: text.lyrics,
            LANGUAGE_COLUMN: text.language,
            CAPTION_IDS_COLUMN: text.caption_ids,
            LYRICS_IDS_COLUMN: text.lyrics_ids,
            DURATION_COLUMN: clip.duration,
            NUM_FRAMES_COLUMN: num_frames.pop(),
            VOICE_COLUMN: clip.voice if clip.voice is not None else [],
            VARIANT_IDS_COLUMN: [token for ids in text.variant_ids for token in ids],
            VARIANT_LENGTHS_COLUMN: [len(ids) for ids in text.variant_ids],
            **text.kept,
        }
        for track in self.info.tracks:
            column = target_column(track, self.info.target_kind)
            content[column] = targets[track].reshape(-1) if track in targets else []
            content[energy_column(track)] = clip.energies.get(track)
        return content
