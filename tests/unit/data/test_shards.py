"""Shards that somebody else has written: their hash is right, their content lies."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from songgen.data.dataset import SongDataset
from songgen.data.integrity import require_intact_data
from songgen.data.schema import DATASET_FILE, DatasetInfo
from songgen.data.shards import map_batches, shard_problem

LIST_COLUMNS = ("codes_mix", "codes_vocal", "voice_samples", "caption_ids", "lyrics_ids", "caption_variant_ids")


@pytest.fixture
def data(tmp_path: Path, make_rows: Callable[..., list[dict[str, Any]]], write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path / "data", make_rows(6))


def shard_of(folder: Path) -> Path:
    return folder / DatasetInfo.read(folder).splits["train"][0].file


def accept(folder: Path) -> None:
    """Record the hash of the shard as it is now, as its author would."""
    info = DatasetInfo.read(folder)
    (shard,) = info.splits["train"]
    digest = hashlib.sha256((folder / shard.file).read_bytes()).hexdigest()
    (folder / DATASET_FILE).write_text(replace(info, splits={"train": (replace(shard, sha256=digest),)}).to_json())


def patch_offsets(folder: Path, column: str, change: Callable[[Any], None]) -> None:
    """Change the offsets of a column in place."""
    path = shard_of(folder)
    with pa.OSFile(str(path)) as source:
        (batch,) = list(pa.ipc.open_stream(source))
    array = batch.column(column)
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32, count=len(array) + 1).copy()
    content, before = path.read_bytes(), offsets.tobytes()
    change(offsets)
    assert before in content
    path.write_bytes(content.replace(before, offsets.tobytes()))
    accept(folder)


def write_table(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = shard_of(folder)
    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
    table = change(table)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    accept(folder)


def verify(folder: Path, output: Path) -> None:
    output.mkdir(exist_ok=True)
    require_intact_data([str(folder)], ["train"], output, rank=0, world_size=1)


def far(offsets: Any) -> None:
    offsets[-1] = 50_000_000


def backwards(offsets: Any) -> None:
    offsets[1] = offsets[-1] + 10_000_000


def negative(offsets: Any) -> None:
    offsets[0] = -40_000


@pytest.mark.parametrize("column", [*LIST_COLUMNS, "caption", "id"])
@pytest.mark.parametrize("lie", [far, backwards, negative])
def test_offsets_that_lie_are_refused_before_anything_is_read(
    data: Path, column: str, lie: Callable[[Any], None]
) -> None:
    """Also where hashes are not verified: reading such a row would take memory of other data, or crash."""
    patch_offsets(data, column, lie)
    with pytest.raises(ValueError, match="cut short or damaged"):
        SongDataset.open(data, "train")


@pytest.mark.parametrize("value", [-1, 64, 32767])
def test_codes_outside_of_the_codebooks_are_refused_when_a_shard_is_first_verified(
    data: Path, tmp_path: Path, value: int
) -> None:
    def change(table: pa.Table) -> pa.Table:
        codes = table["codes_mix"].to_pylist()
        codes[2][5] = value
        place = table.schema.get_field_index("codes_mix")
        return table.set_column(place, "codes_mix", pa.array(codes, table.schema.field(place).type))

    write_table(data, change)
    with pytest.raises(ValueError, match="codes of track 'mix' are outside of the codebooks"):
        verify(data, tmp_path / "out")


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("num_frames", None, "do not fit their number of frames"),
        ("duration", float("nan"), "duration is missing or negative"),
        ("duration", -1.0, "duration is missing or negative"),
        ("lyrics_ids", [-5], "lyrics_ids hold negative ids"),
        ("caption_variant_lengths", [100_000], "caption_variant_lengths do not fit"),
        ("caption_ids", [None], "columns have missing values: caption_ids"),
    ],
)
def test_other_values_that_training_cannot_use_are_refused(
    data: Path, tmp_path: Path, column: str, value: Any, problem: str
) -> None:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[1] = value
        place = table.schema.get_field_index(column)
        return table.set_column(place, column, pa.array(values, table.schema.field(place).type))

    write_table(data, change)
    with pytest.raises(ValueError, match=problem):
        verify(data, tmp_path / "out")


def test_texts_that_are_not_utf8_are_refused_when_a_shard_is_first_verified(data: Path, tmp_path: Path) -> None:
    path = shard_of(data)
    caption = map_batches(path)[0].column("caption")[0].as_py().encode()
    path.write_bytes(path.read_bytes().replace(caption, b"\xff" * len(caption)))
    accept(data)
    with pytest.raises(ValueError, match="cut short or damaged"):
        verify(data, tmp_path / "out")


def test_a_verified_shard_is_not_read_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify(data, tmp_path / "out")
    monkeypatch.setattr("songgen.data.integrity.shard_problem", lambda *_, **__: pytest.fail("read again"))
    verify(data, tmp_path / "out")


FUZZ = """
import random, sys, json
from pathlib import Path
from songgen.data.schema import DatasetInfo
from songgen.data.shards import shard_problem
folder = Path(sys.argv[1])
info = DatasetInfo.read(folder)
(shard,) = info.splits["train"]
path, rng = folder / shard.file, random.Random(0)
original = path.read_bytes()
import songgen.data.shards as shards
shards.content_problem = lambda path, sha256: ""  # the author of a file also writes its hash
found = 0
for _ in range(int(sys.argv[2])):
    content = bytearray(original)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(content) - 8)
        content[place : place + 4] = rng.choice((b"\\xff\\xff\\xff\\x7f", b"\\x00\\x00\\x00\\x80", rng.randbytes(4)))
    path.write_bytes(bytes(content))
    found += bool(shard_problem(folder, shard, info, verify_hash=True))
print(json.dumps(found))
"""


def test_no_content_crashes_the_process(data: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FUZZ, str(data), "400"], capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout) > 50


def test_an_intact_shard_has_no_problem(data: Path) -> None:
    info = DatasetInfo.read(data)
    assert shard_problem(data, info.splits["train"][0], info, verify_hash=True) == ""
