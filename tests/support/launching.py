"""Training scripts in processes of their own: a world to train in, a configuration, and the commands around them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from limits import SAFETY_SECONDS
from training_fakes import write_dataset, write_model_folder

ROOT = Path(__file__).resolve().parents[2]

Run = subprocess.Popen[str]
"""A launched script."""


def make_world(folder: Path, num_train: int = 7, num_evaluation: int = 3, **model_fields: Any) -> Path:
    """Write a tiny model (`model`) and a data set (`data`) to train it on; returns their folder."""
    write_model_folder(folder / "model", **model_fields)
    write_dataset(folder / "data", folder / "model", num_train, num_evaluation)
    return folder


def write_config(world: Path, **changes: Any) -> Path:
    """Write a small configuration beside its output folder; keywords change its keys (`output_dir` is needed)."""
    config: dict[str, Any] = {
        "model_name_or_path": str(world / "model"),
        "save_to_disk": str(world / "data"),
        "num_train_epochs": 8,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "save_steps": 500,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-4,
        "do_eval": True,
        "ddp_timeout": 60,
        "every_plot_step": None,  # drawing takes longer than such a run
    }
    path = Path(changes["output_dir"]).with_suffix(".json")
    path.write_text(json.dumps(config | changes))
    return path


def start(
    script: str, processes: int, config: Path, *arguments: str, new_session: bool = False, **environment: str
) -> Run:
    """Launch a script of `training/` under accelerate on the CPU.

    Args:
        script: file name.
        processes: how many.
        config: JSON.
        arguments: after it.
        new_session: give it a process group of its own, to which signals can be sent.
        environment: more variables.
    """
    kind = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *kind, "--num_processes", str(processes)]
    return subprocess.Popen(
        [*command, str(ROOT / "training" / script), str(config), *arguments],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)} | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=new_session,
        text=True,
    )


def finish(process: Run, returncode: int = 0) -> str:
    """Wait for a run, require its exit code, and return all it printed."""
    output, errors = process.communicate(timeout=SAFETY_SECONDS)
    assert process.returncode == returncode, f"exit code {process.returncode}\n{output}{errors}"
    return output + errors


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def wait_until(condition: Callable[[], bool], process: Run) -> None:
    """Wait for something that a run does while it is alive."""
    deadline = time.monotonic() + SAFETY_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate(timeout=SAFETY_SECONDS)
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def wait_for_steps(process: Run, folder: Path, steps: int = 1) -> None:
    """Wait until a run has logged so many lines of metrics."""
    file = folder / "metrics.jsonl"
    wait_until(lambda: file.exists() and file.read_text().count("\n") >= steps, process)


def worker(process: Run, rank: int) -> psutil.Process:
    """The process of a rank."""
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(rank))
