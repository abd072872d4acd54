"""`songgen jobs` as it is typed."""

import json
import time
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS

from songgen.cli.main import main
from songgen.jobs.record import JOB_FILE, JOB_STATUS_FILE, JOBS_FOLDER, LOG_FILE, create_job, find_jobs, read_job
from songgen.jobs.starting import start_job
from songgen.runtime.status import StatusFile

WAIT = ["python", "-c", "import time; print('one'); print('two')\nwhile True: time.sleep(0.1)"]


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished_job(workspace: Path, title: str = "a title", status: str = "finished", reason: str | None = None) -> str:
    folder = create_job(workspace / JOBS_FOLDER, ["songgen", "list"], title=title, cwd=workspace)
    StatusFile(folder, JOB_STATUS_FILE, "r").write(status, exit_code=0, reason=reason)  # type: ignore[arg-type]
    (folder / LOG_FILE).write_text("first\nlast\n")
    return folder.name


def test_a_command_is_started_listed_followed_and_removed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "start", "--", "doctor", "--no-such-option"]) == 0
    job_id = capsys.readouterr().out.split()[0]
    view = read_job(workspace / JOBS_FOLDER, job_id)
    assert view.job.command == ("songgen", "doctor", "--no-such-option") and view.job.cwd == str(workspace)
    assert main(["jobs", "log", "--follow", job_id]) == 0
    assert "the following arguments are required: folder" in capsys.readouterr().out
    assert main(["jobs"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "state", "since", "title", "progress", "or", "reason"]
    assert row.startswith(f"{job_id}  failed ") and "  doctor --no-such-option  " in row and "error" in row
    assert main(["jobs", "remove", job_id]) == 0
    assert not find_jobs(workspace / JOBS_FOLDER)


def test_a_running_job_shows_its_last_line_and_is_stopped(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = start_job(workspace / JOBS_FOLDER, WAIT, title="wait", cwd=workspace)
    deadline = time.monotonic() + SAFETY_SECONDS
    while "two" not in (view.folder / LOG_FILE).read_text():
        assert time.monotonic() < deadline
    assert main(["jobs", "list", "--folder", str(workspace)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:2] == ["running"]
    assert main(["jobs", "remove", view.job.id]) == 2 and "stop it first" in capsys.readouterr().err
    assert main(["jobs", "log", view.job.id[-4:], "--lines", "1"]) == 0
    assert capsys.readouterr().out == "two\n"
    assert main(["jobs", "stop", "--kill", view.job.id]) == 0
    assert main(["jobs", "log", view.job.id, "--follow"]) == 0  # until it ends
    capsys.readouterr()
    assert main(["jobs", "--json"]) == 0
    [job] = json.loads(capsys.readouterr().out)
    assert (job["id"], job["state"], job["exit_code"]) == (view.job.id, "stopped", 137)


def test_the_table_cuts_long_texts_and_shows_hostile_ones_as_text(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = finished_job(workspace, "x\n\x1b[2J\ud800" + "y" * 300, "failed", "why\n\x1b[31m" + "z" * 300)
    damaged = finished_job(workspace)
    (workspace / JOBS_FOLDER / damaged / JOB_FILE).write_text("{")
    assert main(["jobs"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 2 and "\x1b" not in shown and hostile in shown
    assert "x ?yyy" in shown and "y..." in shown and "why zzz" in shown and max(map(len, shown.splitlines())) < 200
    assert main(["jobs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["reason"] == "why\n" + "z" * 300


def test_an_id_may_be_shortened_while_it_is_the_only_one(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = finished_job(workspace)
    assert main(["jobs", "log", first[:15], "--lines", "1"]) == 0 and capsys.readouterr().out == "last\n"
    assert main(["jobs", "log", first[-4:]]) == 0 and capsys.readouterr().out == "first\nlast\n"
    finished_job(workspace)
    assert main(["jobs", "log", first[:4]]) == 2 and "2 jobs are named" in capsys.readouterr().err
    assert main(["jobs", "log", first]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start", "--", "rm", "-r"], "'rm -r' is not a command of songgen"),
        (["start", "songgen"], "is not a command of songgen"),
        (["log", "../../etc"], "there is no job"),
        (["stop", ""], "there is no job"),
        (["--folder", "absent"], "there is no folder absent"),
    ],
)
def test_what_cannot_be_done_is_refused(
    workspace: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs", *words]) == 2
    assert message in capsys.readouterr().err and not list(workspace.iterdir())


def test_an_empty_workspace_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs"]) == 0 and "songgen jobs start" in capsys.readouterr().out
    assert main(["jobs", "--json"]) == 0 and json.loads(capsys.readouterr().out) == []


def test_the_folder_may_be_named_before_and_after_the_action(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "other").mkdir()
    job_id = finished_job(workspace / "other")
    for words in (
        ["--folder", "other", "log", job_id],
        ["log", "--folder", "other", job_id],
        ["log", job_id, "--folder=other"],
    ):
        assert main(["jobs", *words]) == 0 and capsys.readouterr().out == "first\nlast\n"
