"""Writes the final model of a run: gathers the weights, which the family then writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor

from songgen.config import RunConfig
from songgen.families.family import Family
from songgen.families.trainable import Trainable
from songgen.train.checkpoints.files import RUN_CONFIG_FILE
from songgen.train.optimization.named_tensors import gather_tensors


def write_final_model(
    family: Family[Any],
    accelerator: Accelerator,
    core: nn.Module,
    trainable: Trainable,
    config: RunConfig,
    folder: Path,
) -> None:
    """Write a model that the next run can start from, with the run's configuration. Every process must call this.

    Args:
        family: family of the model.
        accelerator: gives the processes; the main one writes.
        core: the trained model, plain or sharded.
        trainable: which parameters were trained, and which weights are exported.
        config: resolved configuration of the run.
        folder: folder to write to; other files in it are kept.
    """
    main = accelerator.is_main_process
    weights = trainable.exported(core)
    # Sharded weights are gathered by all processes together, but only the main one keeps them in memory.
    if any(isinstance(tensor, DTensor) for tensor in weights.values()):
        weights = gather_tensors(weights, keep=main)
    if main:
        family.write_model(core, weights, config, folder)
        config.save(folder / RUN_CONFIG_FILE)
