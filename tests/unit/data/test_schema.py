import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from songgen.data.schema import CODES, DATASET_FILE, LATENTS, DatasetInfo, ShardInfo, arrow_schema
from songgen.data.writer import FLUSH_ROWS, ShardWriter
from songgen.runtime.files import file_sha256

INFO = DatasetInfo(
    codec_spec={"type": "spectral"},
    codec_fingerprint="c",
    sample_rate=16000,
    hop_length=320,
    num_codebooks=8,
    codebook_size=1024,
    lyrics_tokenizer_fingerprint="l",
    caption_tokenizer_fingerprint="t",
    voice_sample_rate=24000,
    splits={"train": (ShardInfo("train/a.arrow", 3, "0"), ShardInfo("train/b.arrow", 4, "1"))},
)


def test_columns_of_the_contract() -> None:
    schema = arrow_schema()
    assert schema.field("codes_mix").type == pa.list_(pa.int16())
    assert schema.field("lyrics_ids").type == pa.list_(pa.int32())
    assert schema.field("energy_vocal").type == pa.float32() and schema.field("energy_vocal").nullable
    assert schema.field("voice_samples").type == pa.list_(pa.int16())
    assert "codes_drum" in arrow_schema(("mix", "drum")).names


def test_latents_have_columns_of_their_own(tmp_path: Path) -> None:
    schema = arrow_schema(("mix",), LATENTS)
    assert schema.field("latents_mix").type == pa.list_(pa.float16()) and "codes_mix" not in schema.names
    info = replace(INFO, num_codebooks=0, codebook_size=0, target_kind=LATENTS, num_channels=64)
    (tmp_path / DATASET_FILE).write_text(info.to_json())
    assert DatasetInfo.read(tmp_path) == info and info.frame_size == 64


def test_a_description_without_a_kind_of_target_means_codes(tmp_path: Path) -> None:
    """As older programs wrote it; and codes are described as before, so that these read it."""
    (tmp_path / DATASET_FILE).write_text(INFO.to_json())
    assert not {"target_kind", "num_channels"} & json.loads(INFO.to_json()).keys()
    assert DatasetInfo.read(tmp_path).target_kind == CODES and INFO.frame_size == INFO.num_codebooks


def test_description_comes_back(tmp_path: Path) -> None:
    (tmp_path / DATASET_FILE).write_text(INFO.to_json())
    assert DatasetInfo.read(tmp_path) == INFO and INFO.num_rows("train") == 7 and INFO.frame_rate == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a tokenized data set"),
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        (
            json.dumps({"schema_version": 99}),
            "schema version 99.* reads up to 1: update songgen, or run `songgen tokenize`",
        ),
        (json.dumps({"schema_version": 1}), "missing keys"),
        (replace(INFO, target_kind="words").to_json(), "target_kind 'words', this program reads codes, latents"),
        (INFO.to_json().replace("codec_spec", "codec_sepc"), "missing keys .'codec_spec'."),
    ],
)
def test_damaged_description(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / DATASET_FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        DatasetInfo.read(tmp_path)


def test_shard_is_sorted_by_position(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int32()), ("values", pa.list_(pa.int16()))])
    order = [(n * 37) % 101 for n in range(101)]
    with ShardWriter(tmp_path / "s.arrow", schema) as writer:
        for position in order:
            writer.add(position, {"n": position, "values": [position] * (position % 3)})
        sha256 = writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["s.arrow"] and sha256 == file_sha256(tmp_path / "s.arrow")
    with pa.ipc.open_stream(str(tmp_path / "s.arrow")) as reader:
        batches = list(reader)
    table = pa.Table.from_batches(batches)
    assert table["n"].to_pylist() == list(range(101))
    assert table["values"].to_pylist()[5] == [5, 5] and max(batch.num_rows for batch in batches) == FLUSH_ROWS


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "s.arrow", pa.schema([("n", pa.int32())])) as writer:
        writer.add(0, {"n": 1})
        raise RuntimeError
    assert not list(tmp_path.iterdir())
