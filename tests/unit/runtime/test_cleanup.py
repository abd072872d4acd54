"""Clean-up that fails does not hide why a program ends."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from songgen.data.loader import LoaderError, worker_failure
from songgen.exit_codes import EXIT_LOST_PROCESS
from songgen.runtime.files import write_text_atomic
from songgen.runtime.folder_lock import locked
from songgen.runtime.processes import start
from songgen.runtime.processes.heartbeat import Heartbeat, heartbeat_file
from songgen.train.supervision import exit_code_of


@pytest.fixture
def nothing_can_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that went read-only."""

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)


@pytest.mark.usefixtures("nothing_can_be_removed")
def test_a_lock_and_a_heartbeat_that_cannot_be_removed_are_left(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the reason"), locked(tmp_path, "lock"):
        raise RuntimeError("the reason")
    heartbeat = Heartbeat(tmp_path, 0)
    heartbeat.write()
    heartbeat.remove()
    assert (tmp_path / heartbeat_file(0)).is_file()


@pytest.mark.usefixtures("nothing_can_be_removed")
def test_a_full_disk_is_named_although_the_rest_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_text_atomic(tmp_path / "status.json", json.dumps({}))


def test_a_killed_loader_worker_is_seen_behind_the_error_of_a_lock() -> None:
    """Torch's signal handler raises while a queue holds its lock, which then fails to release it."""
    try:
        try:
            raise RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. ")
        finally:
            raise ValueError("cannot release un-acquired lock")
    except ValueError as error:
        failure = worker_failure(error)
    assert failure is not None and "pid 123" in str(failure) and exit_code_of(failure) == EXIT_LOST_PROCESS
    assert worker_failure(ValueError("cannot release un-acquired lock")) is None
    assert worker_failure(LoaderError("a worker hangs")) is None


def test_a_process_that_never_began_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "process 1 of 2 exits: it could not join the others" in start.lost_process_message()
