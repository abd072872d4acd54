"""A whole model out of a checkpoint: what its run would have written at that step."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from songgen.families.registry import family_of
from songgen.families.songs import Processes, training_data
from songgen.runtime.file_hashes import record_hashes
from songgen.runtime.files import new_folder, require_new
from songgen.runtime.model_folders import CHECKPOINT_NAME, model_config_file
from songgen.runtime.tensor_files import read_tensors
from songgen.train.checkpoints.files import AVERAGE_FILE, MODEL_FILE, RUN_CONFIG_FILE, shown, verify
from songgen.train.checkpoints.folders import candidates, checkpoint_folders
from songgen.train.checkpoints.state import read_saved_config, read_trainer_state

logger = logging.getLogger(__name__)


def is_whole_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint of a run without adapters, from which `export_model` writes a model."""
    is_checkpoint = CHECKPOINT_NAME.fullmatch(folder.name) is not None and (folder / MODEL_FILE).is_file()
    return is_checkpoint and model_config_file(folder) is None


def export_model(source: Path, out: Path) -> Path:
    """Write a model folder out of a checkpoint of a run without adapters.

    The run's base model and data set must be where its configuration says: the first one gives the frozen networks and
    all weights that were not trained, the second one what a run records of its data.

    Args:
        source: checkpoint, or output folder of a run, whose newest valid checkpoint is taken.
        out: new folder.

    Returns:
        The checkpoint.

    Raises:
        ValueError: if there is no valid checkpoint, the run trained an adapter, its base or data cannot be opened or
            is not what it was, or `out` exists.
    """
    require_new(out)
    checkpoint = _valid_checkpoint(source)
    if not (checkpoint / MODEL_FILE).is_file():
        raise ValueError(
            f"{checkpoint} is of an adapter run: export it with --adapter OUT, or with --merge OUT as a whole model"
        )
    config = read_saved_config(checkpoint / RUN_CONFIG_FILE)
    family = family_of(config.model.model_name_or_path, config.model.model_revision)
    core = family.open_model(config, None)
    objective = family.objective(config, core)
    data = training_data(
        config, objective, lambda songs: family.check_data(config, core, songs, objective.data_needs), Processes(0, 1)
    )
    family.prepare_model(config, core, data)
    trainable = family.choose_trained(config, core)
    plan = read_trainer_state(checkpoint).plan
    changed = [name for name, value in family.frozen_content(core, trainable).items() if plan.get(name, value) != value]
    if changed:
        raise ValueError(
            f"{config.model.model_name_or_path} is not the model that {checkpoint} was trained from ({shown(changed)} "
            "differ): restore it"
        )
    tensors = read_tensors(checkpoint / MODEL_FILE)
    if config.training.ema_decay:  # the run writes the average, too
        tensors |= read_tensors(checkpoint / AVERAGE_FILE)
    parameters = trainable.parameters(core)
    if parameters.keys() != tensors.keys():
        raise ValueError(f"{checkpoint} holds other weights than its configuration trains")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    with new_folder(out) as folder:
        family.write_model(core, trainable.exported(core), config, folder)
        record_hashes(folder, family.model_files.names(folder))
        config.save(folder / RUN_CONFIG_FILE)
    return checkpoint


def _valid_checkpoint(source: Path) -> Path:
    """Return the folder if it is a valid checkpoint, or the newest valid one in it.

    Raises:
        ValueError: if there is none.
    """
    if not source.is_dir():
        raise ValueError(f"there is no folder {source}")
    if not checkpoint_folders(source):
        try:
            verify(source, random_state_optional=True)
        except ValueError as error:
            raise ValueError(f"{source} is not a valid checkpoint: {error}") from error
        return source
    for folder, problem in candidates(source, random_state_optional=True):
        if not problem:
            return folder
        logger.warning("%s is not used: %s", folder, problem)
    raise ValueError(f"{source} has no valid checkpoint")
