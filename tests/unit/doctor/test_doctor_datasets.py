"""Data sets, finished and half-written, whole and damaged."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preprocess_fakes
import pyarrow as pa
import pytest
from diagnoses import at, findings
from limits import SAFETY_SECONDS

from songgen.data.reject_codes import REJECT_CODES
from songgen.data.schema import DatasetInfo
from songgen.data.shards import map_batches
from songgen.doctor import Kind, Level, examine
from songgen.doctor.hashes import accept
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.runtime.files import file_sha256
from songgen.tokenize.run import TooManyBadRows

Copy = Callable[[str], Path]


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of the first shard, and record its new hash and that of dataset.json."""
    info = DatasetInfo.read(folder)
    path = folder / info.splits["train"][0].file
    batches = map_batches(path)
    rows = [row for batch in batches for row in batch.to_pylist()]
    change(rows)
    schema = batches[0].schema
    del batches
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    content = json.loads((folder / "dataset.json").read_text())
    content["splits"]["train"][0]["sha256"] = file_sha256(path)
    (folder / "dataset.json").write_text(json.dumps(content))
    accept(folder)


def test_a_finished_data_set_is_explained(originals: Path) -> None:
    diagnosis = examine(originals / "songs", deep=True)
    assert diagnosis.kind is Kind.DATASET and diagnosis.is_fine
    (split,) = at(originals / "songs", "train")
    assert split.what.startswith("7 clips, 0.00 h, 2 shards") and "every byte" in split.what
    assert "fake-codec" in at(originals / "songs", "codec")[0].what
    assert at(originals / "songs", "lyrics tokenizer")[0].what == "fake-lyrics"
    left_out = [finding.what for finding in at(originals / "songs", "rows left out")]
    assert left_out == [f"1 x {code}: {REJECT_CODES[code].meaning}" for code in ("file_missing", "missing_caption")]


@pytest.mark.parametrize("damage", ["cut", "flip", "swap", "remove", "state"])
def test_a_damaged_shard_is_named(copy_of: Copy, damage: str) -> None:
    songs = copy_of("songs")
    first, second = (songs / shard.file for shard in DatasetInfo.read(songs).splits["train"])
    name = first.relative_to(songs).as_posix()
    if damage == "cut":
        os.truncate(first, first.stat().st_size * 6 // 10)
    elif damage == "flip":
        data = bytearray(first.read_bytes())
        data[-100] ^= 1
        first.write_bytes(data)
    elif damage == "swap":
        (one, other) = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)
    elif damage == "remove":
        first.unlink()
    else:
        name = "train/state.json"
        (songs / name).unlink()
    errors = findings(songs, Level.ERROR)
    assert name in [finding.where for finding in errors]
    assert "songgen tokenize" in errors[0].way_out


def test_codes_that_the_codec_does_not_have_are_found(copy_of: Copy) -> None:
    songs = copy_of("songs")

    def change(rows: list[dict[str, Any]]) -> None:
        rows[0]["codes_mix"][3] = 64
        rows[0]["codes_vocal"][0] = -1

    rewrite(songs, change)
    errors = findings(songs, Level.ERROR)
    assert "codes of track 'mix' are outside of the codebooks (0 to 64, the codebooks have 64)" in errors[1].what


def test_repeated_ids_are_counted(copy_of: Copy) -> None:
    songs = copy_of("songs")

    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["id"] = rows[0]["id"]

    rewrite(songs, change)
    (finding,) = at(songs, "ids", deep=True)
    assert finding.level is Level.WARNING and finding.what.startswith("1 clips have the id of another")


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 99}'])
def test_a_damaged_description_is_an_error(copy_of: Copy, text: str) -> None:
    songs = copy_of("songs")
    (songs / "dataset.json").write_text(text)
    (finding,) = (finding for finding in findings(songs) if finding.where != HASHES_FILE)
    assert finding.level is Level.ERROR and finding.where == "dataset.json"


def test_a_report_that_is_gone_is_a_warning(copy_of: Copy) -> None:
    songs = copy_of("songs")
    (songs / "report.json").unlink()
    assert {finding.level for finding in at(songs, "report.json")} == {Level.WARNING}


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The name of a data set whose preprocessing was killed in its second chunk."""
    manifest = preprocess_fakes.write_corpus(tmp_path / "corpus", 20)
    command = [sys.executable, str(Path(preprocess_fakes.__file__)), str(manifest), str(tmp_path / "half"), "12"]
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, timeout=SAFETY_SECONDS
    )
    assert result.returncode == -9, result.stderr
    return tmp_path / "half"


def test_half_written_data_is_told_by_either_name(interrupted: Path) -> None:
    for folder in (interrupted, interrupted.with_name("half.work")):
        diagnosis = examine(folder)
        assert diagnosis.kind is Kind.WORK and not diagnosis.is_fine
        (progress,) = at(folder, "progress")
        assert progress.what == "half-written: 1 of 3 chunks, 8 of 20 rows" and "again" in progress.way_out
        assert at(folder, "codec_fingerprint")[0].what == "fake-codec"


def test_preprocessing_that_goes_on_is_no_error(interrupted: Path) -> None:
    lock = interrupted.with_name("half.work") / "lock.json"
    lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    diagnosis = examine(interrupted)
    assert diagnosis.is_fine
    assert f"process {os.getpid()}" in at(interrupted, "activity")[0].what


def test_a_newer_version_under_work_leaves_the_finished_one_fine(interrupted: Path, copy_of: Copy) -> None:
    songs = copy_of("songs")
    interrupted.with_name("half.work").rename(songs.with_name("songs.work"))
    diagnosis = examine(songs)
    assert diagnosis.kind is Kind.DATASET and diagnosis.is_fine
    assert at(songs, "progress")[0].level is Level.WARNING


def test_too_many_damaged_rows_are_named_as_the_reason(tmp_path: Path) -> None:
    manifest = preprocess_fakes.write_corpus(tmp_path / "corpus", 4)
    rows = preprocess_fakes.read_manifest(manifest)
    for row in rows[:3]:
        row["audio_file_name"] = "absent.wav"
    preprocess_fakes.write_manifest(manifest, rows)
    with pytest.raises(TooManyBadRows):
        preprocess_fakes.run(preprocess_fakes.options_for(manifest, tmp_path / "bad"))
    (finding,) = at(tmp_path / "bad", "rows")
    assert finding.level is Level.ERROR and "max_bad_fraction" in finding.way_out
    assert at(tmp_path / "bad", "rows left out")[0].what.startswith("3 x file_missing")


def test_a_kill_between_two_renames_is_recognized(copy_of: Copy) -> None:
    songs = copy_of("songs")
    songs.rename(songs.with_name(".songs.replaced"))
    diagnosis = examine(songs)
    assert not diagnosis.is_fine and ".songs.replaced" in diagnosis.findings[0].where
