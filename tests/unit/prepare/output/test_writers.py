import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import load_from_disk
from prepare_songs import RATE, tone, write_song
from prepare_steps import make_record

from songgen.config import load_run_config
from songgen.data.audio import AudioOptions
from songgen.data.clip_audio import read_clip
from songgen.data.manifests.findings import ManifestFindings
from songgen.data.manifests.manifest import read_clip_rows
from songgen.data.manifests.raw_rows import ColumnNames
from songgen.data.manifests.row_reader import ManifestOptions
from songgen.data.manifests.sources import ManifestSpec
from songgen.prepare.engine.audio_files import read_audio, write_audio
from songgen.prepare.engine.record import Refusal, SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.output import encoded_files
from songgen.prepare.output.options import ExportOptions, WriteOptions
from songgen.prepare.output.writers import (
    FORMAT_VERSION,
    DatasetWriter,
    PreparedInfo,
    ace_row,
    rejected_row,
)
from songgen.runtime.files import file_sha256
from songgen.tokenize import options_of

TAGS = "melodic techno, male vocal, electronic, emotional, minor key, 124 bpm, synthesizer, driving, atmospheric"


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    """A work folder with the clips a (two tracks of our own) and b (a file of the user's)."""
    folder = WorkFolder(tmp_path / "songs.work")
    (folder.root / "audio").mkdir(parents=True)
    for seed, track in enumerate(("mix", "vocal")):
        write_audio(folder.root / "audio" / f"a.{track}.wav", tone(2.0, seed=seed), RATE)
    write_song(tmp_path / "user", "b.mp3", seconds=3.0)
    return folder


@pytest.fixture
def records(tmp_path: Path, work: WorkFolder) -> list[SongRecord]:
    first = make_record(
        "a",
        song="album",
        start=4.0,
        duration=2.0,
        audio={"mix": "audio/a.mix.wav", "vocal": "audio/a.vocal.wav"},
        caption=TAGS,
        tags=tuple(TAGS.split(", ")),
        lyrics="[Verse]\nla la\n\n[Chorus]\nna",
        lyrics_source="given",
        language="en",
        variants={"simplified": "techno"},
        tempo=124.0,
        key="A minor",
        energies={"mix": 1066.88, "vocal": 895.92},
        measures={"loudness": -16.12346, "transcript_confidence": 0.75},
        provenance={"tag": {"version": 1, "parameters": {}}},
    )
    user = str((tmp_path / "user" / "b.mp3").resolve())
    second = make_record("b", duration=3.0, audio={"mix": user}, caption="rock | loud", split="eval", lyrics="né|e")
    refusal = Refusal("filter", "low_energy", "the mix is too quiet", 12.5, 200.0)
    third = make_record("c", duration=1.0, start=9.0, refusal=refusal)
    return [first, second, third]


def writer_in(folder: Path, work: WorkFolder, **options: Any) -> DatasetWriter:
    exports = ExportOptions(tuple(options.pop("formats", ())), options.pop("repeat_count", 1))
    return DatasetWriter(folder / "songs", "./songs", work, WriteOptions(**options), exports)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_have_the_published_keys_and_relative_paths(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord]
) -> None:
    info = writer_in(tmp_path, work).write(records, "1")
    (row,) = rows_of(tmp_path / "songs" / "metadata.jsonl")
    published = {
        "fname": "a",
        "caption": TAGS,
        "lyrics": "[Verse]\nla la\n\n[Chorus]\nna",
        "audio_file_name": "audio/a.mix.wav",
        "vocal_file_name": "audio/a.vocal.wav",
        "vocal_energy": 895.92,
        "audio_energy": 1066.88,
        "language": "en",
        "duration": 2.0,
    }
    assert {key: row[key] for key in published} == published
    for track in ("audio", "vocal"):
        assert row[f"{track}_sha256"] == file_sha256(tmp_path / "songs" / row[f"{track}_file_name"])
    assert (row["song"], row["start"], row["tempo"], row["key"]) == ("album", 4.0, 124.0, "A minor")
    assert row["tags"] == TAGS.split(", ") and row["variants"] == {"simplified": "techno"}
    assert row["provenance"] == {"tag": {"version": 1, "parameters": {}}}
    assert row["measures"] == {"loudness": -16.1235, "transcript_confidence": 0.75}
    assert [row["fname"] for row in rows_of(tmp_path / "songs" / "metadata_eval.jsonl")] == ["b"]
    assert info.clips == {"train": 1, "eval": 1} and info.seconds == {"train": 2.0, "eval": 3.0}


def test_refused_records_are_listed_with_reason_value_and_limit(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord]
) -> None:
    info = writer_in(tmp_path, work).write(records, "1")
    assert rows_of(tmp_path / "songs" / "rejected.jsonl") == [rejected_row(records[2])]
    row = rejected_row(records[2])
    assert (row["id"], row["step"], row["code"], row["value"], row["limit"]) == (
        "c",
        "filter",
        "low_energy",
        12.5,
        200.0,
    )
    assert info.refused == {"low_energy": 1}


def test_the_folder_can_be_moved_and_read(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    writer_in(tmp_path, work).write(records, "1")
    shutil.move(tmp_path / "songs", tmp_path / "elsewhere")
    shutil.rmtree(work.root)
    columns = ColumnNames(target="audio_abspath", references=("vocal_abspath", "acc_abspath"))
    for name, seconds in (("metadata.jsonl", 2.0), ("metadata_eval.jsonl", 3.0)):
        spec = ManifestSpec(str(tmp_path / "elsewhere" / name))
        (row,) = read_clip_rows([spec], ManifestOptions(columns), ManifestFindings())
        clip = read_clip(row, AudioOptions(16000))
        assert clip.duration == pytest.approx(seconds, abs=0.05)  # type: ignore[union-attr]


def test_audio_of_ours_is_taken_as_it_is_and_the_users_is_converted(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord]
) -> None:
    writer_in(tmp_path, work).write(records, "1")
    ours = tmp_path / "songs" / "audio" / "a.mix.wav"
    assert ours.samefile(work.root / "audio" / "a.mix.wav")
    info = soundfile.info(str(tmp_path / "songs" / "audio" / "b.mix.wav"))
    assert (info.subtype, info.channels, info.samplerate) == ("PCM_16", 1, RATE)


def test_a_correction_of_a_text_leaves_the_encoded_files_as_they_are(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def counted(path: Path, *arguments: Any) -> int:
        encoded.append(path.name)
        return write_audio(path, *arguments)

    monkeypatch.setattr(encoded_files, "write_audio", counted)
    writer, audio = writer_in(tmp_path, work, audio_format="flac"), tmp_path / "songs" / "audio"
    writer.write(records, "1")
    assert len(encoded) == 3
    before = {path.name: path.stat().st_mtime_ns for path in audio.iterdir()}
    corrected = [replace(records[0], caption="another"), *records[1:]]
    writer.write(corrected, "2")
    assert len(encoded) == 3 and {path.name: path.stat().st_mtime_ns for path in audio.iterdir()} == before
    write_audio(work.root / "audio" / "a.mix.wav", tone(2.0, seed=9), RATE)
    writer.write(corrected, "3")
    assert len(encoded) == 4 and read_audio(audio / "a.mix.flac")[0] == pytest.approx(tone(2.0, seed=9), abs=1e-4)
    assert len(list((work.root / "encoded").iterdir())) == 3  # what is no longer needed is gone
    writer_in(tmp_path, work).write(records, "4")  # back to WAV: only the user's MP3 is encoded
    assert len(encoded) == 5 and [path.suffix for path in (work.root / "encoded").iterdir()] == [".wav"]


def test_a_data_set_of_another_version_is_none(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    writer_in(tmp_path, work).write(records, "1")
    assert PreparedInfo.read(tmp_path / "songs") is not None
    file = tmp_path / "songs" / "prepared.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": FORMAT_VERSION + 1}))
    assert PreparedInfo.read(tmp_path / "songs") is None


def test_flac_holds_the_same_samples(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    writer_in(tmp_path, work, audio_format="flac").write(records, "1")
    written, _ = read_audio(tmp_path / "songs" / "audio" / "a.mix.flac")
    original, _ = read_audio(work.root / "audio" / "a.mix.wav")
    assert np.array_equal(written, original)


def test_the_data_file_is_ready_for_preprocessing(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    long = replace(records[0], lyrics="la " * 300)
    writer_in(tmp_path, work).write([long, *records[1:]], "1")
    config = load_run_config([str(tmp_path / "songs" / "data.json")], description="")
    options = options_of(config)
    assert {split: [spec.name for spec in specs] for split, specs in options.splits.items()} == {
        "train": ["./songs/metadata.jsonl"],
        "eval": ["./songs/metadata_eval.jsonl"],
    }
    assert options.tracks == ("mix", "vocal", "acc") and options.max_text_length == 900
    assert options.min_seconds <= 2.0 and options.max_seconds >= 3.0
    assert options.output_folder.name == "songs_tokens" and options.kept_columns == ()


def test_singers_are_columns_that_tokenizing_keeps(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    writer_in(tmp_path, work).write([records[0], replace(records[1], singer="Ann")], "1")
    found = [rows_of(tmp_path / "songs" / name)[0].get("singer") for name in ("metadata.jsonl", "metadata_eval.jsonl")]
    assert found == [None, "Ann"]
    options = options_of(load_run_config([str(tmp_path / "songs" / "data.json")], description=""))
    assert options.kept_columns == ("singer",)


def test_the_data_file_names_no_split_and_no_track_that_is_not_there(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord]
) -> None:
    writer_in(tmp_path, work).write([replace(records[1], split="train")], "1")
    config = json.loads((tmp_path / "songs" / "data.json").read_text())
    assert "eval_dataset_name" not in config and "ref_audio_column_name" not in config
    assert not (tmp_path / "songs" / "metadata_eval.jsonl").exists()


def test_a_data_set_replaces_the_one_before_as_a_whole(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord]
) -> None:
    writer = writer_in(tmp_path, work)
    writer.write(records, "1")
    info = writer.write(records[:1], "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["songs", "songs.work", "user"]
    assert [path.name for path in sorted((tmp_path / "songs" / "audio").iterdir())] == ["a.mix.wav", "a.vocal.wav"]
    assert info.without_caption == 0
    assert PreparedInfo.read(tmp_path / "songs") == info and info.is_complete(tmp_path / "songs")


def test_clips_without_caption_are_counted(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    assert writer_in(tmp_path, work).write([replace(records[0], caption=""), *records[1:]], "1").without_caption == 1


def test_nothing_is_half_written_after_an_error(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    writer = writer_in(tmp_path, work)
    writer.write(records[:1], "1")

    def fail(folder: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        writer.write(records, "2", fail)
    info = PreparedInfo.read(tmp_path / "songs")
    assert info is not None and info.fingerprint == "1" and info.is_complete(tmp_path / "songs")


def test_a_missing_file_is_noticed(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    info = writer_in(tmp_path, work).write(records, "1")
    for name in ("metadata.jsonl", "audio/a.mix.wav"):
        assert info.is_complete(tmp_path / "songs")
        path = tmp_path / "songs" / name
        path.rename(tmp_path / "aside")
        assert not info.is_complete(tmp_path / "songs")
        (tmp_path / "aside").rename(path)


def test_the_fingerprint_follows_records_and_options(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord]
) -> None:
    writer = writer_in(tmp_path, work)
    prints = [
        writer.fingerprint(records),
        writer.fingerprint(records[:2]),
        writer.fingerprint([replace(records[0], caption="x"), *records[1:]]),
        writer.fingerprint(records, ["more"]),
        writer_in(tmp_path, work, audio_format="flac").fingerprint(records),
        writer_in(tmp_path, work, formats=["ace"]).fingerprint(records),
    ]
    assert len(set(prints)) == 6 and writer.fingerprint(records) == prints[0]


def test_the_worked_sample_of_the_ace_step_guide() -> None:
    row = {
        "fname": "test_track_001",
        "audio_file_name": "data/test_track_001.mp3",
        "tags": [],
        "caption": TAGS,
        "lyrics": "[Verse]\nThe lights go down",
    }
    assert ace_row(row) == {
        "keys": "test_track_001",
        "filename": "data/test_track_001.mp3",
        "tags": [
            "melodic techno",
            "male vocal",
            "electronic",
            "emotional",
            "minor key",
            "124 bpm",
            "synthesizer",
            "driving",
            "atmospheric",
        ],
        "speaker_emb_path": "",
        "norm_lyrics": "[Verse]\nThe lights go down",
        "recaption": {},
    }


def test_a_data_set_for_ace_step_repeats_rows_and_is_read_again(
    tmp_path: Path, work: WorkFolder, records: list[SongRecord]
) -> None:
    both = [records[0], replace(records[1], split="train")]
    writer_in(tmp_path, work, formats=["ace"], repeat_count=3).write(both, "1")
    folder = tmp_path / "songs" / "ace_dataset"
    dataset = load_from_disk(str(folder))
    assert list(dataset.features) == ["keys", "filename", "tags", "speaker_emb_path", "norm_lyrics", "recaption"]
    assert dataset["keys"][:] == ["a", "b"] * 3 and dataset[0]["tags"] == TAGS.split(", ")
    assert dataset[0]["recaption"] == {} and dataset[0]["speaker_emb_path"] == ""
    findings = ManifestFindings()
    rows = list(read_clip_rows([ManifestSpec(str(folder))], ManifestOptions(ColumnNames()), findings))
    assert [row.id for row in rows] == ["a", "b"] and findings.repeated_rows == 4
    assert all(row.tracks["mix"].resolved for row in rows)


def test_lists_in_the_ljspeech_form_are_read_again(tmp_path: Path, work: WorkFolder, records: list[SongRecord]) -> None:
    writer_in(tmp_path, work, formats=["ljspeech"]).write(records, "1")
    folder = tmp_path / "songs"
    assert (folder / "train.txt").read_text() == "audio/a.vocal.wav|la la na\n"
    assert (folder / "validation.txt").read_text() == "audio/b.mix.wav|né e\n"
    options = ManifestOptions(ColumnNames(), is_raw=True)
    (row,) = read_clip_rows([ManifestSpec(str(folder / "train.txt"))], options, ManifestFindings())
    assert row.lyrics == "la la na" and row.tracks["mix"].resolved
