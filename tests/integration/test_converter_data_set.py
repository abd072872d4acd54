"""A data set of ACE-Step's converter and the folder that it was made of, tokenized by the same words: one result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from tiny_flow import SAMPLE_RATE, write_tiny_pipeline

from songgen.data.dataset import SongDataset
from songgen.tokenize.launch import run_tokenization

TAGS = "melodic techno, male vocal, electronic, emotional, minor key, 124 bpm, synthesizer, driving, atmospheric"
LYRICS = "[Verse]\nThe lights go down\n\n[Chorus]\nWe dance"
SONGS = ("test_track_001", "test_track_002")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, two songs, and the converter's data set of them, with every row three times."""
    root = tmp_path_factory.mktemp("converter")
    write_tiny_pipeline(root / "pipeline")
    (root / "data").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for name in SONGS:
        soundfile.write(root / "data" / f"{name}.wav", rng.uniform(-0.3, 0.3, (4 * SAMPLE_RATE, 2)), 2 * SAMPLE_RATE)
        (root / "data" / f"{name}_prompt.txt").write_text(TAGS)
        (root / "data" / f"{name}_lyrics.txt").write_text(LYRICS)
        (root / "data" / f"{name}.pt").write_bytes(b"a pickle")
        rows.append(
            {
                "keys": name,
                "filename": f"data/{name}.wav",
                "tags": TAGS.split(", "),
                "speaker_emb_path": "",
                "norm_lyrics": LYRICS,
                "recaption": {},
            }
        )
    Dataset.from_list(rows * 3).save_to_disk(str(root / "zh_lora_dataset"))
    return root


def tokenized(world: Path, name: str) -> tuple[SongDataset, dict[str, Any]]:
    out = world / f"{name}_latents"
    words = ["--data_dir", str(world / name), "--repeat_count", "3", "--output_name", str(out)]
    assert run_tokenization(["--model_name_or_path", str(world / "pipeline"), *words]) == 0
    return SongDataset.open(out, "train"), json.loads((out / "report.json").read_text())


def test_repeated_rows_are_stored_once_as_the_songs_themselves(world: Path) -> None:
    converted, report = tokenized(world, "zh_lora_dataset")
    songs, of_folder = tokenized(world, "data")
    assert len(converted) == len(songs) == len(SONGS)
    for index, name in enumerate(SONGS):
        row, other = converted.row(index), songs.row(index)
        assert row.id == other.id == name
        assert np.array_equal(row.targets["mix"], other.targets["mix"])
        assert list(row.caption_ids) == list(other.caption_ids) and list(row.lyrics_ids) == list(other.lyrics_ids)
    assert report["repeated_rows_taken_once"] == 4 and of_folder["repeated_rows_taken_once"] == 0
    assert any("4 rows repeat others and are used once" in notice for notice in report["notices"])
    assert sum("never opened" in notice for notice in of_folder["notices"]) == 2
