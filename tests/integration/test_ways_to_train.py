"""Ways to train: an order of phases, from the manifest to the clips of each step, and resumed in every phase."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from forked import fork_run, record_clips, recorded_clips, saved_files, stop_at
from launching import make_world, records, write_config
from preprocess_fakes import options_for, read_manifest, run, write_corpus, write_manifest
from training_fakes import make_rows, write_dataset

from songgen.config import RunConfig
from songgen.data.batch_plan import BatchPlan
from songgen.data.dataset import SongDataset
from songgen.exit_codes import EXIT_ERROR
from songgen.families.objective import other_clips
from songgen.families.songs import groups_of
from songgen.tasks import MIXED
from songgen.tokenize.options import options_of
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.launch import run_training

NUM_SONGS = 9
CURRICULUM = [{"by": "duration", "epochs": 1}, {"by": "random", "epochs": 1}, {"by": "balanced", "column": "singer"}]
SETTINGS: dict[str, Any] = {
    "order": CURRICULUM,
    "num_train_epochs": 4,
    "dropout": 0.2,
    "voice_choices": {"vocal": 1, "none": 1},
    "save_steps": 100,
    "do_eval": False,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a data set that kept the singers: six songs of one, and one of each of three others."""
    folder = make_world(tmp_path_factory.mktemp("world"), 1)
    write_dataset(folder / "songs", folder / "model", NUM_SONGS, 2, kept_columns=("singer",))
    return folder


def settings_of(world: Path, output: Path, **changes: Any) -> Path:
    places = {"save_to_disk": str(world / "songs"), "output_dir": str(output)}
    return write_config(world, **(SETTINGS | places | changes))


def final_files(folder: Path, processes: int = 1) -> dict[str, Any]:
    """The files of a run's last checkpoint."""
    found = CheckpointManager(folder, save_total_limit=None, rank=0, world_size=processes).latest()
    assert found is not None
    return saved_files(found)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_stopped_in_any_phase_continues_exactly(world: Path, tmp_path: Path, processes: int) -> None:
    straight, clips = tmp_path / "straight", tmp_path / "clips"
    fork_run(settings_of(world, straight), tmp_path / "log", processes=processes, hook=record_clips(clips)).finish()
    steps = recorded_clips(clips)
    by_epoch: dict[int, list[str]] = {}
    for entry in steps:
        by_epoch.setdefault(entry["epoch"], []).extend(entry["clips"])
    singers = {row["id"]: row["singer"] for row in make_rows(NUM_SONGS)}
    for epoch in (0, 1):
        assert sorted(by_epoch[epoch]) == sorted(singers)
    visits = Counter(singers[name] for epoch in (2, 3) for name in by_epoch[epoch])
    assert max(visits.values()) - min(visits.values()) <= 1 and visits.total() == 2 * NUM_SONGS

    stopped = tmp_path / "stopped"
    config = settings_of(world, stopped)
    per_epoch = -(-NUM_SONGS // (2 * processes))
    stops = (2, per_epoch + 1, 2 * per_epoch + 1, 3 * per_epoch + 1) if processes == 1 else (2, 3 * per_epoch - 1)
    for step in stops:
        fork_run(config, tmp_path / "log", processes=processes, hook=stop_at(step)).finish()
    printed = fork_run(config, tmp_path / "log", processes=processes).finish()
    assert final_files(stopped, processes) == final_files(straight, processes)
    assert "the clips come balanced by singer from here on" in printed


def test_a_column_that_does_not_exist_is_answered_with_those_that_do(world: Path, tmp_path: Path, capfd: Any) -> None:
    AcceleratorState._reset_state(True)
    config = settings_of(world, tmp_path / "run", order=[{"by": "balanced", "column": "choir"}])
    assert run_training([str(config)], MIXED) == EXIT_ERROR
    printed = capfd.readouterr().err
    assert "no column 'choir'" in printed and "it has language, singer" in printed and "keep_columns" in printed


def test_a_column_goes_from_the_manifest_into_the_order(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus", 8)
    rows = read_manifest(manifest)
    singers = ["Ann", "Ann", ["Ben", "Cleo"], "Ann", "Ann", 7, None, "Ann\ud800"]
    write_manifest(manifest, [row | {"singer": singer} for row, singer in zip(rows, singers, strict=True)])
    config = RunConfig.from_dict(
        {
            "preprocessing_only": True,
            "model_name_or_path": "none",
            "train_dataset_name": str(manifest),
            "save_to_disk": str(tmp_path / "data"),
            "keep_columns": ["singer"],
        }
    )
    options = options_of(config)
    manifests = options_for(manifest, tmp_path / "data").manifests
    run(
        options_for(
            manifest,
            tmp_path / "data",
            kept_columns=options.kept_columns,
            manifests=type(manifests)(manifests.columns, kept_columns=options.manifests.kept_columns),
        )
    )
    songs = SongDataset.open(tmp_path / "data", "train")
    assert songs.text_columns == ("language", "singer")
    assert songs.texts("singer").tolist() == ["Ann", "Ann", "Ben, Cleo", "Ann", "Ann", "7", "", "Ann"]
    order = [{"by": "balanced", "column": "singer"}]
    plan = BatchPlan(songs.num_frames, batch_size=1, order=order, groups=groups_of(songs, order))
    visited = np.concatenate(plan.batches(0)) % len(songs)
    assert Counter(songs.texts("singer")[visited].tolist()) == {"Ann": 2, "Ben, Cleo": 2, "7": 2, "": 2}


def test_a_kept_column_cannot_hide_one_of_the_data_set() -> None:
    values = {"preprocessing_only": True, "model_name_or_path": "m", "train_dataset_name": "a", "save_to_disk": "d"}
    with pytest.raises(ValueError, match="keep_columns: caption cannot be kept"):
        options_of(RunConfig.from_dict({**values, "keep_columns": ["caption", "singer"]}))


def test_evaluation_alone_with_random_texts_writes_songs_of_them(tmp_path: Path, capfd: Any) -> None:
    AcceleratorState._reset_state(True)
    world = make_world(tmp_path / "world", 1, 4)
    settings = {"do_train": False, "predict_with_generate": True, "num_generated_samples": 3, "max_length": 15}
    run_of = {"output_dir": str(tmp_path / "run"), "eval_random_texts": True}
    assert run_training([str(write_config(world, **settings, **run_of))], MIXED) == 0
    [metrics] = records(tmp_path / "run")
    assert metrics["eval/generated_seconds"] > 0 and metrics["eval/loss"] > 0 and "eval/mel_distance" not in metrics
    names = sorted(path.name for path in (tmp_path / "run").rglob("*.wav"))
    assert len(names) == 3
    for name in names:
        caption, lyrics = name.removeprefix("caption_").removesuffix("_generated_mix.wav").split("_lyrics_")
        assert caption != lyrics and {caption, lyrics} < {f"held_out{number}" for number in range(4)}
    write_dataset(world / "one", world / "model", 1, 1)
    config = write_config(world, **settings, **run_of, save_to_disk=str(world / "one"))
    assert run_training([str(config), "--output_dir", str(tmp_path / "other")], MIXED) == EXIT_ERROR
    assert "there is one only" in capfd.readouterr().err


@pytest.mark.parametrize("count", [2, 3, 4, 9])
def test_random_texts_are_of_other_clips_and_the_same_every_time(count: int) -> None:
    found = {index: other_clips(7, index, count) for index in range(count)}
    assert found == {index: other_clips(7, index, count) for index in range(count)}
    for index, (caption, lyrics) in found.items():
        assert caption != lyrics and caption != index and {caption, lyrics} <= set(range(count))
        assert lyrics != index or count == 2
