"""The program computes what it computed when `tests/golden` was recorded: bit for bit on the same torch and CPU.

A change that is meant to alter numbers or files records them again: see `tests/support/golden.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden import GOLDEN, KEPT, KEPT_RUNS, KEPT_STEP, platform_of, read_record
from limits import SAFETY_SECONDS

pytestmark = pytest.mark.faults
"""It repeats small runs of everything, which takes minutes."""

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5
"""Relative difference of losses that another build of torch or another kind of CPU may make."""

MAX_FILE_BYTES, MAX_BYTES = 500_000, 1_600_000
RECORD = read_record()
SECTIONS = [name for name in RECORD if name != "platform"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that is recorded, as a fresh process finds it now."""
    path = tmp_path_factory.mktemp("golden") / "found.json"
    command = [sys.executable, str(ROOT / "tests" / "support" / "golden.py"), "--into", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SAFETY_SECONDS, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def is_same_platform(found: dict[str, Any]) -> bool:
    return bool(found["platform"] == RECORD["platform"])


def differences(found: Any, recorded: Any, where: str = "") -> list[str]:
    """Places where two values differ, with both values."""
    if isinstance(found, dict) and isinstance(recorded, dict):
        names = sorted({*found, *recorded})
        return [line for name in names for line in differences(found.get(name), recorded.get(name), f"{where}/{name}")]
    if isinstance(found, list) and isinstance(recorded, list) and len(found) == len(recorded):
        pairs = enumerate(zip(found, recorded, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{where}[{index}]")]
    return [] if found == recorded else [f"{where}: {found} now, {recorded} recorded"]


def losses(metrics: list[dict[str, Any]]) -> list[Any]:
    """Every step of a run with its losses as numbers."""
    return [
        (record["step"], {name: float.fromhex(value) for name, value in record.items() if name.endswith("loss")})
        for record in metrics
    ]


def portable(section: str, value: Any) -> Any:
    """The part of a section that no rounding can change."""
    if section.startswith("songs/"):
        return [(song["name"], song["lengths"], song["codes"]) for song in value]
    if section.endswith("tokens"):
        texts = ("id", "caption", "lyrics", "language", "caption_ids", "lyrics_ids", "num_frames")
        return {
            split: (part["ids"], [part["columns"][name] for name in texts]) for split, part in value["columns"].items()
        }
    if section == "prepared":
        return value["clips"], value["refused"]
    return value if section in ("doctor", "kept_prepared") else None


@pytest.mark.parametrize("section", SECTIONS)
def test_it_is_as_recorded(found: dict[str, Any], is_same_platform: bool, section: str) -> None:
    now, recorded = found[section], RECORD[section]
    assert "error" not in now, now["error"]
    if is_same_platform:
        different = differences(now, recorded)
        assert not different, "\n".join(different[:20])
    elif section.startswith(("runs/", "resumed/")):
        for (step, values), (step_then, then) in zip(losses(now["metrics"]), losses(recorded["metrics"]), strict=True):
            assert step == step_then and values == pytest.approx(then, rel=TOLERANCE), step
    else:
        assert portable(section, now) == portable(section, recorded)


@pytest.mark.parametrize("name", KEPT_RUNS)
def test_a_kept_checkpoint_goes_on_exactly_as_the_run_that_was_not_interrupted(name: str) -> None:
    """What the kept checkpoint was resumed to when it was recorded; `resumed/` above compares with it."""
    straight, resumed = RECORD[f"runs/{name}"], RECORD[f"resumed/{name}"]
    after = [record for record in straight["metrics"] if record["step"] > KEPT_STEP]
    assert resumed["metrics"] == after and len(after) > KEPT_STEP
    assert resumed["weights"] == straight["weights"]


def test_the_kept_data_set_has_the_tokens_that_are_made_today(found: dict[str, Any], is_same_platform: bool) -> None:
    """An earlier version made it; reports and reasons of refusals may have changed since."""
    assert RECORD["kept_tokens"]["columns"] == RECORD["tokens"]["columns"]
    if is_same_platform:
        assert found["kept_tokens"]["columns"] == found["tokens"]["columns"]


def test_what_is_kept_is_small_and_in_version_control() -> None:
    files = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()}
    assert KEPT.is_dir() and max(files.values()) < MAX_FILE_BYTES and sum(files.values()) < MAX_BYTES
    listing = subprocess.run(
        ["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )  # 0: some are ignored, 128: this is no checkout
    assert listing.returncode != 0, listing.stdout


def test_the_platform_is_told_by_what_decides_the_bits() -> None:
    assert platform_of().keys() == RECORD["platform"].keys()
