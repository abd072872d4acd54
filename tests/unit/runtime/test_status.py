"""Status files: how work says where it stands, read and written without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from limits import SAFETY_SECONDS

from songgen.runtime.status import Diagnosis, Remedy, RunStatus, StatusFile, read_run_status, status_problem

NAME = "work_status.json"


def test_work_that_cannot_even_begin_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        StatusFile(tmp_path / "absent", NAME, "r").begin()
    StatusFile(tmp_path, NAME, "r").begin()
    found = read_run_status(tmp_path, NAME)
    assert found is not None and (found.status, found.run_id) == ("running", "r") and found.started


def test_files_of_earlier_versions_are_read_and_others_passed_over(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"status": "stopped", "run_id": "r", "step": 3, "time": 5.0}))
    assert read_run_status(tmp_path, NAME) == RunStatus("stopped", "r", step=3, time=5.0)
    for text in ("{", "[]", json.dumps({"status": "stopped", "run_id": "r", "schema_version": 99})):
        (tmp_path / NAME).write_text(text)
        assert read_run_status(tmp_path, NAME) is None


def test_it_is_read_without_the_large_libraries() -> None:
    program = (
        "import songgen.runtime.status, sys;"
        "print([name for name in ('torch', 'numpy', 'accelerate') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SAFETY_SECONDS)
    assert result.stdout == "[]\n", result.stderr


STATUS = {"status": "failed", "run_id": "r", "schema_version": 1, "time": 5.0}


@pytest.mark.parametrize(
    "values",
    [
        {"status": {"a": 1}},
        {"status": "singing"},
        {"reason": 7},
        {"step": "3"},
        {"step": True},
        {"exit_code": 1.5},
        {"time": 1e300},
        {"started": -1},
        {"progress": {"phase": 5}},
        {"progress": {"phase": "x", "done": "1"}},
        {"diagnosis": {"title": 5, "logs": [], "remedies": []}},
        {"diagnosis": {"title": "X", "logs": [7], "remedies": []}},
        {"diagnosis": {"title": "X", "logs": [], "remedies": [{"effect": None}]}},
        {"diagnosis": {"title": "X", "logs": [], "remedies": [{"effect": "x", "changes": []}]}},
    ],
)
def test_a_status_with_a_value_of_another_kind_is_damaged(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / NAME).write_text(json.dumps(STATUS))
    assert read_run_status(tmp_path, NAME) is not None and not status_problem(tmp_path, NAME)
    (tmp_path / NAME).write_text(json.dumps(STATUS | values))
    assert read_run_status(tmp_path, NAME) is None and NAME in status_problem(tmp_path, NAME)


def test_a_folder_without_a_status_has_no_problem(tmp_path: Path) -> None:
    assert not status_problem(tmp_path, NAME)


def test_a_diagnosis_is_read_as_it_was_written(tmp_path: Path) -> None:
    diagnosis = Diagnosis("OUT OF MEMORY", ["crash.txt"], [Remedy("less memory", {"batch": 1}, {"batch": 8})])
    status = RunStatus("failed", "r", step=3, exit_code=1, reason="one:\n  - two", diagnosis=diagnosis)
    StatusFile(tmp_path, NAME, "r").put(status)
    assert read_run_status(tmp_path, NAME) == status


def test_a_reason_has_lines_that_can_be_printed(tmp_path: Path) -> None:
    StatusFile(tmp_path, NAME, "r").write("failed", reason="one\r\n\n  - two\x1b[31m\x00 \u0085three\ud800")
    found = read_run_status(tmp_path, NAME)
    assert found is not None and found.reason == "one\n  - two three?"
