"""The model that a run leaves: written by its family, from weights that are gathered here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor

from songgen.config import RunConfig
from songgen.families.family import Family
from songgen.families.trainable import Trainable
from songgen.train.checkpoints.files import CONFIG_FILE as RESOLVED_CONFIG_FILE
from songgen.train.optimization.named_tensors import gather_tensors


def write_final_model(
    family: Family[Any],
    accelerator: Accelerator,
    core: nn.Module,
    trainable: Trainable,
    config: RunConfig,
    folder: Path,
) -> None:
    """Write a model that the next run can start from, and the configuration next to it. Every process must call this.

    Args:
        family: of the model.
        accelerator: the processes; the main one writes.
        core: the trained model, plain or sharded.
        trainable: what of it was trained, and what of it is exported.
        config: resolved configuration of the run.
        folder: where to write; other files in it stay.
    """
    main = accelerator.is_main_process
    weights = trainable.exported(core)
    if any(isinstance(tensor, DTensor) for tensor in weights.values()):
        weights = gather_tensors(weights, keep=main)
    if main:
        family.write_model(core, weights, config, folder)
        config.save(folder / RESOLVED_CONFIG_FILE)
