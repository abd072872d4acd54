"""The one clip of a trial: the beginning of a clip of the configuration's data sets, or of a song made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songgen.config import RunConfig
from songgen.data.dataset import SongDataset, SongRow
from songgen.data.schema import (
    CAPTION_COLUMN,
    CAPTION_IDS_COLUMN,
    DATASET_FILE,
    DURATION_COLUMN,
    EVAL_SPLIT,
    ID_COLUMN,
    LANGUAGE_COLUMN,
    LYRICS_COLUMN,
    LYRICS_IDS_COLUMN,
    NUM_FRAMES_COLUMN,
    TRAIN_SPLIT,
    VARIANT_IDS_COLUMN,
    VARIANT_LENGTHS_COLUMN,
    VOICE_COLUMN,
    DatasetInfo,
    ShardInfo,
    arrow_schema,
    energy_column,
    target_column,
)
from songgen.data.writer import ShardWriter
from songgen.families.songs import train_split
from songgen.tokenize import tokenize_data
from songgen.tokenize.options import options_of

MIN_SECONDS = 1.0
"""Length below which a clip is only used if there is no longer one."""

EMPTY_LYRICS_LENGTH = 2
"""Number of lyrics ids of an instrumental: start and stop."""

SONG_RATE, SONG_SECONDS = 24000, 3.0
SONG_NOTES = (261.6, 329.6, 392.0, 523.3, 392.0, 329.6)
"""Pitches of the melody of the song that is made here, in Hz."""


def write_clip(config: RunConfig, work: Path, seconds: float) -> tuple[Path, str]:
    """Write a data set of one clip, which is both the training and the evaluation split.

    Args:
        config: configuration to be tried; without an existing data set, a short song is made and tokenized.
        work: folder to write to.
        seconds: longest length of the clip; longer ones are cut to their beginning.

    Returns:
        Folder of the data set, and a description of the clip.

    Raises:
        ValueError: if the data sets cannot be read, or the song cannot be tokenized with the model.
    """
    folders = config.data.dataset_folders()
    if any((Path(folder) / DATASET_FILE).is_file() for folder in folders):
        source, split = "", train_split(config.data)
    else:
        source, split, folders = "a song made for this, since there is no data set yet: ", TRAIN_SPLIT, []
        folders.append(str(_tokenized_song(config, work)))
    songs = SongDataset.concatenate([SongDataset.open(folder, split) for folder in folders])
    row = songs.row(_best_clip(songs))
    frames = min(row.num_frames, max(1, int(seconds * songs.info.frame_rate)))
    length = frames / songs.info.frame_rate
    _write(work / "clip", _values(row, frames, length, songs.info), songs.info)
    return work / "clip", f"{source}{row.id}, {length:.1f} of {row.duration:.1f} s"


def _best_clip(songs: SongDataset) -> int:
    """Return the shortest clip with all tracks, lyrics, and a length that is worth while, as far as there is one."""
    lacks_tracks = ~np.all([songs.has_track(track) for track in songs.info.tracks], axis=0)
    order = np.lexsort(
        (
            songs.durations,
            songs.durations < MIN_SECONDS,
            songs.lyrics_lengths() <= EMPTY_LYRICS_LENGTH,
            lacks_tracks,
        )
    )
    return int(order[0])


def _values(row: SongRow, frames: int, seconds: float, info: DatasetInfo) -> dict[str, Any]:
    """Return the columns of a clip that is cut to its first frames."""
    values: dict[str, Any] = {
        ID_COLUMN: row.id,
        CAPTION_COLUMN: row.caption,
        LYRICS_COLUMN: row.lyrics,
        LANGUAGE_COLUMN: row.language,
        CAPTION_IDS_COLUMN: row.caption_ids,
        LYRICS_IDS_COLUMN: row.lyrics_ids,
        DURATION_COLUMN: seconds,
        NUM_FRAMES_COLUMN: frames,
        VOICE_COLUMN: row.voice_samples[: round(seconds * info.voice_sample_rate)],
        VARIANT_IDS_COLUMN: [token for ids in row.caption_variants for token in ids.tolist()],
        VARIANT_LENGTHS_COLUMN: [len(ids) for ids in row.caption_variants],
    }
    for track in info.tracks:
        targets = row.targets.get(track)
        values[target_column(track, info.target_kind)] = [] if targets is None else targets[:, :frames].reshape(-1)
        values[energy_column(track)] = row.energies[track]
    return values


def _write(folder: Path, values: dict[str, Any], info: DatasetInfo) -> None:
    splits: dict[str, tuple[ShardInfo, ...]] = {}
    for split in (TRAIN_SPLIT, EVAL_SPLIT):
        path = folder / split / "data-00000.arrow"
        path.parent.mkdir(parents=True)
        with ShardWriter(path, arrow_schema(info.tracks, info.target_kind)) as writer:
            writer.add(0, values)
            splits[split] = (ShardInfo(f"{split}/{path.name}", 1, writer.finish()),)
    described = replace(info, splits=splits, kept_columns=())
    (folder / DATASET_FILE).write_text(described.to_json(), encoding="utf-8")


def _tokenized_song(config: RunConfig, work: Path) -> Path:
    """Make a short song and tokenize it with the codec and tokenizers of the model."""
    import soundfile

    folder = work / "song"
    folder.mkdir()
    vocal, accompaniment = _song()
    for name, samples in (("mix", vocal + accompaniment), ("vocal", vocal), ("acc", accompaniment)):
        soundfile.write(folder / f"{name}.wav", samples, SONG_RATE)
    row = {
        "id": "song",
        "caption": "a slow melody over soft chords, calm",
        "lyrics": "[verse]\nla la la, sing it again",
        "language": "en",
        **{f"{track}_file_name": f"{track}.wav" for track in ("mix", "vocal", "acc")},
    }
    manifest = folder / "metadata.jsonl"
    manifest.write_text(json.dumps(row) + "\n", encoding="utf-8")
    values = {
        "preprocessing_only": True,
        "train_dataset_name": str(manifest),
        "target_audio_column_name": "mix",
        "ref_audio_column_name": ["vocal", "acc"],
        "save_to_disk": str(work / "song_tokens"),
    }
    kept = ("model_name_or_path", "model_revision", "audio_codec", "lyrics_tokenizer", "voice_encoder")
    given = {name: value for name, value in config.to_dict().items() if name in (*kept, "description_tokenizer_name")}
    tokenize_data(options_of(RunConfig.from_dict(given | values)))
    return work / "song_tokens"


def _song() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a sung melody and its accompaniment, as tones."""
    notes = _tones(SONG_NOTES, harmonics=4, vibrato=0.01)
    chords = sum(_tones([pitch * ratio / 2 for pitch in SONG_NOTES[::3]], harmonics=2) for ratio in (1, 1.25, 1.5))
    return (0.25 * notes).astype(np.float32), (0.08 * np.asarray(chords)).astype(np.float32)


def _tones(pitches: Sequence[float], *, harmonics: int, vibrato: float = 0.0) -> NDArray[np.float64]:
    """Return tones of equal length, one after the other, that fill the song."""
    times = np.arange(round(SONG_SECONDS * SONG_RATE)) / SONG_RATE
    place = np.minimum((times / SONG_SECONDS * len(pitches)).astype(int), len(pitches) - 1)
    swaying = np.asarray(pitches)[place] * (1 + vibrato * np.sin(2 * np.pi * 5 * times))
    phase = 2 * np.pi * np.cumsum(swaying) / SONG_RATE
    fade = 1 - (times / SONG_SECONDS * len(pitches)) % 1
    return np.asarray(fade * sum(np.sin(number * phase) / number for number in range(1, harmonics + 1)))
