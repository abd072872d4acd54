"""Folders of jobs: ids, states, and folders that come from anyone."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from limits import SAFETY_SECONDS

from songgen.jobs import record
from songgen.jobs.record import (
    JOB_FILE,
    JOB_LOCK_FILE,
    JOB_STATUS_FILE,
    MAX_TITLE,
    START_SECONDS,
    create_job,
    find_jobs,
    read_job,
)
from songgen.jobs.starting import remove_job, stop_job
from songgen.runtime.status import StatusFile

HOLD = """
import sys
from pathlib import Path
from songgen.runtime.folder_lock import locked
with locked(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def make_job(jobs: Path, *command: str, title: str = "a title") -> Path:
    return create_job(jobs, command or ("songgen", "tokenize", "x.json"), title=title, cwd=jobs)


def set_status(folder: Path, status: Any = "running", **values: Any) -> None:
    StatusFile(folder, JOB_STATUS_FILE, "r").write(status, **values)


def edit(folder: Path, **values: Any) -> None:
    path = folder / JOB_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_new_job_is_found_with_all_it_was_given(tmp_path: Path) -> None:
    folder = create_job(tmp_path / "jobs", ["songgen", "train", "x y.json"], title="train", cwd=tmp_path, subject="out")
    [view] = find_jobs(tmp_path / "jobs")
    assert view == read_job(tmp_path / "jobs", folder.name)
    job = view.job
    assert (job.command, job.cwd, job.subject, job.name) == (
        ("songgen", "train", "x y.json"),
        str(tmp_path),
        "out",
        "train",
    )
    assert job.id.split("-")[2] == "train" and abs(job.created - time.time()) < SAFETY_SECONDS


def test_the_newest_is_first(tmp_path: Path) -> None:
    folders = [make_job(tmp_path) for _ in range(3)]
    for age, folder in enumerate(folders):
        edit(folder, created=1000.0 - age)
    assert [view.folder for view in find_jobs(tmp_path)] == folders
    assert not find_jobs(tmp_path / "absent")


def test_ids_of_one_second_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(secrets, "token_hex", lambda size: next(digits))
    monkeypatch.setattr(time, "time", lambda: 1e9)
    first, second = make_job(tmp_path), make_job(tmp_path)
    assert first.name.endswith("-aaaa") and second.name.endswith("-bbbb") and first.name[:-4] == second.name[:-4]


@pytest.mark.parametrize(
    "command", [("python", "-c", "x"), ("songgen",), ("songgen", "../../etc"), ("songgen", "Ünï code")]
)
def test_any_command_gives_a_safe_name(tmp_path: Path, command: tuple[str, ...]) -> None:
    folder = make_job(tmp_path / "jobs", *command)
    assert folder.parent == tmp_path / "jobs" and read_job(folder.parent, folder.name).job.command == command


@pytest.mark.parametrize(
    "word",
    [
        "",
        ".",
        "..",
        "../jobs",
        "/etc",
        "a/b",
        "20261128-171530-x-3f2a/..",
        "20261128-171530-x-3f2a\n",
        "\x1b[2J",
        "x" * 9999,
    ],
)
def test_hostile_ids_name_no_folder(tmp_path: Path, word: str) -> None:
    make_job(tmp_path / "jobs")
    with pytest.raises(ValueError, match="there is no job") as caught:
        read_job(tmp_path / "jobs", word)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_link_is_no_job(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "elsewhere")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / folder.name).symlink_to(folder)
    assert not find_jobs(tmp_path / "jobs")
    with pytest.raises(ValueError, match="there is no job"):
        read_job(tmp_path / "jobs", folder.name)


@pytest.mark.parametrize(
    "values",
    [
        {"id": "20261128-171530-x-3f2a"},
        {"title": ["a"]},
        {"command": []},
        {"command": "songgen"},
        {"command": ["songgen", 1]},
        {"cwd": None},
        {"subject": 5},
        {"created": "now"},
        {"created": -1},
        {"created": 1e300},
        {"schema_version": 99},
        {"surprise": 1},
    ],
)
def test_damaged_records_are_passed_over(tmp_path: Path, values: dict[str, Any]) -> None:
    kept, damaged = make_job(tmp_path), make_job(tmp_path)
    edit(damaged, **values)
    assert [view.folder for view in find_jobs(tmp_path)] == [kept]
    with pytest.raises(ValueError, match="there is no job"):
        read_job(tmp_path, damaged.name)


def test_files_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    folders = [make_job(tmp_path) for _ in range(5)]
    for folder in folders:
        (folder / JOB_FILE).unlink()
    (folders[0] / JOB_FILE).write_text("{")
    (folders[1] / JOB_FILE).write_bytes(b"\xff\xfe\0")
    (folders[2] / JOB_FILE).write_text("[" * 100_000)
    os.mkfifo(folders[3] / JOB_FILE)  # reading it would wait for ever
    assert not find_jobs(tmp_path)


def test_titles_are_one_line_without_control_characters(tmp_path: Path) -> None:
    make_job(tmp_path, title="a\nb\x1b[2J\r\x00c\u0085\ud800" + "d" * 999)
    edit(make_job(tmp_path), title="stored\n\x1b]0;x\x07here")
    titles = {view.job.title for view in find_jobs(tmp_path)}
    assert titles == {("a bc?" + "d" * 999)[:MAX_TITLE], "stored here"}


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_the_state_is_that_of_the_status(tmp_path: Path, state: str) -> None:
    folder = make_job(tmp_path)
    set_status(folder, state, exit_code=0)
    view = read_job(tmp_path, folder.name)
    assert view.state == state and not view.is_active and view.status is not None and view.status.exit_code == 0


def test_a_job_without_a_status_is_starting_for_a_while_and_then_lost(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    assert read_job(tmp_path, folder.name).state == "running"
    edit(folder, created=time.time() - START_SECONDS - 1)
    view = read_job(tmp_path, folder.name)
    assert (view.state, view.status) == ("lost", None)


@pytest.mark.parametrize(
    "content",
    ["{", json.dumps({"status": "odd", "run_id": "r"}), json.dumps({"status": "failed", "run_id": "r", "reason": []})],
)
def test_a_damaged_status_counts_as_none(tmp_path: Path, content: str) -> None:
    folder = make_job(tmp_path)
    edit(folder, created=1.0)
    (folder / JOB_STATUS_FILE).write_text(content)
    view = read_job(tmp_path, folder.name)
    assert (view.state, view.status) == ("lost", None)


@pytest.fixture
def held_job(tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[bytes]"]]:
    """A job whose lock another process holds."""
    folder = make_job(tmp_path)
    command = [sys.executable, "-c", HOLD, str(folder), JOB_LOCK_FILE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield folder, process


def test_running_is_who_holds_the_lock(held_job: tuple[Path, "subprocess.Popen[bytes]"]) -> None:
    folder, process = held_job
    set_status(folder)
    view = read_job(folder.parent, folder.name)
    assert view.state == "running" and view.is_active
    with pytest.raises(ValueError, match="stop it first"):
        remove_job(view)
    process.kill()
    process.wait(SAFETY_SECONDS)
    view = read_job(folder.parent, folder.name)
    assert view.state == "lost" and not view.is_active
    with pytest.raises(ValueError, match="it is lost"):
        stop_job(view)
    remove_job(view)
    assert not folder.exists()


def test_a_job_that_ends_between_two_looks_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path)
    set_status(folder)

    def end(folder: Path) -> bool:
        set_status(folder, "finished", exit_code=0)
        return False

    monkeypatch.setattr(record, "_is_locked", end)
    assert read_job(tmp_path, folder.name).state == "finished"


def test_a_job_that_is_being_removed_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, kept = make_job(tmp_path), make_job(tmp_path)

    class Entries:
        """The entries of the folder; one of them is removed after it was listed."""

        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name != gone.name)
            shutil.rmtree(gone)

        def __enter__(self) -> "list[os.DirEntry[str]]":
            return self._entries

        def __exit__(self, *error: object) -> None:
            pass

    scandir = os.scandir
    monkeypatch.setattr(record.os, "scandir", lambda folder: Entries(folder) if folder == tmp_path else scandir(folder))
    assert [view.folder for view in find_jobs(tmp_path)] == [kept]


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        make_job(tmp_path / "file" / "jobs")


def test_jobs_that_have_ended_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page asks for the list every few seconds, and there may be thousands."""
    ended, running = make_job(tmp_path), make_job(tmp_path)
    set_status(ended, "finished")
    assert {view.state for view in find_jobs(tmp_path)} == {"finished", "running"}
    read = []
    original = record.read_record
    monkeypatch.setattr(record, "read_record", lambda folder: read.append(folder) or original(folder))
    assert len(find_jobs(tmp_path)) == 2 and read == [running]
    set_status(running, "failed")
    assert {view.state for view in find_jobs(tmp_path)} == {"finished", "failed"}
    set_status(ended, "stopped")
    assert {view.state for view in find_jobs(tmp_path)} == {"stopped", "failed"}, "the folder has changed"
    remove_job(read_job(tmp_path, ended.name))
    assert [view.folder for view in find_jobs(tmp_path)] == [running]
