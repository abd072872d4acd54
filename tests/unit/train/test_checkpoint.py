"""A checkpoint is complete or not there; what is damaged is never used; what must be kept is kept."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoint_fakes import FORK, NAMES, assert_is_step, contents, exit_code, manager, names, saved
from torch import distributed

from songgen.runtime import files as disk
from songgen.runtime.json_files import json_sha256
from songgen.train.checkpoints.files import (
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    random_state_file,
    read_manifest,
)
from songgen.train.checkpoints.files import (
    checkpoint_files as files_of,
)
from songgen.train.checkpoints.manager import MAX_FAILED_SAVES, CheckpointError, CheckpointManager
from songgen.train.checkpoints.state import TRAINER_STATE_FILE, CheckpointContents


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)[0]
    assert folder == tmp_path / "checkpoint-3"
    assert names(folder) == sorted([*files_of(1), MANIFEST_FILE])
    checkpoints = manager(tmp_path)
    assert checkpoints.latest() == folder
    loaded = checkpoints.load(folder)
    assert_is_step(loaded, 3)
    assert list(loaded.model) == list(NAMES)
    manifest = read_manifest(folder)
    assert (manifest.step, manifest.epoch, manifest.world_size) == (3, 1, 1)
    assert manifest.parameters == [(name, [2, 3]) for name in NAMES]


def test_without_average_and_optimizer(tmp_path: Path) -> None:
    bare = contents(1)
    bare.average, bare.optimizer = {}, {}
    folder = manager(tmp_path).save(bare)
    assert folder is not None
    loaded = manager(tmp_path).load(folder)
    assert loaded.average == {} and loaded.optimizer == {}


def test_nothing_saved_is_a_fresh_start(tmp_path: Path) -> None:
    assert manager(tmp_path).latest() is None
    assert manager(tmp_path / "not there yet").latest() is None


def test_names_of_folders_mean_nothing(tmp_path: Path) -> None:
    first, second = saved(tmp_path, 5, 6)
    second.rename(tmp_path / "checkpoint-good")
    first.rename(tmp_path / "checkpoint-999")
    newest = manager(tmp_path).latest()
    assert newest == tmp_path / "checkpoint-good"
    assert manager(tmp_path).load(newest).state.step == 6


def test_the_newest_save_wins_after_going_back(tmp_path: Path) -> None:
    """A run that went back to step 4 and on to 5 and 8 goes on from there, not from the abandoned step 8."""
    saved(tmp_path, 4, 8)
    went_on = saved(tmp_path, 5)[0]
    assert manager(tmp_path).latest() == went_on
    again = saved(tmp_path, 8)[0]
    assert again.name == "checkpoint-8-2", "no folder is replaced"
    assert manager(tmp_path).latest() == again


def test_a_manifest_cannot_name_other_files(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)[0]
    record = json.loads((folder / MANIFEST_FILE).read_text())
    record["manifest"]["files"]["../../secret"] = record["manifest"]["files"].pop(MODEL_FILE)
    record["sha256"] = json_sha256(record["manifest"])
    (folder / MANIFEST_FILE).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="lists"):
        manager(tmp_path).load(folder)


def test_a_manifest_belongs_to_its_configuration(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)[0]
    record = json.loads((folder / MANIFEST_FILE).read_text())
    record["manifest"]["config_sha256"] = json_sha256({"another": "configuration"})
    record["sha256"] = json_sha256(record["manifest"])
    (folder / MANIFEST_FILE).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="does not belong to training_config"):
        manager(tmp_path).load(folder)


def test_without_a_limit_all_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, *range(1, 6))
    assert len(names(tmp_path)) == 5


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    checkpoints = manager(tmp_path, limit=0)
    for step in (1, 2):
        checkpoints.save(contents(step))
    assert names(tmp_path) == ["checkpoint-2"]


def test_a_disk_without_room_is_found_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = saved(tmp_path, 1)[0]
    checkpoints = manager(tmp_path, limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
        assert checkpoints.save(contents(2)) is None
    assert "5 bytes are free" in caplog.text
    assert names(tmp_path) == ["checkpoint-1"]
    assert checkpoints.latest() == good
    assert checkpoints.save(contents(3)) is not None, "the next save is tried anew"


def test_a_disk_that_fills_keeps_the_old_ones_and_ends_the_run_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = saved(tmp_path, 1)[0]
    checkpoints = manager(tmp_path, limit=1)

    def full(path: Path) -> None:
        if path.name == OPTIMIZER_FILE:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "synchronize", full)
    for _ in range(MAX_FAILED_SAVES - 1):
        assert checkpoints.save(contents(2)) is None
        assert names(tmp_path) == ["checkpoint-1"]
    assert "No space left on device" in caplog.text
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoints.save(contents(2))
    assert manager(tmp_path).latest() == good


def test_a_file_size_limit_is_a_failed_save(tmp_path: Path) -> None:
    """A real error of the operating system in the middle of a file, as from a quota."""
    saved(tmp_path, 1)

    def limited() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
        large = contents(2)
        large.optimizer["weight.exp_avg"] = torch.zeros(4096)
        assert manager(tmp_path).save(large) is None

    assert exit_code(limited) == 0
    assert names(tmp_path) == ["checkpoint-1"]


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        manager(tmp_path).load(tmp_path / "checkpoint-9")


def test_another_number_of_processes_gets_no_random_state(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)[0]
    loaded = CheckpointManager(tmp_path, save_total_limit=None, rank=0, world_size=2).load(folder)
    assert loaded.random_state == {} and loaded.state.step == 1


def in_two_processes(folder: Path, work: Callable[[int, Path], None]) -> list[int]:
    """Run `work(rank, folder)` in two processes that talk over gloo; returns their exit codes."""

    def run(rank: int) -> None:
        store = distributed.FileStore(str(folder.parent / "store"), 2)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
        work(rank, folder)
        # Not a barrier: gloo's reports a closed connection to the process that leaves it last.
        store.set(f"done_{rank}", "")
        store.wait(["done_0", "done_1"])
        distributed.destroy_process_group()

    processes = [FORK.Process(target=run, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return [-1 if code is None else code for code in codes]


def main_has_all(step: int, rank: int) -> CheckpointContents:
    """What a process hands over: everything on the main one, its own random state on the other."""
    own = contents(step, rank)
    if rank != 0:
        own.model, own.optimizer, own.average = {}, {}, {}
    return own


def test_two_processes_save_and_load_one_checkpoint(tmp_path: Path) -> None:
    def work(rank: int, folder: Path) -> None:
        checkpoints = manager(folder, limit=2, rank=rank, world_size=2)
        for step in (1, 2, 3):
            assert checkpoints.save(main_has_all(step, rank)) == folder / f"checkpoint-{step}"
        distributed.barrier()
        assert names(folder) == ["checkpoint-2", "checkpoint-3"]
        newest = checkpoints.latest()
        assert newest == folder / "checkpoint-3"
        loaded = checkpoints.load(newest)
        assert loaded.random_state["torch"].tolist() == [3, rank]
        assert torch.equal(loaded.model["weight"], contents(3).model["weight"])

    assert in_two_processes(tmp_path / "run", work) == [0, 0]


@pytest.mark.parametrize(("failing_rank", "file"), [(1, random_state_file(1)), (0, MODEL_FILE), (0, MANIFEST_FILE)])
def test_if_one_process_fails_nobody_renames(tmp_path: Path, failing_rank: int, file: str) -> None:
    """Even where the file is complete, and only its way to the disk failed."""

    def work(rank: int, folder: Path) -> None:
        checkpoints = manager(folder, rank=rank, world_size=2)
        assert checkpoints.save(main_has_all(1, rank)) is not None
        synchronize = disk.synchronize

        def broken(path: Path) -> None:
            if path.name == file and rank == failing_rank:
                raise OSError(5, "Input/output error")

        disk.synchronize = broken
        assert checkpoints.save(main_has_all(2, rank)) is None
        disk.synchronize = synchronize
        distributed.barrier()
        assert names(folder) == ["checkpoint-1"]
        distributed.barrier()
        assert checkpoints.save(main_has_all(3, rank)) == folder / "checkpoint-3"

    assert in_two_processes(tmp_path / "run", work) == [0, 0]


def test_processes_agree_that_nothing_is_valid(tmp_path: Path) -> None:
    def work(rank: int, folder: Path) -> None:
        checkpoints = manager(folder, rank=rank, world_size=2)
        checkpoints.save(main_has_all(1, rank))
        distributed.barrier()
        if rank == 0:
            (folder / "checkpoint-1" / TRAINER_STATE_FILE).unlink()
        with pytest.raises(ValueError, match="trainer_state.json is missing"):
            checkpoints.latest()

    assert in_two_processes(tmp_path / "run", work) == [0, 0]
