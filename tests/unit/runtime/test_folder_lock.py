"""Leftovers of dead processes go when the next run takes the folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from songgen.runtime.files import write_text_atomic
from songgen.runtime.folder_lock import locked


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporary_files_of_dead_processes_are_removed_with_the_lock(tmp_path: Path) -> None:
    dead = dead_process()
    leftovers = [f"run_status.json.{dead}.tmp", f"heartbeat-0.json.{dead}.tmp", f"x.arrow.{dead}.spill.tmp",
                 f"metrics.jsonl.{os.getpid()}.tmp", f"a.{10**17}.tmp"]  # fmt: skip
    kept = [f"heartbeat-1.json.{os.getppid()}.tmp", "mine.tmp", "notes.12.tmp.txt", "checkpoint-5.tmp-abc"]
    for folder in (tmp_path, tmp_path / "results", tmp_path / "audio" / "segment"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in [*leftovers, *kept]:
            (folder / name).touch()
    with locked(tmp_path, "lock.json"):
        assert sorted(path.name for path in tmp_path.glob("*.*")) == sorted([*kept, "lock.json"])
        for folder in ("results", "audio/segment"):
            assert sorted(path.name for path in (tmp_path / folder).iterdir()) == sorted(kept)


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), SystemExit(1)])
def test_a_file_that_cannot_be_written_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Also if the disk does not even let the temporary file be removed, the first error is the one that is told."""

    def fail(path: Path, content: bytes) -> None:
        path.touch()
        raise error

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(type(error)):
        write_text_atomic(tmp_path / "run_status.json", "{}")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError("cannot be removed")))
    with pytest.raises(type(error)) as found:
        write_text_atomic(tmp_path / "run_status.json", "{}")
    assert found.value is error
