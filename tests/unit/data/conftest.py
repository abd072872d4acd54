"""Writes small tokenized data sets for tests: plain rows in, a folder with dataset.json and Arrow shards out."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from songgen.data.schema import DATASET_FILE, TRAIN_SPLIT, DatasetInfo, ShardInfo, arrow_schema

NUM_CODEBOOKS = 4
VOICE_RATE = 100


def _make_rows(
    count: int, *, prefix: str = "song", seed: int = 0, min_frames: int = 3, max_frames: int = 12
) -> list[dict[str, Any]]:
    """Rows with random codes; every clip has all tracks, a voice and energies over 200."""
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        frames = int(generator.integers(min_frames, max_frames + 1))
        row: dict[str, Any] = {
            "id": f"{prefix}{index}",
            "caption": f"caption {index}",
            "lyrics": f"lyrics {index}",
            "language": "en",
            "caption_ids": [*generator.integers(2, 90, size=2 + index % 3).tolist(), 1],
            "lyrics_ids": [261, *generator.integers(2, 90, size=1 + index % 4).tolist(), 0],
            "duration": frames / 50,
            "num_frames": frames,
            "voice_samples": generator.integers(-3000, 3000, size=200 + 40 * index).tolist(),
        }
        for track in ("mix", "vocal", "acc"):
            row[f"codes_{track}"] = generator.integers(0, 64, size=NUM_CODEBOOKS * frames).tolist()
            row[f"energy_{track}"] = 1000.0 + index
        rows.append(row)
    return rows


def _write_dataset(
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    shard_sizes: tuple[int, ...] | None = None,
    batch_rows: int = 1000,
    **info: Any,
) -> Path:
    """Write the rows as shards of the split "train"; `info` replaces fields of `DatasetInfo`."""
    (folder / TRAIN_SPLIT).mkdir(parents=True)
    schema, shards, start = arrow_schema(), [], 0
    for number, size in enumerate(shard_sizes or (len(rows),)):
        path = folder / TRAIN_SPLIT / f"data-{number:05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            table = pa.Table.from_pylist(rows[start : start + size], schema=schema)
            writer.write_table(table, max_chunksize=batch_rows)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shards.append(ShardInfo(f"{TRAIN_SPLIT}/{path.name}", size, digest))
        start += size
    values: dict[str, Any] = {
        "codec_spec": {"type": "spectral", "path": "codec"},
        "codec_fingerprint": "codec",
        "sample_rate": 16000,
        "hop_length": 320,
        "num_codebooks": NUM_CODEBOOKS,
        "codebook_size": 64,
        "lyrics_tokenizer_fingerprint": "lyrics",
        "caption_tokenizer_fingerprint": "caption",
        "voice_sample_rate": VOICE_RATE,
        "splits": {TRAIN_SPLIT: tuple(shards)},
    }
    (folder / DATASET_FILE).write_text(DatasetInfo(**(values | info)).to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    return _make_rows


@pytest.fixture
def write_dataset() -> Callable[..., Path]:
    return _write_dataset
