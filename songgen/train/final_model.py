"""Writes what a run produces, at its end or before: gathers the weights, which the family or adapter then writes."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor

from songgen.config import RunConfig
from songgen.families.family import Family
from songgen.runtime.file_hashes import record_hashes
from songgen.runtime.files import synchronize
from songgen.runtime.processes.agreement import all_succeeded, from_main
from songgen.runtime.tensor_files import non_finite_names
from songgen.train.checkpoints.files import RUN_CONFIG_FILE, shown
from songgen.train.checkpoints.state import TrainerState
from songgen.train.optimization.anomalies import NonFiniteError
from songgen.train.optimization.engine import Engine
from songgen.train.optimization.named_tensors import gather_tensors

_TEMPORARY = ".tmp-"


def write_agreed(write: Callable[[], None]) -> Exception | None:
    """Write a model by a method of `ModelWriter`; no process raises an error that the others do not know of.

    Returns:
        The reason for which it could not be written, on every process; None if it was written.
    """
    error: Exception | None = None
    try:
        write()
    except (OSError, ValueError, SafetensorError, NonFiniteError) as failure:
        error = failure  # not raised: the other processes wait in `all_succeeded`
    return None if all_succeeded(error is None) else error or RuntimeError("another process failed")


@dataclass(frozen=True)
class ModelWriter:
    """Writer of what a run produces, a model or an adapter. Every process must call its methods."""

    family: Family[Any]
    """Family of the model."""
    accelerator: Accelerator
    """Processes; the main one writes."""
    core: nn.Module
    """Trained model without wrappers, plain or sharded."""
    engine: Engine
    """Trained parameters, which may be more precise than those in the model, and which weights are exported."""
    config: RunConfig
    """Resolved configuration of the run."""
    state: TrainerState
    """Position of the run."""

    def write(self, folder: Path) -> None:
        """Write into a folder, with the run's configuration; other files in it are kept.

        Raises:
            NonFiniteError: if a weight holds NaN or infinity, on every process; nothing was written then.
        """
        main, form = self.accelerator.is_main_process, self.engine.trainable.form
        weights = self.engine.trainable.exported(self.core)
        weights |= {name: entry.detach() for name, entry in self.engine.parameters.items() if name in weights}
        # Sharded weights are gathered by all processes together, but only the main one keeps them in memory.
        if any(isinstance(tensor, DTensor) for tensor in weights.values()):
            weights = gather_tensors(weights, keep=main)
        gathered = weights
        if bad := from_main(self.accelerator.process_index, lambda: non_finite_names(gathered)):
            raise NonFiniteError(f"the model is not written: NaN or infinity in {shown(bad)}")
        if main and form is not None:
            form.write(folder, weights, steps=self.state.step, plan=self.state.plan)
            record_hashes(folder, (*form.names, *form.write_others(folder, weights)))
        elif main:
            self.family.write_model(self.core, weights, self.config, folder)
            record_hashes(folder, self.family.model_files.names(folder))
        if main:
            self.config.save(folder / RUN_CONFIG_FILE)

    def export(self, folder: Path) -> None:
        """Write into a new folder, which is complete or absent; one that exists is kept.

        Raises:
            NonFiniteError: as in `write`.
            ValueError: if the folder cannot be made, on every process.
            OSError: if it cannot be written, on the main process; nothing is left then.
        """
        temporary = folder.with_name(f"{folder.name}{_TEMPORARY}{secrets.token_hex(4)}")

        def begin() -> bool:
            if folder.exists():
                return False
            for leftover in folder.parent.glob(f"*{_TEMPORARY}*"):  # of a killed run: only one run uses this folder
                shutil.rmtree(leftover, ignore_errors=True)
            temporary.mkdir(parents=True)
            return True

        if not from_main(self.accelerator.process_index, begin):
            return
        main = self.accelerator.is_main_process
        try:
            self.write(temporary)
            if main:
                for path in (*temporary.rglob("*"), temporary):
                    synchronize(path)
                temporary.rename(folder)
                synchronize(folder.parent)
        finally:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)
