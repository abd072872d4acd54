"""Output folders and checkpoints as they are after whatever can happen to a run."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diagnoses import at, findings
from limits import SAFETY_SECONDS
from safetensors.torch import load_file, save_file

from songgen.doctor import Kind, Level, examine
from songgen.runtime.file_hashes import describe_files
from songgen.runtime.processes.heartbeat import Heartbeat
from songgen.runtime.status import RUN_STATUS_FILE, RunStatus, StatusFile
from songgen.train.checkpoints.files import read_manifest
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.control.journal import JOURNAL_FILE, Entry, Journal
from songgen.train.output_folder import locked

Copy = Callable[[str], Path]
WITH_ROOT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
DEAD_PID = 2**22 + 1
"""No process has a number above the kernel's limit."""


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def resumed(folder: Path) -> list[str]:
    return [finding.where for finding in findings(folder) if finding.what.startswith("would be resumed")]


def write_status(folder: Path, status: RunStatus) -> None:
    StatusFile(folder, RUN_STATUS_FILE, status.run_id).put(status)


@pytest.mark.parametrize("deep", [False, True])
def test_a_finished_run_is_fine_and_stays_as_it_is(originals: Path, deep: bool) -> None:
    before = contents(originals / "run")
    diagnosis = examine(originals / "run", deep=deep)
    assert diagnosis.kind is Kind.RUN and diagnosis.is_fine
    assert {finding.level for finding in diagnosis.findings} == {Level.OK}
    by_place = {finding.where: finding.what for finding in diagnosis.findings}
    assert by_place["run_status.json"] == "the run finished after step 8 of 8"
    assert "step 8 of 8" in by_place["checkpoint-8"] or "finite" in by_place["checkpoint-8"]
    assert "train/loss" in by_place["metrics.jsonl"] and "step 8" in by_place["metrics.jsonl"]
    assert ("checkpoint-6" in by_place) is deep
    assert contents(originals / "run") == before


def test_commands_and_a_damaged_journal_are_named(copy_of: Copy) -> None:
    run = copy_of("run")
    Journal(run).append([Entry(3, "lr 0.001", "a test"), Entry(5, "save", "a test")])
    (found,) = at(run, JOURNAL_FILE)
    assert (found.level, found.what) == (Level.OK, "2 commands, the last in effect: save after step 5")
    flip_bit(run / JOURNAL_FILE)
    (found,) = at(run, JOURNAL_FILE)
    assert found.level is Level.ERROR and "does not resume" in found.what


def test_what_it_says_would_be_resumed_is_what_is_resumed(copy_of: Copy) -> None:
    """In every state of damage, the doctor and the program that resumes choose alike."""
    run = copy_of("run")
    assert resumed(run) == ["checkpoint-8"]
    for damaged, expected in (("checkpoint-8", ["checkpoint-6"]), ("checkpoint-6", [])):
        flip_bit(run / damaged / "optimizer.safetensors")
        manager = CheckpointManager(run, save_total_limit=None, rank=0, world_size=1)
        assert resumed(run) == expected
        if expected:
            latest = manager.latest()
            assert latest is not None and latest.name == expected[0]
        else:
            with pytest.raises(ValueError, match="none of them is valid"):
                manager.latest()
    (refusal,) = at(run, "checkpoints")
    assert refusal.level is Level.ERROR and "never starts over" in refusal.what


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: flip_bit(folder / "model.safetensors"), "model.safetensors is damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors has 0 bytes"),
        (lambda folder: (folder / "random_state-00000.safetensors").unlink(), "random_state-00000.safetensors is miss"),
        (lambda folder: (folder / "manifest.json").unlink(), "the save did not end"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
    ],
)
def test_a_rejected_checkpoint_is_named_with_its_reason(
    copy_of: Copy, damage: Callable[[Path], Any], reason: str
) -> None:
    run = copy_of("run")
    damage(run / "checkpoint-8")
    (finding,) = at(run, "checkpoint-8")
    assert finding.level is Level.ERROR and reason in finding.what and finding.way_out
    assert resumed(run) == ["checkpoint-6"]
    own = examine(run / "checkpoint-8")
    assert own.kind is Kind.CHECKPOINT and not own.is_fine and reason in own.findings[0].what


def test_random_state_may_lack_where_the_configuration_allows_it(copy_of: Copy) -> None:
    run = copy_of("run")
    (run / "checkpoint-8" / "random_state-00000.safetensors").unlink()
    config = json.loads((run / "training_config.json").read_text())
    (run / "training_config.json").write_text(json.dumps(config | {"allow_inexact_resume": True}))
    assert resumed(run) == ["checkpoint-8"]


def test_a_checkpoint_folder_itself_is_examined(originals: Path) -> None:
    diagnosis = examine(originals / "run" / "checkpoint-6", deep=True)
    assert diagnosis.kind is Kind.CHECKPOINT and diagnosis.is_fine
    assert "step 6 of 8" in diagnosis.findings[0].what


def test_values_that_are_not_finite_are_found_in_a_checkpoint(copy_of: Copy) -> None:
    """The hashes fit: the run itself saved NaN."""
    folder = copy_of("run") / "checkpoint-8"
    name = "model.safetensors"
    tensors = load_file(folder / name)
    first = next(iter(tensors))
    tensors[first] = torch.full_like(tensors[first], float("nan"))
    save_file(tensors, folder / name)
    manifest = read_manifest(folder)
    files = describe_files(folder, manifest.files)
    (folder / "manifest.json").write_text(dataclasses.replace(manifest, files=files).to_json())
    (finding,) = findings(folder, Level.ERROR)
    assert f"{name} holds NaN or infinity in {first}" in finding.what


def test_leftovers_of_interrupted_saves_are_named_and_kept(copy_of: Copy) -> None:
    run = copy_of("run")
    leftover = run / "checkpoint-9.tmp-0a1b2c3d"
    shutil.copytree(run / "checkpoint-8", leftover)
    (finding,) = at(run, leftover.name)
    assert finding.level is Level.WARNING and "interrupted" in finding.what
    assert leftover.is_dir() and resumed(run) == ["checkpoint-8"]
    assert examine(leftover).kind is Kind.CHECKPOINT


def test_an_active_run_is_told_from_one_that_was_killed(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_of("run")
    write_status(run, RunStatus("running", "run"))
    with locked(run):
        (activity,) = at(run, "activity")
        assert activity.level is Level.OK and f"process {os.getpid()}" in activity.what
        assert at(run, "run_status.json")[0].level is Level.OK
    assert at(run, "activity")[0].what == "no run is active"
    (status,) = at(run, "run_status.json")
    assert status.level is Level.WARNING and "killed" in status.what
    lock = run / ".run.lock"
    lock.write_text(json.dumps({"pid": DEAD_PID, "host": socket.gethostname()}))
    (activity,) = at(run, "activity")
    assert activity.level is Level.WARNING and "has ended" in activity.what
    lock.write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    assert "has ended" in at(run, "activity")[0].what, "another process has that number now, and holds no lock"
    lock.write_text(json.dumps({"pid": DEAD_PID, "host": "elsewhere.example"}))
    assert "has ended" in at(run, "activity")[0].what, "a container under another name, whose lock is free"
    monkeypatch.setattr("songgen.runtime.folder_owner.has_local_locks", lambda folder: False)
    (activity,) = at(run, "activity")
    assert "cannot be checked from this machine" in activity.what and str(lock) in activity.way_out
    lock.write_text("")
    assert at(run, ".run.lock")[0].level is Level.WARNING


def test_the_lock_of_another_process_is_seen_and_left_alone(copy_of: Copy) -> None:
    run = copy_of("run")
    program = (
        "import sys; from pathlib import Path; from songgen.train.output_folder import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=WITH_ROOT) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        for _ in range(2):
            (activity,) = at(run, "activity")
            assert activity.level is Level.OK and f"a run is active: process {holder.pid}" in activity.what
        holder.communicate(timeout=SAFETY_SECONDS)
    assert holder.returncode == 0 and at(run, "activity")[0].what == "no run is active"


def test_a_failed_run_says_why(copy_of: Copy) -> None:
    run = copy_of("run")
    reason = "loss or gradients are not finite"
    write_status(run, RunStatus("failed", "run", step=5, total_steps=8, exit_code=4, reason=reason))
    (status,) = at(run, "run_status.json")
    assert status.level is Level.ERROR
    assert "after step 5 of 8 with exit code 4: loss or gradients" in status.what
    write_status(run, RunStatus("stopped", "run", step=5, total_steps=8, exit_code=0))
    assert "stopped by a signal after step 5 of 8" in at(run, "run_status.json")[0].what


def test_signs_of_life_show_which_process_failed(copy_of: Copy) -> None:
    run = copy_of("run")
    for rank in range(2):
        beating = Heartbeat(run, rank)
        beating.beat("training", 5)
        beating.write()
    failed = Heartbeat(run, 1)
    failed.beat("training", 5)
    failed.fail("out of memory", is_victim=False)
    assert "after step 5, training" in at(run, "process 0")[0].what
    (finding,) = at(run, "process 1")
    assert finding.level is Level.ERROR and "out of memory" in finding.what


def test_a_start_that_failed_before_it_trained_is_told_once(copy_of: Copy) -> None:
    run, reason = copy_of("run"), "ValueError: no checkpoint is valid"
    write_status(run, RunStatus("failed", "run", exit_code=1, reason=f"process 0: {reason}"))
    Heartbeat(run, 0).fail(reason, is_victim=False)
    (status,), (process,) = at(run, "run_status.json"), at(run, "process 0")
    assert status.what.startswith("the latest start failed before its first step with exit code 1: process 0: ")
    assert process.level is Level.ERROR and "for the reason above" in process.what and reason not in process.what


def test_a_model_whose_checkpoints_are_gone_is_no_place_for_a_run(copy_of: Copy) -> None:
    run = copy_of("run")
    for folder in run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    (finding,) = at(run, "checkpoints")
    assert finding.level is Level.WARNING and "would replace the model" in finding.what


def test_steps_that_went_wrong_are_counted(copy_of: Copy) -> None:
    run = copy_of("run")
    for name, steps in (("non_finite_steps.jsonl", [2]), ("loss_spikes.jsonl", [3, 5])):
        (run / name).write_text("".join(json.dumps({"step": step, "clips": []}) + "\n" for step in steps))
    (finding,) = at(run, "non_finite_steps.jsonl")
    assert finding.level is Level.WARNING and finding.what.startswith("1 step")
    (finding,) = at(run, "loss_spikes.jsonl")
    assert "2 loss spikes, the latest at step 5" in finding.what
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "epoch": 2.0, "time": time.time(), "train/loss": None}) + "\n")
    assert [finding.level for finding in at(run, "metrics.jsonl")] == [Level.OK, Level.WARNING]


def test_a_full_disk_is_foreseen(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_of("run")
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    (finding,) = at(run, "disk")
    assert finding.level is Level.ERROR and "1,000 bytes free" in finding.what


@pytest.mark.parametrize(
    ("changes", "where", "level", "what"),
    [
        ({"resume": "never"}, "resume", Level.WARNING, "no checkpoint would be used"),
        ({"resume": "outputs/absent"}, "resume", Level.ERROR, "outputs/absent, which is not there"),
        ({"save_to_disk": "absent/data"}, "save_to_disk", Level.WARNING, "no data set folder absent/data"),
        ({"learning_rat": 1.0}, "training_config.json", Level.ERROR, "did you mean learning_rate"),
    ],
)
def test_the_configuration_is_read(copy_of: Copy, changes: dict[str, Any], where: str, level: Level, what: str) -> None:
    run = copy_of("run")
    path = run / "training_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (finding,) = at(run, where)
    assert finding.level is level and what in finding.what


def test_a_run_that_has_only_begun_is_no_error(originals: Path, tmp_path: Path) -> None:
    run = tmp_path / "begun"
    run.mkdir()
    shutil.copy(originals / "run" / "training_config.json", run)
    diagnosis = examine(run)
    assert diagnosis.kind is Kind.RUN and diagnosis.is_fine
    assert "none was completed yet" in at(run, "checkpoints")[0].what
    assert at(run, "metrics.jsonl")[0].what == "no line yet"
