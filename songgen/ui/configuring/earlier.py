"""Earlier runs that a configuration can start from: for a new run, or for more epochs of the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from songgen.config.run_config import RunConfig
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import CHECKPOINT_NAME
from songgen.runtime.status import RUN_CONFIG_FILE
from songgen.ui.configuring.files import Start, without_defaults
from songgen.ui.training.runs import checkpoints_of, find_runs, row_of
from songgen.ui.workspace import Workspace

RAISE_STEPS = "This run was given a number of steps: raise max_steps to continue it from its last checkpoint."
RESUMES = "The run resumes from its last checkpoint, in the same folder; the schedule follows the new length."
FROM_RUN_ON_DATA = "These are the settings of the newest run on this data set, for a new run."
DATA_ALONE = "No run was trained on this data set yet, so only the data set is filled in."
"""Notices for the user."""


def run_folder(workspace: Workspace, folder: str) -> Path:
    """Return the folder of a run; of a checkpoint, that of its run.

    Raises:
        ValueError: if the folder is not one of a run.
    """
    run = workspace.existing_folder(folder, "run")
    if CHECKPOINT_NAME.fullmatch(run.name) and (run.parent / RUN_CONFIG_FILE).is_file():
        run = workspace.existing_folder(str(run.parent), "run")
    if not (run / RUN_CONFIG_FILE).is_file():
        raise ValueError(f"{folder} has no {RUN_CONFIG_FILE}: it is not the folder of a run")
    return run


def from_run(workspace: Workspace, folder: str, more_epochs: float | None = None) -> Start:
    """Return the configuration of an earlier run.

    Args:
        workspace: folders of the page.
        folder: folder of the run, or of one of its checkpoints.
        more_epochs: epochs to continue the same run for; None for a new run with the same settings.

    Raises:
        ValueError: if the folder is not one of a run, or its configuration cannot be read.
    """
    run = run_folder(workspace, folder)
    values = without_defaults(_configuration(run / RUN_CONFIG_FILE))
    if more_epochs is None:
        values.pop("resume", None)
        values["output_dir"] = workspace.new_name(Path(workspace.shown(run)).parent, run.name)
        return Start(values, Path(values["output_dir"]).name)
    if more_epochs <= 0:
        raise ValueError("more epochs: a number above 0 is expected")
    values |= {"output_dir": workspace.shown(run), "allow_config_changes": True}
    values.pop("overwrite_output_dir", None)
    values.pop("resume", None)  # "auto": the last checkpoint
    try:
        epochs = RunConfig.from_dict(values).training.num_train_epochs + more_epochs
    except ValueError as error:
        raise ValueError(f"{folder} cannot be continued: {error}") from error
    if values.get("max_steps", -1) > 0:
        return Start(values, f"{run.name}-more", notice=RAISE_STEPS)
    values["num_train_epochs"] = int(epochs) if float(epochs).is_integer() else epochs
    return Start(values, f"{run.name}-more", notice=RESUMES)


def from_data(workspace: Workspace, folder: str, more_epochs: float | None = None) -> Start:
    """Return the settings that belong to a data set: those of the newest run on it, or else the data set alone.

    Args:
        workspace: folders of the page.
        folder: tokenized data set.
        more_epochs: epochs to continue that run for; None for a new run with its settings.

    Raises:
        ValueError: if the folder is not a tokenized data set, or there is no run to continue.
    """
    data = _data_folder(workspace, folder)
    run = newest_run_on(workspace, data)
    if run is not None:
        start = from_run(workspace, workspace.shown(run), more_epochs)
        return start if more_epochs is not None else Start(start.values, start.name, notice=FROM_RUN_ON_DATA)
    if more_epochs is not None:
        raise ValueError(f"no run was trained on {folder} yet, so there is none to continue")
    shown = workspace.shown(data)
    return Start({"save_to_disk": shown, "output_dir": f"outputs/{data.name}"}, data.name, notice=DATA_ALONE)


def newest_run_on(workspace: Workspace, data: Path) -> Path | None:
    """Return the run that was trained on a data set and has changed last; None if there is none."""
    for run in find_runs(workspace):
        try:
            used = read_json_object(run / RUN_CONFIG_FILE).get("save_to_disk")
            folders = [used] if isinstance(used, str) else used or []
            if any((workspace.root / each).resolve() == data for each in folders):
                return run
        except (OSError, ValueError, TypeError):
            continue
    return None


def last_state(workspace: Workspace, *, run: str = "", data: str = "") -> dict[str, Any] | None:
    """Return what a list of runs shows of a run, with `checkpoint`: its last valid state, or None.

    Args:
        workspace: folders of the page.
        run: folder of the run, or of a checkpoint.
        data: data set whose newest run is meant, if no run is given.

    Returns:
        None if no run was trained on the data set.

    Raises:
        ValueError: if it is not the folder of a run or of a data set.
    """
    folder = run_folder(workspace, run) if run else newest_run_on(workspace, _data_folder(workspace, data))
    if folder is None:
        return None
    states = states_of(workspace, workspace.shown(folder))
    return row_of(workspace, folder) | {"checkpoint": states[0] if states else None}


def states_of(workspace: Workspace, folder: str) -> list[dict[str, Any]]:
    """Return the valid checkpoints in the output folder of a run, newest first; none if there is no such folder.

    Raises:
        ValueError: if the folder is outside of the folders of the page.
    """
    path = workspace.path(folder, "output_dir")
    return [row for row in checkpoints_of(workspace, path) if not row["problem"]] if path.is_dir() else []


def _configuration(path: Path) -> dict[str, Any]:
    """Return the configuration of a run as this version would have written it.

    Raises:
        ValueError: if it cannot be read, or a newer version wrote it.
    """
    from songgen.train.checkpoints.state import upgraded_config  # loads torch

    # The table of an adapter stays as it is: the form shows its problems, and what it lacks has the defaults.
    values = read_json_object(path)
    table = {name: values.pop(name) for name in ("lora",) if name in values}
    return upgraded_config(values, str(path)) | table


def _data_folder(workspace: Workspace, folder: str) -> Path:
    """Return the real path of a data set.

    Raises:
        ValueError: if the folder is not a tokenized data set.
    """
    data = workspace.existing_folder(folder, "data set")
    if not (data / "dataset.json").is_file():
        raise ValueError(f"{folder} is not a tokenized data set: it has no dataset.json; tokenize it first")
    return data
