"""What a start of training would do: its output folder, what is in there, and what it needs."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songgen.config.loading import load_run_config, read_config_file
from songgen.config.recipes import LAUNCHING, TRAINING, find_recipe, recipe_folder
from songgen.config.run_config import RunConfig
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.jobs.execution import python_module
from songgen.runtime.files import expand_home
from songgen.runtime.folder_lock import RUN_LOCK_FILE
from songgen.runtime.json_files import parse_json_object
from songgen.runtime.processes.launcher import LaunchOptions
from songgen.train.reporting.run_state import read_run_state
from songgen.ui.commands import command_words
from songgen.ui.configuring.files import saved_configs
from songgen.ui.folders.library import LISTED
from songgen.ui.training.runs import is_run
from songgen.ui.translation import Translator
from songgen.ui.workspace import Workspace

CHECK_SECONDS = 180.0
"""Seconds after which a check is given up: it may measure the speed of the device."""

_LAUNCH_OPTIONS = ("num_processes", "config_file", "devices", "gpu_ids")
"""Options of a launch that `songgen check` takes as well."""

WAIT_SECONDS = 5.0
"""Seconds that a check waits for another one; each that waits keeps one of the few threads of the page."""

_checking = threading.Lock()


def configurations(workspace: Workspace) -> dict[str, list[dict[str, Any]]]:
    """Return the files that can be trained with: those saved on the page, and names of shipped recipes.

    Each has a `name`, and in `missing` the folders that it needs and that are not there; those without any come first.
    """
    recipes = recipe_folder() / TRAINING
    names = (path.relative_to(recipes).as_posix() for path in recipes.rglob("*.json"))
    shipped = {name: recipes / name for name in names if not _is_part(name)}
    saved = {entry["file"]: workspace.root / entry["file"] for entry in saved_configs(workspace)}
    return {"saved": _marked(workspace, saved), "shipped": _marked(workspace, shipped)}


def _marked(workspace: Workspace, files: Mapping[str, Path]) -> list[dict[str, Any]]:
    found = [{"name": name, "missing": _missing(workspace, path)} for name, path in files.items()]
    return sorted(found, key=lambda entry: (bool(entry["missing"]), entry["name"]))


def _missing(workspace: Workspace, path: Path) -> list[str]:
    """Return the folders of model and data that a configuration names and that are not there.

    A model that may be one of a hub, `OWNER/NAME`, counts as there; a file that cannot be read has nothing missing,
    since the start says what is wrong with it.
    """
    try:
        values, _ = read_config_file(path, [])
        config = RunConfig.from_dict(values)
    except (ValueError, OSError):
        return []
    model = config.model.model_name_or_path
    is_of_hub = not model.startswith((".", "/", "~")) and model.count("/") == 1 and model.split("/")[0] not in LISTED
    needed = [*([] if is_of_hub else [model]), *config.data.dataset_folders()]
    # Not `Path.exists`, which raises for a name that is too long or in a folder that may not be entered.
    return [name for name in dict.fromkeys(needed) if not os.path.exists(workspace.root / expand_home(name))]


def _is_part(name: str) -> bool:
    """Return whether a recipe is a base of others, or one for tokenizing."""
    stem = Path(name).stem
    return stem in ("base", "data") or stem.endswith(("_base", "_data")) or stem.startswith("data_")


def launch_files() -> list[str]:
    """Return the names of the shipped launch files."""
    return sorted(path.name for path in (recipe_folder() / LAUNCHING).glob("*.yaml"))


def plan_of(workspace: Workspace, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output folder of a start, what is in it, and the clips of a step.

    Args:
        workspace: folders that may be used.
        values: options of `songgen train`.

    Raises:
        ValueError: if the options or the configuration cannot be used.
    """
    command_words("train", values, workspace)
    only = {name: values[name] for name in ("config", "keys") if values.get(name)}
    config = load_run_config(command_words("train", only, workspace)[2:], description="", warn=False)
    folder = workspace.path(config.training.output_dir, "output_dir")
    plan = {
        "output_dir": workspace.shown(folder), "suggested": _other(workspace, folder), "holds": "nothing",
        "batch": _batch(config, values),
    }  # fmt: skip
    if not folder.is_dir():
        return plan
    found = [path.name for path in folder.iterdir() if path.name != RUN_LOCK_FILE]
    if is_run(folder):
        run = read_run_state(folder)
        checkpoints = sum(name.startswith("checkpoint-") and ".tmp-" not in name for name in found)
        return plan | {
            "holds": "run",
            "state": run.state,
            "step": run.step,
            "total_steps": run.total_steps,
            "checkpoints": checkpoints,
        }
    return plan | {"holds": "other" if found else "nothing"}


def _batch(config: RunConfig, values: Mapping[str, Any]) -> dict[str, int] | None:
    """Return what a step consists of; None for batches by frames, whose number of clips differs from step to step."""
    if config.data.max_frames_per_batch is not None:
        return None
    size, accumulation = config.training.per_device_train_batch_size, config.training.gradient_accumulation_steps
    processes = _processes(values)
    return {
        "size": size, "processes": processes, "accumulation": accumulation, "clips": size * processes * accumulation,
    }  # fmt: skip


def _processes(values: Mapping[str, Any]) -> int:
    """Return the number of processes of a launch.

    Raises:
        ValueError: if the launch file cannot be read.
    """
    given, name = values.get("num_processes"), values.get("config_file")
    if isinstance(given, int) or not name:
        return max(1, given) if isinstance(given, int) else 1
    from songgen.planning.processes import launched_processes  # loads torch

    return launched_processes(LaunchOptions(config_file=find_recipe(str(name), LAUNCHING))).count


def _other(workspace: Workspace, folder: Path) -> str:
    """Return a folder next to one, with a name that nothing has."""
    number = 2
    while (other := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return workspace.shown(other)


def check_of(workspace: Workspace, values: Mapping[str, Any], texts: Translator) -> dict[str, Any]:
    """Return what `songgen check` says of a start.

    It runs as a process of its own, one at a time: the server loads no torch, and keeps no memory of a GPU.

    Raises:
        ValueError: if the configuration cannot be used, the check takes too long, or another one is running.
    """
    command_words("train", values, workspace)
    launch = {name: values[name] for name in _LAUNCH_OPTIONS if values.get(name)}
    only = {name: values[name] for name in ("config", "keys") if values.get(name)}
    options = command_words("train", launch, workspace)[2:]
    words = ["check", *options, "--json", *command_words("train", only, workspace)[2:]]
    command = [*python_module("songgen.cli.main", workspace.root), *words]
    done = _run_alone(command, workspace.root)
    output = done.stdout.decode(errors="replace")
    if done.returncode not in (EXIT_DONE, EXIT_ERROR) or not output.lstrip().startswith("{"):
        raise ValueError(_last_line(done.stderr) or "`songgen check` failed; run it in a terminal")
    report = parse_json_object(output)
    for finding in report["findings"]:
        finding["message"] = texts.message(finding["message"])
    return report


def _run_alone(command: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a check, unless another one is running.

    Raises:
        ValueError: if one is, or this one takes too long or cannot be started.
    """
    if not _checking.acquire(timeout=WAIT_SECONDS):
        raise ValueError("a check is running already; wait for it")
    try:
        return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"`songgen check` took more than {CHECK_SECONDS:g} s; run it in a terminal") from None
    except OSError as error:
        raise ValueError(f"`songgen check` could not be started: {error}") from error
    finally:
        _checking.release()


def _last_line(content: bytes) -> str:
    lines = content.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("songgen check: ").removeprefix("error: ") if lines else ""
