"""Manifests to a data set: resumed, by several processes, moved, damaged, invalidated."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from preprocess_fakes import (
    RATE,
    FakeCodec,
    FakeLyricsTokenizer,
    launch,
    options_for,
    read_manifest,
    run,
    shard_hashes,
    tone,
    write_corpus,
    write_manifest,
)

from songgen.data.dataset import SongDataset
from songgen.data.manifests.sources import ManifestSpec
from songgen.data.schema import DatasetInfo
from songgen.runtime import reported_work
from songgen.runtime.status import TOKENIZE_STATUS_FILE, Progress, RunStatus, StatusFile, read_run_status
from songgen.tokenize import TooManyBadRows
from songgen.tokenize.chunks import ChunkEncoder
from songgen.tokenize.options import TokenizeOptions
from songgen.tokenize.workspace import CHUNK_FOLDER, WORK_LOCK_FILE

NUM_CLIPS = 21


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), NUM_CLIPS)


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one uninterrupted process writes."""
    folder = tmp_path_factory.mktemp("reference") / "songs"
    run(options_for(corpus, folder))
    return folder


@pytest.fixture
def own_corpus(corpus: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    return tmp_path / "corpus" / corpus.name


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def rejected(folder: Path) -> list[dict[str, Any]]:
    return read_manifest(folder / "rejected.jsonl")


def test_rows_are_complete_and_in_the_order_of_the_manifest(reference: Path) -> None:
    songs = SongDataset.open(reference, "train")
    assert [songs.row(index).id for index in range(len(songs))] == [f"clip{index:03d}" for index in range(NUM_CLIPS)]
    row = songs.row(4)
    assert row.lyrics == "la la 4" and row.language == "en" and list(row.lyrics_ids[:3]) == [261, ord("l"), ord("a")]
    assert set(row.targets) == {"mix", "vocal", "acc"} and row.targets["mix"].shape == (2, row.num_frames)
    assert row.num_frames == round(row.duration * 100)
    assert len(row.voice_samples) == round(row.duration * 12000)
    expected = np.sqrt(np.mean(tone(row.duration, level=0.1, seed=104).astype(np.float64) ** 2)) * 32768
    assert row.energies["vocal"] == pytest.approx(expected, rel=1e-3)


def test_further_descriptions_of_the_manifest_reach_the_rows(own_corpus: Path, tmp_path: Path) -> None:
    from datasets import load_from_disk

    rows = read_manifest(own_corpus)[:3]
    rows[1]["variants"] = {"simplified": "pop", "expanded": "", "descriptive": "warm pop song"}
    write_manifest(own_corpus, rows)
    options = options_for(own_corpus, tmp_path / "songs")
    run(replace(options, manifests=replace(options.manifests, kept_columns=("variants",))))
    songs = SongDataset.open(tmp_path / "songs", "train")
    assert [len(songs.row(index).caption_variants) for index in range(3)] == [0, 2, 0]
    assert [ids.tolist() for ids in songs.row(1).caption_variants] == [[3, 1], [4, 3, 4, 1]]
    assert load_from_disk(str(tmp_path / "songs"))["train"][1]["caption_variant_lengths"] == [2, 4]


def test_datasets_opens_the_folder(reference: Path) -> None:
    from datasets import load_from_disk

    songs = load_from_disk(str(reference))
    assert list(songs) == ["train"] and len(songs["train"]) == NUM_CLIPS
    assert songs["train"][3]["id"] == "clip003"


def test_no_trace_of_the_work_stays(reference: Path) -> None:
    assert [path.name for path in reference.parent.iterdir()] == [reference.name]


def test_report_counts(reference: Path) -> None:
    content = report_of(reference)["splits"]["train"]
    assert content["rows"] == content["rows_in_manifests"] == NUM_CLIPS and content["rejected"] == {}
    assert sum(content["length_histogram_seconds"].values()) == NUM_CLIPS
    songs = SongDataset.open(reference, "train")
    assert content["hours"] * 3600 == pytest.approx(sum(songs.row(index).duration for index in range(NUM_CLIPS)))
    assert content["energies"]["vocal"]["clips"] == NUM_CLIPS
    assert content["unknown_lyric_pieces"] == 0 and content["measured_differently_than_stated"] == {}


def test_two_processes_write_the_same_rows(corpus: Path, reference: Path, tmp_path: Path) -> None:
    result = launch(corpus, tmp_path / "songs", processes=2)
    assert result.returncode == 0, result.stderr
    assert shard_hashes(tmp_path / "songs") == shard_hashes(reference)
    assert sorted(report_of(tmp_path / "songs")["rows_by_process"]) == ["0", "1"]


def test_unfinished_work_of_other_settings_is_not_taken_over(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "songs"
    assert launch(corpus, output, kill_at=13).returncode == -9
    run(options_for(corpus, output, max_seconds=0.6))
    songs = SongDataset.open(output, "train")
    assert 0 < len(songs) < NUM_CLIPS and max(songs.row(index).duration for index in range(len(songs))) <= 0.6


def test_status_and_progress_are_told_until_the_data_set_stands(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run ends of a signal in the third chunk; the second one counts what is done, but not for its pace."""
    monkeypatch.setattr(reported_work, "WRITE_SECONDS", 0.0)
    options = options_for(corpus, tmp_path / "songs")
    told: list[RunStatus | None] = []
    encode = ChunkEncoder.encode

    def encode_two(*arguments: Any) -> None:
        told.append(read_run_status(options.work_folder, TOKENIZE_STATUS_FILE))
        if len(told) == 3:
            raise SystemExit(128 + signal.SIGTERM)
        encode(*arguments)

    monkeypatch.setattr(ChunkEncoder, "encode", encode_two)
    with pytest.raises(SystemExit):
        run(options)
    stopped = read_run_status(options.work_folder, TOKENIZE_STATUS_FILE)
    assert [entry and entry.status for entry in [*told, stopped]] == ["running"] * 3 + ["stopped"]
    progress = [entry.progress for entry in [*told, stopped] if entry is not None and entry.progress is not None]
    counts = [entry.done for entry in progress]
    assert counts == sorted(counts) and counts[0] == 0 < counts[1] < counts[2] == counts[3] < NUM_CLIPS
    assert {(entry.phase, entry.total, entry.unit) for entry in progress} == {("encoding", NUM_CLIPS, "clips")}
    assert progress[0].seconds_left is None and progress[2].seconds_left
    again = run_and_watch(options, monkeypatch)
    assert [entry.done for entry in again if entry.seconds_left is None][-1] == counts[2]
    assert again[-1].done == NUM_CLIPS and again[-1].seconds_left == 0.0
    assert not options.work_folder.exists()


def run_and_watch(options: TokenizeOptions, monkeypatch: pytest.MonkeyPatch) -> list[Progress]:
    """Run to the end; returns the progress of every state that was written."""
    seen: list[Progress] = []
    put = StatusFile.put

    def noted(file: StatusFile, told: RunStatus, **keywords: Any) -> None:
        put(file, told, **keywords)
        if told.progress is not None and told.progress.phase == "encoding" and told.progress.done:
            seen.append(told.progress)

    monkeypatch.undo()
    monkeypatch.setattr(reported_work, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(StatusFile, "put", noted)
    run(options)
    return seen


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (1, signal.SIGHUP), (2, signal.SIGTERM)])
def test_a_preempted_run_leaves_no_lock_and_goes_on(
    corpus: Path, reference: Path, tmp_path: Path, processes: int, number: int
) -> None:
    output, work = tmp_path / "songs", options_for(corpus, tmp_path / "songs").work_folder
    stopped = launch(corpus, output, processes, kill_at=13, number=number)
    assert stopped.returncode == (128 + number if processes == 1 else 1), stopped.stderr  # torchrun has its own code
    assert f"stopped by {signal.Signals(number).name}; completed work is kept" in stopped.stderr
    assert not output.exists() and not (work / WORK_LOCK_FILE).exists() and any((work / CHUNK_FOLDER).glob("*.arrow"))
    codec = FakeCodec()
    run(options_for(corpus, output), codec)
    assert 0 < codec.num_clips < 3 * NUM_CLIPS and shard_hashes(output) == shard_hashes(reference)


def test_audio_inside_of_a_saved_data_set_is_reused(corpus: Path, tmp_path: Path) -> None:
    """Such audio is written to the work folder, which is gone after each run."""
    from datasets import Dataset

    rows = []
    for row in read_manifest(corpus)[:3]:
        content = (corpus.parent / row["audio_file_name"]).read_bytes()
        rows.append({"id": row["fname"], "caption": "c", "lyrics": "l", "audio": {"bytes": content, "path": "a.wav"}})
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    for expected in (3, 0):
        codec = FakeCodec()
        run(options_for(tmp_path / "saved", tmp_path / "songs"), codec)
        assert codec.num_clips == expected
    assert len(SongDataset.open(tmp_path / "songs", "train")) == 3


def test_finished_work_is_reused_and_nothing_is_touched(corpus: Path, tmp_path: Path) -> None:
    run(options_for(corpus, tmp_path / "songs"))
    inode = (tmp_path / "songs").stat().st_ino
    codec = FakeCodec()
    run(options_for(corpus, tmp_path / "songs"), codec)
    assert codec.num_clips == 0 and (tmp_path / "songs").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


def test_a_changed_file_encodes_its_chunk_again(own_corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "songs"
    run(options_for(own_corpus, output))
    before = [SongDataset.open(output, "train").row(index).targets["mix"].copy() for index in range(NUM_CLIPS)]
    length = len(soundfile.read(own_corpus.parent / "mix010.wav")[0])
    soundfile.write(own_corpus.parent / "mix010.wav", tone(length / RATE, level=0.8, seed=7), RATE)
    codec = FakeCodec()
    run(options_for(own_corpus, output), codec)
    assert codec.num_clips == 8 * 3
    songs = SongDataset.open(output, "train")
    now = [songs.row(index).targets["mix"] for index in range(NUM_CLIPS)]
    changed = [index for index in range(NUM_CLIPS) if not np.array_equal(now[index], before[index])]
    assert changed == [10]


def test_appended_rows_leave_earlier_chunks(own_corpus: Path, tmp_path: Path) -> None:
    rows = read_manifest(own_corpus)
    write_manifest(own_corpus, rows[:16])
    run(options_for(own_corpus, tmp_path / "songs"))
    write_manifest(own_corpus, rows)
    codec = FakeCodec()
    run(options_for(own_corpus, tmp_path / "songs"), codec)
    assert codec.num_clips == (NUM_CLIPS - 16) * 3
    assert len(SongDataset.open(tmp_path / "songs", "train")) == NUM_CLIPS


def test_a_changed_setting_or_code_encodes_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "songs"
    run(options_for(corpus, output))
    codec = FakeCodec()
    run(options_for(corpus, output, max_seconds=0.6), codec)
    assert 0 < codec.num_clips < NUM_CLIPS * 3
    content = report_of(output)["splits"]["train"]
    assert content["rows"] + content["rejected"]["too_long"] == NUM_CLIPS and content["damaged_rows"] == 0
    monkeypatch.setattr("songgen.tokenize.settings.code_fingerprint", lambda patterns: "edited")
    codec = FakeCodec()
    run(options_for(corpus, output, max_seconds=0.6), codec)
    assert codec.num_clips > 0


def test_another_codec_is_refused(corpus: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "songs")
    before = shard_hashes(tmp_path / "songs")
    with pytest.raises(ValueError, match="codec_fingerprint fake-codec there, other now.*name another save_to_disk"):
        run(options_for(corpus, tmp_path / "songs"), FakeCodec("other"))
    assert shard_hashes(tmp_path / "songs") == before


def test_another_codec_is_refused_for_unfinished_work(corpus: Path, tmp_path: Path) -> None:
    assert launch(corpus, tmp_path / "songs", kill_at=13).returncode == -9
    with pytest.raises(ValueError, match=r"songs\.work was written with other tokens"):
        run(options_for(corpus, tmp_path / "songs"), FakeCodec("other"))


def test_a_folder_of_other_things_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds something that is not a data set"):
        run(options_for(corpus, tmp_path / "songs"))
    assert (tmp_path / "songs" / "thesis.txt").is_file()


def test_the_folder_can_be_moved(corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    shutil.copytree(corpus.parent, source)
    run(options_for(source / corpus.name, tmp_path / "songs"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "songs").rename(tmp_path / "elsewhere" / "moved")
    shutil.rmtree(source)
    songs = SongDataset.open(tmp_path / "elsewhere" / "moved", "train")
    assert len(songs) == NUM_CLIPS and len(songs.row(0).voice_samples)
    assert str(tmp_path) not in (tmp_path / "elsewhere" / "moved" / "dataset.json").read_text()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "state"])
def test_a_damaged_shard_is_written_again(corpus: Path, reference: Path, tmp_path: Path, damage: str) -> None:
    output = tmp_path / "songs"
    shutil.copytree(reference, output)
    shard = output / DatasetInfo.read(output).splits["train"][1].file
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(content[:1000])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    else:
        (shard if damage == "missing" else output / "train" / "state.json").unlink()
    codec = FakeCodec()
    run(options_for(corpus, output), codec)
    assert codec.num_clips == (0 if damage == "state" else 8 * 3)
    assert shard_hashes(output) == shard_hashes(reference)
    assert (output / "train" / "state.json").is_file()


def test_bad_rows_are_listed_and_do_not_stop_it(own_corpus: Path, tmp_path: Path) -> None:
    folder = own_corpus.parent
    (folder / "mix007.wav").write_text("this is no audio")
    rows = read_manifest(own_corpus)
    rows[9]["caption"] = "x" * 501
    rows[12]["lyrics"] = None
    rows[13]["lyrics"] = "nul \0"
    del rows[14]["vocal_file_name"]
    write_manifest(own_corpus, rows)
    run(options_for(own_corpus, tmp_path / "songs"))
    listed = {row["id"]: row for row in rejected(tmp_path / "songs")}
    assert {row_id: row["code"] for row_id, row in listed.items()} == {
        "clip007": "unreadable_audio",
        "clip009": "caption_too_long",
        "clip013": "bad_text",
    }
    assert listed["clip007"]["line"] == 8 and listed["clip007"]["path"] == "mix007.wav"
    songs = SongDataset.open(tmp_path / "songs", "train")
    by_id = {songs.row(index).id: songs.row(index) for index in range(len(songs))}
    assert len(by_id) == NUM_CLIPS - 3
    assert by_id["clip012"].lyrics == "" and list(by_id["clip012"].lyrics_ids) == [261, 0]
    assert "vocal" not in by_id["clip014"].targets and not len(by_id["clip014"].voice_samples)


def test_too_many_bad_rows_write_no_data_set(own_corpus: Path, tmp_path: Path) -> None:
    for index in range(3):
        (own_corpus.parent / f"mix{index:03d}.wav").unlink()
    options = options_for(own_corpus, tmp_path / "songs")
    with pytest.raises(TooManyBadRows, match=r"3 of 21 rows are damaged \(file_missing\).*\.work/rejected\.jsonl;"):
        run(options)
    assert not options.output_folder.exists()
    assert len(rejected(options.work_folder)) == 3
    codec = FakeCodec()
    run(replace(options, max_bad_fraction=0.2), codec)
    assert codec.num_clips == 0 and len(SongDataset.open(options.output_folder, "train")) == NUM_CLIPS - 3


def test_too_many_unknown_languages_are_refused_before_anything_is_encoded(
    own_corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = read_manifest(own_corpus)
    for index, language in enumerate(("sv", "sv", "yue")):
        rows[index]["language"] = language
    write_manifest(own_corpus, rows)
    options, codec = options_for(own_corpus, tmp_path / "songs"), FakeCodec()
    with pytest.raises(TooManyBadRows, match=r"3 of 21 rows are in languages.*: sv 2, yue 1; max_bad_fraction is 0.1"):
        run(options, codec)
    assert codec.num_clips == 0 and not options.output_folder.exists()
    everything_swedish = [{**row, "language": "swedish"} for row in rows]
    write_manifest(own_corpus, everything_swedish)
    with pytest.raises(TooManyBadRows, match="no row of split 'train' is left"):
        run(replace(options, max_bad_fraction=1.0), codec)
    write_manifest(own_corpus, rows)
    run(replace(options, max_bad_fraction=0.2), codec)
    assert "sv 2, yue 1; they are left out" in caplog.text
    assert {row["code"] for row in rejected(options.output_folder)} == {"unknown_language"}


def test_instrumentals_of_a_language_that_the_vocabulary_lacks_stay(
    own_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(self: FakeLyricsTokenizer, text: str, language: str) -> list[int]:
        if text and language != "en":
            raise ValueError(f"this lyrics vocabulary has no [{language}]")
        return [261, 0]

    monkeypatch.setattr(FakeLyricsTokenizer, "encode_lyrics", encode)
    rows = read_manifest(own_corpus)
    write_manifest(own_corpus, [{**row, "lyrics": "", "language": "de"} for row in rows])
    options = options_for(own_corpus, tmp_path / "songs")
    run(options)
    assert len(SongDataset.open(options.output_folder, "train")) == NUM_CLIPS


def test_a_clip_that_the_codec_cannot_take_is_left_out(corpus: Path, tmp_path: Path) -> None:
    class Choosy(FakeCodec):
        def encode(self, waveforms: Any, lengths: Any) -> Any:
            if (lengths > 0.75 * RATE).any():
                raise RuntimeError("out of memory")
            return super().encode(waveforms, lengths)

    run(options_for(corpus, tmp_path / "songs", max_bad_fraction=0.5), Choosy())
    assert {row["code"] for row in rejected(tmp_path / "songs")} == {"encoding_failed"}
    songs = SongDataset.open(tmp_path / "songs", "train")
    assert 0 < len(songs) < NUM_CLIPS and max(songs.row(index).duration for index in range(len(songs))) <= 0.75


def test_a_broken_codec_stops_the_run(corpus: Path, tmp_path: Path) -> None:
    class Broken(FakeCodec):
        def encode(self, waveforms: Any, lengths: Any) -> Any:
            raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match="the codec fails on every clip"):
        run(options_for(corpus, tmp_path / "songs"), Broken())
    assert not (tmp_path / "songs").exists()


def test_train_and_eval_splits(corpus: Path, tmp_path: Path) -> None:
    """The published example evaluates on the training file: both splits may hold the same rows."""
    specs = {"train": (ManifestSpec(str(corpus)),), "eval": (ManifestSpec(str(corpus)),)}
    info = run(options_for(corpus, tmp_path / "songs", splits=specs, max_rows={"eval": 5}))
    assert info.num_rows("train") == NUM_CLIPS and info.num_rows("eval") == 5
    assert SongDataset.open(tmp_path / "songs", "eval").row(4).id == "clip004"
    run(options_for(corpus, tmp_path / "songs", splits={"train": specs["train"], "eval": specs["train"]}))
    for split in ("train", "eval"):
        assert len(SongDataset.open(tmp_path / "songs", split)) == NUM_CLIPS


def test_a_problem_ends_all_processes(own_corpus: Path, tmp_path: Path) -> None:
    with own_corpus.open("a") as file:
        file.write("{broken\n")
    result = launch(own_corpus, tmp_path / "songs", processes=2)
    assert result.returncode != 0 and result.stderr.count("metadata.jsonl:22: not a line of JSON") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def test_a_second_run_at_the_same_time_is_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("songgen.runtime.folder_lock.has_local_locks", lambda folder: False)  # as on a network disk
    options = options_for(corpus, tmp_path / "songs")
    options.work_folder.mkdir()
    (options.work_folder / "lock.json").write_text(json.dumps({"host": "another-machine", "pid": 7}))
    with pytest.raises(ValueError, match="process 7 on another-machine"):
        run(options)


def test_without_voice_no_samples_are_stored(corpus: Path, tmp_path: Path) -> None:
    info = run(options_for(corpus, tmp_path / "songs", store_voice=False, max_rows={"train": 2}))
    assert info.voice_sample_rate == 0
    assert not len(SongDataset.open(tmp_path / "songs", "train").row(0).voice_samples)
