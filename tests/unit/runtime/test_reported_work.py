"""How work says in a file where it stands: one writer for training, tokenizing and preparing."""

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from songgen.runtime import reported_work
from songgen.runtime.reported_work import ReportedWork
from songgen.runtime.status import Progress, RunStatus, StatusFile, read_run_status

NAME = "work_status.json"


def read(folder: Path) -> RunStatus:
    found = read_run_status(folder, NAME)
    assert found is not None
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(reported_work.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(reported_work.time, "time", lambda: now[0])
    return now


def test_progress_is_written_at_most_once_a_second_with_the_time_that_is_left(
    tmp_path: Path, clock: list[float]
) -> None:
    with ReportedWork(tmp_path, NAME) as work:
        assert read(tmp_path).status == "running"
        work.begin("encoding", total=100, unit="clips")
        work.advance(20, by_earlier_run=True)
        assert read(tmp_path).progress == Progress("encoding", 0, 100, "clips", 1000.0)
        clock[0] += 4.0
        work.advance(40)
        assert read(tmp_path).progress == Progress("encoding", 60, 100, "clips", 1000.0, 4.0)
        work.advance(20)
        assert str(read(tmp_path).progress) == "encoding: 60 of 100 clips, 4 s left"
        work.flush()
        assert read(tmp_path).progress == Progress("encoding", 80, 100, "clips", 1000.0, 1.3)
    finished = read(tmp_path)
    assert (finished.status, finished.exit_code, finished.started) == ("finished", 0, 1000.0)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no such codec"), ("failed", None, "ValueError: no such codec")),
        (SystemExit(128 + 15), ("stopped", 143, "a signal")),
        (KeyboardInterrupt(), ("stopped", None, "a signal")),
    ],
)
def test_how_it_ends_is_written(tmp_path: Path, error: BaseException, expected: tuple[Any, ...]) -> None:
    with pytest.raises(type(error)), ReportedWork(tmp_path, NAME, keeps_finished=False) as work:
        work.begin("encoding", total=10)
        raise error
    found = read(tmp_path)
    assert (found.status, found.exit_code, found.reason) == expected
    assert found.progress is not None and found.progress.phase == "encoding"
    with ReportedWork(tmp_path, NAME, keeps_finished=False):
        assert read(tmp_path).status == "running" and read(tmp_path).run_id != found.run_id
    assert not list(tmp_path.iterdir())


def test_a_failure_is_not_hidden_by_the_signal_that_follows_it(tmp_path: Path) -> None:
    """The launcher ends the main process when another one has failed."""
    with pytest.raises(SystemExit), ReportedWork(tmp_path, NAME) as work:
        StatusFile(tmp_path, NAME, read(tmp_path).run_id, rank=1).write("failed", reason="out of memory")
        work.flush()
        assert read(tmp_path).status == "failed"
        raise SystemExit(143)
    assert (read(tmp_path).status, read(tmp_path).reason) == ("failed", "out of memory")


def test_a_full_disk_ends_no_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with ReportedWork(folder, NAME) as work:
        (folder / NAME).unlink()
        folder.rmdir()
        work.begin("encoding")
    assert "could not be written" in caplog.text


def test_counts_are_those_of_all_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")

    def work_as(rank: int) -> None:
        store = distributed.FileStore(str(tmp_path / "store"), 2)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
        with ReportedWork(tmp_path, NAME, rank) as work:
            work.begin("encoding", total=10, unit="clips")
            if rank == 1:
                work.advance(4)
                work.flush()
            distributed.barrier()
            if rank == 0:
                work.advance(3)
                work.flush()
                progress = read(tmp_path).progress
                assert progress is not None and progress.done == 7
            distributed.barrier()
        os._exit(0)

    processes = [context.Process(target=work_as, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    assert read(tmp_path).status == "finished"


def test_failed_work_that_removed_its_folder_writes_no_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(ValueError, match="nothing to do"), ReportedWork(folder, NAME):
        shutil.rmtree(folder)
        raise ValueError("nothing to do")
    assert not caplog.records and not folder.exists()
