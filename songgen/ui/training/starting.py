"""What a start of training would do: its output folder, what is in there, and what it needs."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songgen.config.loading import load_run_config
from songgen.config.recipes import LAUNCHING, TRAINING, recipe_folder
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.jobs.execution import python_module
from songgen.runtime.folder_lock import RUN_LOCK_FILE
from songgen.runtime.json_files import parse_json_object
from songgen.train.reporting.run_state import read_run_state
from songgen.ui.commands import command_words
from songgen.ui.configuring.files import saved_configs
from songgen.ui.training.runs import is_run
from songgen.ui.translation import Translator
from songgen.ui.workspace import Workspace

CHECK_SECONDS = 180.0
"""Seconds after which a check is given up: it may measure the speed of the device."""

_LAUNCH_OPTIONS = ("num_processes", "config_file", "devices", "gpu_ids")
"""Options of a launch that `songgen check` takes as well."""

_checking = threading.Lock()


def configurations(workspace: Workspace) -> dict[str, list[str]]:
    """Return the files that can be trained with: those saved on the page, and names of shipped recipes."""
    recipes = recipe_folder() / TRAINING
    shipped = (path.relative_to(recipes).as_posix() for path in recipes.rglob("*.json"))
    return {
        "saved": sorted(entry["file"] for entry in saved_configs(workspace)),
        "shipped": sorted(name for name in shipped if not _is_part(name)),
    }


def _is_part(name: str) -> bool:
    """Return whether a recipe is a base of others, or one for tokenizing."""
    stem = Path(name).stem
    return stem in ("base", "data") or stem.endswith(("_base", "_data")) or stem.startswith("data_")


def launch_files() -> list[str]:
    """Return the names of the shipped launch files."""
    return sorted(path.name for path in (recipe_folder() / LAUNCHING).glob("*.yaml"))


def plan_of(workspace: Workspace, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output folder of a start, and what is in it.

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
    shown = workspace.shown(folder)
    plan: dict[str, Any] = {"output_dir": shown, "suggested": _other(workspace, folder), "holds": "nothing"}
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
        ValueError: if the configuration cannot be used, or the check takes too long.
    """
    command_words("train", values, workspace)
    launch = {name: values[name] for name in _LAUNCH_OPTIONS if values.get(name)}
    only = {name: values[name] for name in ("config", "keys") if values.get(name)}
    options = command_words("train", launch, workspace)[2:]
    words = ["check", *options, "--json", *command_words("train", only, workspace)[2:]]
    command = [*python_module("songgen.cli.main", workspace.root), *words]
    with _checking:
        try:
            done = subprocess.run(
                command, cwd=workspace.root, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"`songgen check` took more than {CHECK_SECONDS:g} s; run it in a terminal") from None
        except OSError as error:
            raise ValueError(f"`songgen check` could not be started: {error}") from error
    output = done.stdout.decode(errors="replace")
    if done.returncode not in (EXIT_DONE, EXIT_ERROR) or not output.lstrip().startswith("{"):
        raise ValueError(_last_line(done.stderr) or "`songgen check` failed; run it in a terminal")
    report = parse_json_object(output)
    for finding in report["findings"]:
        finding["message"] = texts.message(finding["message"])
    return report


def _last_line(content: bytes) -> str:
    lines = content.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("songgen check: ").removeprefix("error: ") if lines else ""
