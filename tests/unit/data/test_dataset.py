"""Reading tokenized data sets: round trip, selection, agreement, damaged files, other processes."""

import dataclasses
import multiprocessing
import pickle

import numpy as np
import pyarrow as pa
import pytest
from limits import SAFETY_SECONDS

from songgen.data.dataset import RowFilter, SongDataset, check_against_model
from songgen.data.schema import OPTIONAL_COLUMNS, DatasetInfo, arrow_schema


def test_rows_come_back_as_written_and_without_a_copy(tmp_path, make_rows, write_dataset):
    rows = make_rows(7)
    write_dataset(tmp_path, rows, shard_sizes=(3, 4), batch_rows=2)
    dataset = SongDataset.open(tmp_path, "train")
    assert len(dataset) == 7
    for index, expected in enumerate(rows):
        row = dataset.row(index)
        assert (row.id, row.caption, row.lyrics) == (expected["id"], expected["caption"], expected["lyrics"])
        assert row.duration == expected["duration"] and row.num_frames == expected["num_frames"]
        for track in ("mix", "vocal", "acc"):
            np.testing.assert_array_equal(row.targets[track].flatten(), expected[f"codes_{track}"])
            assert row.targets[track].dtype == np.int16 and row.targets[track].shape == (4, row.num_frames)
            assert not row.targets[track].flags.owndata and not row.targets[track].flags.writeable
        np.testing.assert_array_equal(row.voice_samples, expected["voice_samples"])
        np.testing.assert_array_equal(row.lyrics_ids, expected["lyrics_ids"])
        assert row.energies["vocal"] == pytest.approx(expected["energy_vocal"])
    np.testing.assert_array_equal(dataset.num_frames, [row["num_frames"] for row in rows])
    with pytest.raises(IndexError):
        dataset.row(7)
    with pytest.raises(IndexError):
        dataset.row(-1)


def test_select_and_concatenate_keep_rows_apart(tmp_path, make_rows, write_dataset):
    write_dataset(tmp_path / "a", make_rows(5, prefix="a"))
    write_dataset(tmp_path / "b", make_rows(4, prefix="b"))
    first = SongDataset.open(tmp_path / "a", "train").select([4, 1])
    both = SongDataset.concatenate([first, SongDataset.open(tmp_path / "b", "train")])
    assert [both.row(index).id for index in range(len(both))] == ["a4", "a1", "b0", "b1", "b2", "b3"]
    assert [both.select([5, 0]).row(index).id for index in range(2)] == ["b3", "a4"]


def test_concatenate_lists_every_difference(tmp_path, make_rows, write_dataset):
    write_dataset(tmp_path / "a", make_rows(2))
    write_dataset(tmp_path / "b", make_rows(2), codec_fingerprint="other", lyrics_tokenizer_fingerprint="other")
    datasets = [SongDataset.open(tmp_path / name, "train") for name in "ab"]
    with pytest.raises(ValueError, match="codec_fingerprint(.|\n)*lyrics_tokenizer_fingerprint"):
        SongDataset.concatenate(datasets)


def test_filter_counts_each_clip_once_and_keeps_the_bounds(tmp_path, make_rows, write_dataset):
    rows = make_rows(6)
    for row, seconds in zip(rows, (1.0, 2.0, 5.0, 30.0, 31.0, 10.0), strict=True):
        row.update(duration=seconds)
    rows[0]["codes_acc"] = []
    rows[2]["codes_acc"] = []
    write_dataset(tmp_path, rows)
    dataset = SongDataset.open(tmp_path, "train")
    kept, rejected = dataset.filter(RowFilter(min_seconds=2.0, max_seconds=30.0, tracks=("acc",)))
    assert [kept.row(index).id for index in range(len(kept))] == [rows[index]["id"] for index in (1, 3, 5)]
    assert rejected == {"no acc track": 2, "longer than 30 s": 1}
    assert dataset.filter(RowFilter(min_seconds=2.0))[1] == {"shorter than 2 s": 1}
    everything, rejected = dataset.filter(RowFilter())
    assert len(everything) == 6 and rejected == {}


def test_check_against_model_lists_everything(tmp_path, make_rows, write_dataset):
    rows = make_rows(3)
    rows[1]["codes_vocal"] = []
    write_dataset(tmp_path, rows)
    dataset = SongDataset.open(tmp_path, "train")
    check_against_model(dataset, target_tracks=("mix",), num_codebooks=4, codec_fingerprint="codec")
    with pytest.raises(ValueError) as caught:
        check_against_model(
            dataset,
            target_tracks=("mix",),
            auxiliary_tracks=("vocal",),
            codec_fingerprint="another",
            caption_tokenizer_fingerprint="another",
        )
    for part in ("codec_fingerprint", "caption_tokenizer_fingerprint", "'vocal'", "1 of 3 clips"):
        assert part in str(caught.value)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def _end_after_one_batch(path):
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        batches, schema = list(reader), reader.schema
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batches[0])


@pytest.mark.parametrize(
    "damage", [_truncate, lambda path: path.unlink(), lambda path: path.write_bytes(b""), _end_after_one_batch]
)
def test_a_damaged_shard_is_named_before_anything_is_read(tmp_path, damage, make_rows, write_dataset):
    write_dataset(tmp_path, make_rows(40), shard_sizes=(20, 20), batch_rows=10)
    shard = DatasetInfo.read(tmp_path).splits["train"][1].file
    damage(tmp_path / shard)
    with pytest.raises(ValueError) as caught:
        SongDataset.open(tmp_path, "train")
    assert shard in str(caught.value) and "songgen tokenize" in str(caught.value)


def test_an_unknown_split_is_refused(tmp_path, make_rows, write_dataset):
    write_dataset(tmp_path, make_rows(6), shard_sizes=(3, 3))
    with pytest.raises(ValueError, match="has no split 'test'; it has: train"):
        SongDataset.open(tmp_path, "test")


def test_codes_that_do_not_fit_the_frames_are_refused(tmp_path, make_rows, write_dataset):
    rows = make_rows(3)
    rows[2]["codes_mix"] = rows[2]["codes_mix"][:-1]
    write_dataset(tmp_path, rows)
    with pytest.raises(ValueError, match="1 clips have codes of track 'mix'"):
        SongDataset.open(tmp_path, "train")


def _id_of(dataset, index, queue):
    queue.put(dataset.row(index).id)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same_rows(tmp_path, method, make_rows, write_dataset):
    write_dataset(tmp_path, make_rows(5))
    dataset = SongDataset.open(tmp_path, "train").select([3, 2])
    assert len(pickle.dumps(dataset)) < 3000 + sum(
        len(str(value)) for value in dataclasses.asdict(dataset.info).values()
    )
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_id_of, args=(dataset, 0, queue))
    process.start()
    assert queue.get(timeout=SAFETY_SECONDS) == dataset.row(0).id
    process.join(timeout=SAFETY_SECONDS)


def test_a_null_text_or_energy_is_empty_or_unknown(tmp_path, make_rows, write_dataset):
    rows = make_rows(1)
    rows[0].update(lyrics=None, energy_vocal=None, energy_mix=None)
    write_dataset(tmp_path, rows)
    row = SongDataset.open(tmp_path, "train").row(0)
    assert row.lyrics == "" and row.energies["vocal"] is None and row.energies["acc"] is not None
    assert pa.total_allocated_bytes() < 1 << 24


def test_a_data_set_without_columns_of_further_descriptions_opens(tmp_path, make_rows, write_dataset, monkeypatch):
    with monkeypatch.context() as older:
        old = pa.schema([field for field in arrow_schema() if field.name not in OPTIONAL_COLUMNS])
        older.setitem(write_dataset.__globals__, "arrow_schema", lambda: old)
        folder = write_dataset(tmp_path / "old", make_rows(2))
    songs = SongDataset.open(folder, "train")
    assert songs.row(1).caption_variants == ()
    assert songs.variant_lengths().tolist() == [0, 0]
    rows = make_rows(2, prefix="new")
    rows[0] |= {"caption_variant_ids": [3, 1, 4, 5, 1], "caption_variant_lengths": [2, 3]}
    both = SongDataset.concatenate([songs, SongDataset.open(write_dataset(tmp_path / "new", rows), "train")])
    assert [ids.tolist() for ids in both.row(2).caption_variants] == [[3, 1], [4, 5, 1]]
    assert both.variant_lengths().tolist() == [0, 0, 5, 0]
