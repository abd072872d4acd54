"""What the page reads of runs and configurations, without a server."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from run_folders import write_run

from songgen.runtime.folder_lock import RUN_LOCK_FILE, locked
from songgen.train.reporting.progress_file import PROGRESS_FILE, RunProgress
from songgen.ui.training import runs, starting
from songgen.ui.translation import translator
from songgen.ui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with an empty data set."""
    for folder in ("datasets/tiny", "outputs/configs"):
        (tmp_path / folder).mkdir(parents=True)
    return Workspace(tmp_path.resolve())


def test_progress_of_an_earlier_launch_is_not_shown_as_that_of_a_new_one(workspace: Workspace) -> None:
    folder = write_run(workspace.root / "outputs" / "again", status="running", started=2000.0)
    progress = RunProgress(12, 40, 0, 2, 4.0, 2, 10, 1.5, 5.4, 18.7, 0.25, 1e-4, time=1000.0)
    (folder / PROGRESS_FILE).write_text(json.dumps(dataclasses.asdict(progress)))
    with locked(folder, RUN_LOCK_FILE):
        found, row = runs.details_of(folder), runs.row_of(workspace, folder)
        assert (found["state"], found["progress"], found["step"]) == ("running", None, None)
        assert (row["seconds_left"], row["loss"]) == (None, 5.0 / 30)
        (folder / PROGRESS_FILE).write_text(json.dumps(dataclasses.asdict(progress) | {"time": 2001.0}))
        assert runs.details_of(folder)["step"] == 12 and runs.row_of(workspace, folder)["seconds_left"] == 18.7
    shutil.rmtree(folder)


def test_a_failed_launch_shows_no_progress_of_an_earlier_one(workspace: Workspace) -> None:
    """The plan is that of the status; what the metrics say is shown in place of the progress."""
    folder = write_run(workspace.root / "outputs" / "early", status="failed", started=2000.0, step=30, total_steps=200)
    old = RunProgress(30, 30, 0, 2, 4.0, 2, 10, 1.5, 5.4, 18.7, 0.25, 1e-4, time=1000.0)
    (folder / PROGRESS_FILE).write_text(json.dumps(dataclasses.asdict(old)))
    found, row = runs.details_of(folder), runs.row_of(workspace, folder)
    assert (found["progress"], found["step"], found["total_steps"], row["total_steps"]) == (None, 30, 200, 200)
    assert found["latest"] == {"epoch": 3.0, "loss": 5 / 30, "learning_rate": 1e-4}
    (folder / PROGRESS_FILE).write_text(json.dumps(dataclasses.asdict(old) | {"time": 2001.0}))
    found = runs.details_of(folder)
    assert found["progress"]["step"] == 30 and found["total_steps"] == 200 and found["latest"] == {}


def test_anomalies_and_little_space_are_told(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(workspace.root / "outputs" / "odd", status="running")
    assert runs.details_of(folder)["anomalies"] == {} and runs.details_of(folder)["disk"] is None
    (folder / "loss_spikes.jsonl").write_text('{"step": 3}\n{"step": 7}\n')
    (folder / "non_finite_steps.jsonl").write_text('{"step": 9}\n')
    for name, size in (("checkpoint-9", 10), ("checkpoint-10", 1_000)):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(bytes(size))
        os.utime(folder / name, (size, size))
    with locked(folder, RUN_LOCK_FILE):
        found = runs.details_of(folder)
        assert found["anomalies"]["spikes"] == {"count": 2, "step": 7, "file": "loss_spikes.jsonl"}
        assert found["anomalies"]["not_finite"]["step"] == 9
        assert found["disk"]["checkpoint"] == 1_000 and not found["disk"]["is_low"]
        monkeypatch.setattr(runs, "LITTLE_SPACE", 0)
        for free, is_low in ((1_499, True), (1_500, False)):
            monkeypatch.setattr(runs, "_free", lambda folder, free=free: free)
            assert runs.details_of(folder)["disk"]["is_low"] is is_low


def test_runs_that_are_not_listed_are_counted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(workspace.root / "outputs" / "counted" / "one")
    write_run(workspace.root / "outputs" / "counted" / "two")
    number = len(runs.find_runs(workspace))
    monkeypatch.setattr(runs, "MAX_RUNS", number - 1)
    listed = runs.list_of_runs(workspace)
    assert len(listed["runs"]) == number - 1 and listed["more"] == 1
    shutil.rmtree(workspace.root / "outputs" / "counted")


def test_a_second_check_does_not_wait_for_long(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "WAIT_SECONDS", 0.01)
    with starting._checking, pytest.raises(ValueError, match="a check is running already"):
        starting.check_of(workspace, {}, translator("en"))
    monkeypatch.setattr(starting.subprocess, "run", lambda *arguments, **options: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            starting.check_of(workspace, {}, translator("en"))


def test_configurations_that_can_be_started_come_first(workspace: Workspace) -> None:
    """Those without their model or data are marked; a model of a hub counts as there."""
    configs = workspace.root / "outputs" / "configs"
    for name, model, data in (
        ("a", "outputs/none", "datasets/none"), ("b", "datasets/tiny", "datasets/tiny"),
        ("c", "owner/name", "./datasets/tiny"), ("d", "datasets/tiny", "x" * 300),
    ):  # fmt: skip
        values = {"model_name_or_path": model, "save_to_disk": data, "output_dir": "outputs/x"}
        (configs / f"marked_{name}.json").write_text(json.dumps(values))
    found = starting.configurations(workspace)
    saved = [entry for entry in found["saved"] if "marked" in entry["name"]]
    assert [entry["name"][-6] for entry in saved] == ["b", "c", "a", "d"]
    assert [entry["missing"] for entry in saved] == [[], [], ["outputs/none", "datasets/none"], ["x" * 300]]
    shipped = {entry["name"]: entry["missing"] for entry in found["shipped"]}
    assert "./outputs/untrained-mixed_pro" in shipped["mixed_pro/step1.json"]


@pytest.mark.parametrize(
    "text", ["num_processes: [1, 2]", "num_processes: abc", "distributed_type: FSDP\nfsdp_config: 5"]
)
def test_a_launch_file_with_odd_values_is_a_problem_of_the_user(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(workspace.root)  # as `songgen ui` does
    (workspace.root / "odd.yaml").write_text(text)
    values = {"model_name_or_path": "datasets/tiny", "save_to_disk": "datasets/tiny", "output_dir": "outputs/x"}
    (workspace.root / "outputs" / "configs" / "odd.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="odd.yaml: num_processes must be a number"):
        starting.plan_of(
            workspace, {"config": "outputs/configs/odd.json", "config_file": str(workspace.root / "odd.yaml")}
        )
