"""Files of the demo: their names, and reading and writing of manifests and audio."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

SPLITS = {"train": "metadata.jsonl", "eval": "metadata_eval.jsonl"}
"""Manifest of each split of the demo songs."""
ORIGINAL_COLUMNS = {"mix": "audio_file_name", "vocal": "vocal_file_name", "acc": "acc_file_name"}
"""Column of the manifests that names each track's wav file."""
SONGS_FILE = "songs.jsonl"
CODES_FILE = "codes.safetensors"


@dataclass(frozen=True)
class GeneratedSong:
    """A generated song, as a row of ``songs.jsonl``."""

    fname: str
    """Name of the demo song with the caption and lyrics."""
    split: str
    """``train`` or ``eval``."""
    greedy: bool
    """Whether the song was generated greedily instead of by sampling."""
    num_frames: int
    files: dict[str, str]
    """Track -> wav file, relative to the folder; always includes ``mix``."""
    tracks: tuple[str, ...]
    """Tracks in the order of the codes."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a ``.jsonl`` file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a ``.jsonl`` file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_songs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the demo songs by split."""
    return {split: read_rows(folder / name) for split, name in SPLITS.items()}


def read_generated(folder: Path) -> list[GeneratedSong]:
    """Return the songs of a folder that ``generate_songs.py`` wrote."""
    return [GeneratedSong(**{**row, "tracks": tuple(row["tracks"])}) for row in read_rows(folder / SONGS_FILE)]


def write_generated(folder: Path, songs: Sequence[GeneratedSong]) -> None:
    """Write the list of a folder's songs."""
    write_rows(folder / SONGS_FILE, (asdict(song) for song in songs))


def read_sound(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return the samples of a file in [-1, 1], as the mean of its channels, and the sample rate in Hz."""
    samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), sample_rate


def write_sound(path: Path, samples: NDArray[np.float32], sample_rate: int) -> None:
    """Write samples as a 16-bit wav file, clipped to full scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(samples, -1.0, 1.0), sample_rate, subtype="PCM_16")
