"""Case 32: trackers that are missing, fail, or find no network; the run ends well and its own metrics are complete."""

import ctypes
import json
import math
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import FORK, Hook, before_each_step, fork_run
from launching import make_world, write_config
from limits import SAFETY_SECONDS

from songgen.exit_codes import EXIT_DONE, EXIT_NON_FINITE
from songgen.train.reporting import trackers
from songgen.train.trainer import Trainer

pytestmark = pytest.mark.case(32)

STEPS = 3
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


def run(world: Path, tmp_path: Path, hook: Hook | None = None, code: int = EXIT_DONE, **changes: Any) -> str:
    """Train a few steps with both trackers, require that the run ends well, and return what it printed."""
    settings: dict[str, Any] = {"max_steps": STEPS, "report_to": ["wandb", "tensorboard"]} | changes
    config = write_config(world, output_dir=str(tmp_path / "run"), **settings)
    return fork_run(config, tmp_path / "log", hook=hook).finish(code)


def strict_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of the metrics, which must be JSON as the standard has it: without NaN or Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def require_complete(folder: Path) -> None:
    """Every step has its line, and the evaluation has one."""
    found = strict_records(folder)
    assert [record["step"] for record in found] == [*range(1, STEPS + 1), STEPS]
    assert all(record["train/loss"] > 0 for record in found[:STEPS]) and found[STEPS]["eval/loss"] > 0


def test_trackers_that_are_not_installed(world: Path, tmp_path: Path) -> None:
    def hook(rank: int) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("wandb", "tensorboard")]:
            del sys.modules[name]
        sys.modules.pop("torch.utils.tensorboard", None)
        sys.modules |= {"wandb": None, "tensorboard": None}  # type: ignore[dict-item]  # how Python knows of absence

    printed = run(world, tmp_path, hook)
    require_complete(tmp_path / "run")
    assert "pip install wandb" in printed and "pip install tensorboard" in printed and "Traceback" not in printed


class Failing:
    """A tracker whose service goes away after its first line."""

    def __init__(self, *arguments: Any) -> None:
        self.lines = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.lines += 1
        if self.lines > 1:
            raise ConnectionError("the service went away")

    def log_audio(self, *arguments: Any) -> None:
        raise AssertionError("it was switched off before")

    def close(self) -> None:
        raise AssertionError("it was switched off before")


def test_a_tracker_that_raises_is_switched_off_with_one_warning(world: Path, tmp_path: Path) -> None:
    def hook(rank: int) -> None:
        trackers.TRACKERS["wandb"] = Failing

    printed = run(world, tmp_path, hook)
    require_complete(tmp_path / "run")
    assert printed.count("wandb failed (the service went away) and is switched off") == 1
    assert list((tmp_path / "run" / "tensorboard").glob("events.*")), "the other tracker is still there"


def test_a_tracker_that_does_not_start(world: Path, tmp_path: Path) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no service")

    def hook(rank: int) -> None:
        trackers.TRACKERS["wandb"] = broken

    assert "wandb does not start (no service)" in run(world, tmp_path, hook)
    require_complete(tmp_path / "run")


def leave_the_network(rank: int = 0) -> None:
    """Move this process into a network without any interface.

    Raises:
        PermissionError: namespaces are off.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise PermissionError(ctypes.get_errno(), "unshare")


def test_no_network_at_all(world: Path, tmp_path: Path) -> None:
    def can_leave() -> None:
        leave_the_network()
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=1)
        except ConnectionRefusedError:
            os._exit(2)  # there is still an interface
        except OSError:
            os._exit(0)

    probe = FORK.Process(target=can_leave)
    probe.start()
    probe.join(SAFETY_SECONDS)
    if probe.exitcode == 1:
        pytest.skip("user namespaces are off on this machine, so no process can be cut off")
    assert probe.exitcode == 0
    printed = run(world, tmp_path, leave_the_network)
    require_complete(tmp_path / "run")
    assert "Traceback" not in printed


def test_values_that_are_not_finite_are_null_and_not_left_out(world: Path, tmp_path: Path) -> None:
    """Weights that are not finite: the steps are skipped, and the run ends when it would save them."""

    def poison(trainer: Trainer, batches: Any) -> None:
        with torch.no_grad():
            trainer.engine.parameters["decoder.lm_heads.0.weight"][0, 0] = math.nan

    def hook(rank: int) -> None:
        before_each_step(poison)

    run(world, tmp_path, hook, EXIT_NON_FINITE, non_finite="skip")
    found = strict_records(tmp_path / "run")
    assert [record["step"] for record in found] == [*range(1, STEPS + 1), STEPS]
    assert all("train/loss" in record and record["train/loss"] is None for record in found[:STEPS])
    assert "eval/loss" in found[STEPS] and found[STEPS]["eval/loss"] is None
