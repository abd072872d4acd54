"""Data sets that grow while a run reads them: taken in at the end of an epoch, exactly on resume, refused otherwise."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Hook, before_each_step, fork_run, record_clips, recorded_clips, saved_files, signal_at
from launching import make_world, write_config
from preprocess_fakes import options_for, read_manifest, run, write_corpus, write_manifest
from training_fakes import make_rows, write_dataset

from songgen.data.curriculum.growth import KnownRows, RowHashes
from songgen.exit_codes import EXIT_ERROR
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import TrainerState, read_trainer_state

FEW, MANY = 5, 9
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 4,
    "reload_dataloaders_every_n_epochs": 1,
    "dropout": 0.2,
    "voice_choices": {"vocal": 1, "none": 1},
    "save_steps": 100,
    "do_eval": False,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a data set of few songs, and one with more behind them, in other shards."""
    folder = make_world(tmp_path_factory.mktemp("world"), 1)
    write_dataset(folder / "few", folder / "model", FEW, 2)
    write_dataset(folder / "many", folder / "model", MANY, 2, num_shards=2)
    return folder


def replace_data(data: Path, other: Path) -> None:
    """Put another data set in the place of one that is being read, as tokenizing does: by a rename."""
    new, old = data.with_name("new"), data.with_name("old")
    shutil.copytree(other, new)
    data.rename(old)
    new.rename(data)
    shutil.rmtree(old)


def growing(data: Path, other: Path, at_step: int, then: Callable[..., None] = lambda trainer: None) -> Hook:
    """A hook that lets the data set grow before a step of the main process."""

    def hook(rank: int) -> None:
        def grow(trainer: Any, batches: Any) -> None:
            if rank == 0 and trainer.state.step == at_step:
                replace_data(data, other)
            then(trainer)

        before_each_step(grow)

    return hook


class Runs:
    """Runs of one configuration, each with a data set of its own, which has few songs at first."""

    def __init__(self, world: Path, folder: Path) -> None:
        self.world, self.folder = world, folder

    def config(self, name: str, **changes: Any) -> Path:
        data = self.folder / name / "data"
        if not data.exists():
            shutil.copytree(self.world / "few", data)
        places = {"save_to_disk": str(data), "output_dir": str(self.folder / name / "run")}
        return write_config(self.world, **(SETTINGS | places | changes))

    def data(self, name: str) -> Path:
        return self.folder / name / "data"

    def state(self, name: str, processes: int = 1) -> tuple[TrainerState, dict[str, Any]]:
        """State and files of a run's last checkpoint."""
        folder = self.folder / name / "run"
        found = CheckpointManager(folder, save_total_limit=None, rank=0, world_size=processes).latest()
        assert found is not None
        return read_trainer_state(found), saved_files(found)


@pytest.fixture
def runs(world: Path, tmp_path: Path) -> Runs:
    return Runs(world, tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_new_clips_come_with_the_next_epoch_and_a_stopped_run_is_the_same(runs: Runs, processes: int) -> None:
    log, clips = runs.folder / "log", runs.folder / "clips"
    per_epoch = -(-FEW // (2 * processes))

    def fork(name: str, hook: Hook) -> str:
        config = runs.config(name)
        return fork_run(config, log, processes=processes, hook=hook).finish()

    grow = growing(runs.data("straight"), runs.world / "many", 1)
    printed = fork("straight", record_clips(clips, grow))
    assert f"epoch 2: {MANY} clips now, {FEW} before" in printed
    names = {row["id"] for row in make_rows(MANY)}
    by_epoch: dict[int, set[str]] = {}
    for entry in recorded_clips(clips):
        by_epoch.setdefault(entry["epoch"], set()).update(entry["clips"])
    assert len(by_epoch[0]) == FEW and all(by_epoch[epoch] == names for epoch in (1, 2, 3))
    state, files = runs.state("straight", processes)
    assert state.step == state.total_steps == per_epoch + 3 * -(-MANY // (2 * processes))
    assert state.curve.step == pytest.approx(4 * per_epoch), "the learning rate has come to its end"
    assert state.plan["data_growth"] == [[1, per_epoch, MANY]]

    # In the epoch in which the data set grows, at its last step, and two epochs later.
    stops = [2, per_epoch, per_epoch + 4] if processes == 1 else [per_epoch]
    for place, step in enumerate(stops):
        stop = lambda trainer, step=step: signal_at(trainer, step)  # noqa: E731
        hook = growing(runs.data("stopped"), runs.world / "many", 1 if place == 0 else -1, stop)
        fork("stopped", hook)
    fork("stopped", lambda rank: None)
    assert runs.state("stopped", processes) == (state, files)


def test_changed_or_fewer_rows_are_not_taken_in_and_refused_on_resume(runs: Runs, world: Path) -> None:
    log = runs.folder / "log"
    other = write_dataset(runs.folder / "other", world / "model", 2, 2)
    hook = growing(runs.data("run"), other, 1, lambda trainer: signal_at(trainer, 8))
    printed = fork_run(runs.config("run"), log, hook=hook).finish()
    assert f"become smaller: [{FEW}] rows then, [2] now. Training continues as before" in printed
    assert runs.state("run")[0].step == 8
    printed = fork_run(runs.config("run"), log).finish(EXIT_ERROR)
    assert printed.rpartition("error: ")[2].startswith("the data sets of save_to_disk have become smaller")


def test_without_the_key_a_data_set_that_has_grown_is_refused(runs: Runs) -> None:
    log = runs.folder / "log"
    stop = growing(runs.data("run"), runs.world / "many", 1, lambda trainer: signal_at(trainer, 2))
    fork_run(runs.config("run", reload_dataloaders_every_n_epochs=0), log, hook=stop).finish()
    config = runs.config("run", reload_dataloaders_every_n_epochs=0)
    printed = fork_run(config, log).finish(EXIT_ERROR)
    assert "data or frozen weights are not those that the checkpoint was trained with" in printed


def test_a_data_set_that_tokenizing_extends_has_grown_and_one_with_other_audio_has_not(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "corpus", 20)
    rows = read_manifest(manifest)
    write_manifest(manifest, rows[:11])
    run(options_for(manifest, tmp_path / "data"))
    hashes = RowHashes([str(tmp_path / "data")], "train")
    before = hashes.all_rows()
    write_manifest(manifest, rows)
    run(options_for(manifest, tmp_path / "data"))
    after = hashes.all_rows()
    hashes.require(before)
    assert (before.counts, after.counts) == ((11,), (20,)) and before.sha256 != after.sha256
    assert KnownRows.of_plan({"seed": 1} | after.to_plan()) == after
    rows[3]["audio_file_name"] = rows[4]["audio_file_name"]
    write_manifest(manifest, rows)
    run(options_for(manifest, tmp_path / "data"))
    with pytest.raises(ValueError, match=r"first rows of save_to_disk \(11\) are not those"):
        hashes.require(before)
