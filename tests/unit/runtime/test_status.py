"""Status files: how work says where it stands, read and written without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from limits import SAFETY_SECONDS

from songgen.runtime.status import RunStatus, StatusFile, read_run_status

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
