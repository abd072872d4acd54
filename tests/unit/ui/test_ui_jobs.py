"""Jobs on the page: lists that do not lose what runs, and queries that are not numbers."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_pages import Client, serving_page

from songgen.jobs.record import JOB_FILE, JOB_STATUS_FILE, create_job, find_jobs, newest_job
from songgen.runtime.status import StatusFile
from songgen.ui.parts import jobs as jobs_part
from songgen.ui.parts.jobs import reason_text
from songgen.ui.translation import translator
from songgen.ui.workspace import Workspace

FEW = 3


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(jobs_part, "SHOWN_JOBS", FEW)
    return Workspace(tmp_path.resolve())


@pytest.fixture
def client(workspace: Workspace) -> Iterator[Client]:
    with serving_page(workspace) as found:
        yield found


def write_job(workspace: Workspace, age: int, subject: str, name: str = "generate", *, has_ended: bool = True) -> str:
    """Write a job that was started some seconds ago, and has ended or is about to start; return its id."""
    words = ["songgen", name, "x"]
    folder = create_job(workspace.jobs, words, title=f"{name} {age}", cwd=workspace.root, subject=subject)
    record = json.loads((folder / JOB_FILE).read_text())
    (folder / JOB_FILE).write_text(json.dumps({**record, "created": time.time() - age}))
    if has_ended:
        StatusFile(folder, JOB_STATUS_FILE, "r").write("finished", exit_code=0)
    return folder.name


def listed(client: Client, query: str = "") -> tuple[list[str], int]:
    """Ids of the jobs of a list, and the number of those that are left out."""
    answer = client.get(f"/api/jobs{query}").json
    return [job["id"] for job in answer["jobs"]], answer["left_out"]


def test_a_running_job_stays_in_the_list_however_many_were_started_later(workspace: Workspace, client: Client) -> None:
    running = write_job(workspace, 20, "outputs/run", "train", has_ended=False)
    ended = [write_job(workspace, age, "outputs/songs") for age in range(FEW + 2)]
    assert listed(client) == ([running, *ended[:FEW]], 2)


def test_jobs_of_a_folder_are_found_behind_newer_ones_of_others(workspace: Workspace, client: Client) -> None:
    wanted = write_job(workspace, 20, "./outputs/run/", "train")
    for age in range(FEW + 1):
        write_job(workspace, age, "outputs/songs")
    assert listed(client, "?subject=outputs/run") == ([wanted], 0)


def test_of_the_jobs_of_a_folder_one_that_runs_comes_first(workspace: Workspace) -> None:
    running = write_job(workspace, 20, "outputs/run", "train", has_ended=False)
    other = write_job(workspace, 3, str(workspace.root / "outputs" / "other"), "train")
    newest = write_job(workspace, 1, "outputs/run", "plot")
    write_job(workspace, 0, "")
    views = find_jobs(workspace.jobs)

    def found(*arguments: Any) -> str:
        view = newest_job(views, *arguments)
        return "" if view is None else view.job.id

    assert found("outputs/run") == running and found(workspace.root / "outputs" / "run", ("plot",)) == newest
    assert found("outputs/other") == other, "the same folder, written in two ways"
    assert found("outputs/run", ("generate",)) == found("outputs") == found("") == ""


def test_only_commands_of_the_page_that_have_ended_can_be_started_again(workspace: Workspace, client: Client) -> None:
    """Of trainings in a folder, the latest: an earlier command would not continue what that one has done."""
    wanted = {"export": True, "push": False, "ctl": False}
    for name, can_repeat in wanted.items():
        job = write_job(workspace, 2, "outputs/run", name)
        assert client.get(f"/api/jobs/{job}").json["job"]["can_repeat"] is can_repeat, name
    trainings = [write_job(workspace, age, "outputs/run", "train") for age in (1, 0)]
    write_job(workspace, 0, "outputs/other", "train", has_ended=False)
    jobs = client.get("/api/jobs").json["jobs"]
    found = {job["id"]: job["can_repeat"] for job in jobs if job["name"] == "train" and not job["is_active"]}
    assert found == dict(zip(trainings, (False, True), strict=True))


@pytest.mark.parametrize("query", ["lines=abc", "lines=", "lines=-1", "lines=1e3", "lines=" + "9" * 99])
def test_what_is_not_a_number_is_said_by_its_name(workspace: Workspace, client: Client, query: str) -> None:
    answer = client.get(f"/api/jobs/{write_job(workspace, 1, '')}?{query}")
    assert answer.status == 422 and answer.json["error"] == "lines: a whole number is expected"


REFUSED = """error: the run cannot resume from outputs/run/checkpoint-8 with these changes:
- learning_rate: 0.001 then, 0.0005 now (changes what is computed: put it back, or set allow_config_changes to true)
- lora.r: 4 then, 2 now (cannot change within a run: put it back, or start a new output_dir with this run's folder as \
model_name_or_path)
- processes: 2 then, 1 now (launch as many as then, or set allow_world_size_change to true)"""
"""Reason of a run that cannot be resumed, as its job has it."""

REASONS = {
    REFUSED: "有以下变化，无法从 outputs/run/checkpoint-8 恢复训练：",
    f"songgen train: {REFUSED}": "有以下变化，无法从 outputs/run/checkpoint-8 恢复训练：",
    "process 0: ValueError: no clip is left; look at the filters and at the data set's report": (
        "process 0: ValueError: 没有剩下任何片段；请查看筛选条件和数据集的报告"
    ),
}
"""Reasons -> first line in Chinese."""


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_of_a_failure_is_translated_line_by_line(reason: str) -> None:
    lines = reason_text(reason, translator("zh")).split("\n")
    assert lines[0] == REASONS[reason] and len(lines) == len(reason.split("\n"))
    assert all(line.startswith("- ") and "：" in line and " then" not in line for line in lines[1:])
    english = reason_text(reason, translator("en"))
    assert reason.endswith(english) and not english.startswith(("songgen", "error"))
