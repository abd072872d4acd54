"""Writes what a run produces: gathers the weights, which the family, or the form of an adapter, then writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor

from songgen.config import RunConfig
from songgen.families.family import Family
from songgen.families.trainable import Trainable
from songgen.runtime.file_hashes import record_hashes
from songgen.runtime.processes.agreement import from_main
from songgen.runtime.tensor_files import non_finite_names
from songgen.train.checkpoints.files import RUN_CONFIG_FILE, shown
from songgen.train.checkpoints.state import TrainerState
from songgen.train.optimization.anomalies import NonFiniteError
from songgen.train.optimization.named_tensors import gather_tensors


def write_final_model(
    family: Family[Any],
    accelerator: Accelerator,
    core: nn.Module,
    trainable: Trainable,
    config: RunConfig,
    state: TrainerState,
    folder: Path,
) -> None:
    """Write what a run produces, a model or an adapter, with the run's configuration. Every process must call this.

    Args:
        family: family of the model.
        accelerator: gives the processes; the main one writes.
        core: the trained model, plain or sharded.
        trainable: which parameters were trained, and which weights are exported.
        config: resolved configuration of the run.
        state: position of the run.
        folder: folder to write to; other files in it are kept.

    Raises:
        NonFiniteError: if a weight holds NaN or infinity, on every process; nothing was written then.
    """
    main = accelerator.is_main_process
    weights = trainable.exported(core)
    # Sharded weights are gathered by all processes together, but only the main one keeps them in memory.
    if any(isinstance(tensor, DTensor) for tensor in weights.values()):
        weights = gather_tensors(weights, keep=main)
    gathered = weights
    if bad := from_main(accelerator.process_index, lambda: non_finite_names(gathered)):
        raise NonFiniteError(f"the model is not written: NaN or infinity in {shown(bad)}")
    if main and trainable.form is not None:
        trainable.form.write(folder, weights, steps=state.step, plan=state.plan)
        record_hashes(folder, trainable.form.names)
    elif main:
        family.write_model(core, weights, config, folder)
        record_hashes(folder, family.model_files.names(folder))
    if main:
        config.save(folder / RUN_CONFIG_FILE)
