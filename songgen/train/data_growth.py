"""Reading the data sets again while a run trains, so that clips which were appended to them are trained on.

The run keeps the rows that it reads in its state (`TrainerState.plan`). A resumed run opens the same rows, however much
the data sets have grown since, and finishes its epoch with them; further rows are taken in at the end of an epoch only.
So a position in the data means the same clips as in an uninterrupted run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songgen.config import RunConfig
from songgen.data.curriculum.growth import KnownRows, RowHashes
from songgen.data.integrity import require_intact_data
from songgen.families.songs import Processes, TrainingData, train_split
from songgen.runtime.processes.agreement import all_succeeded, from_main
from songgen.train.checkpoints.resume import continue_curve, count_steps
from songgen.train.checkpoints.state import TrainerState

logger = logging.getLogger(__name__)

GROWTH_KEY = "data_growth"
"""Part of `TrainerState.plan`: [epoch, step, clips] of each time that more clips were taken in."""


@dataclass
class DataGrowth:
    """Reader of data sets that may grow. Every process must call its methods."""

    config: RunConfig
    """Configuration of the run."""
    processes: Processes
    """Place of this process."""
    read: Callable[[KnownRows], TrainingData]
    """Opens these rows of the data sets, and checks them against the model; raises a ValueError if they do not fit."""
    start: Callable[[TrainingData], None]
    """Prepares what is computed once for all clips."""
    _hashes: RowHashes = field(init=False)

    def __post_init__(self) -> None:
        """Read nothing yet."""
        self._hashes = RowHashes(self.config.data.dataset_folders(), train_split(self.config.data))

    def first(self, plan: Mapping[str, Any]) -> TrainingData:
        """Return the clips at the beginning of a launch: those of the checkpoint, or all for a new run.

        Args:
            plan: `TrainerState.plan` of the checkpoint; empty for a new run.

        Raises:
            ValueError: if the rows that the checkpoint knows are missing or have changed.
        """

        def find() -> dict[str, Any]:
            known = KnownRows.of_plan(plan)
            if known is None:
                return self._hashes.all_rows().to_plan()
            self._hashes.require(known)
            return known.to_plan()

        return self.read(self._from_main(find))

    def next(self, present: TrainingData, state: TrainerState) -> TrainingData | None:
        """Return the clips for the epoch that begins now, if there are more of them; None to continue with the present.

        If the data sets cannot be read, or rows have changed, the run continues with the present clips, which stay
        open, and a warning.
        """
        interval = self.config.training.reload_dataloaders_every_n_epochs
        if state.batches_in_epoch or not state.epoch or state.epoch % interval:
            return None
        known = present.known_rows
        assert known is not None

        def find() -> dict[str, Any]:
            self._hashes.require(known)
            return self._hashes.all_rows().to_plan()

        try:
            rows = self._from_main(find)
            if rows == known:
                return None
            data = self._read_everywhere(rows)
        except ValueError as error:
            logger.warning("the data sets were read again, and are not used: %s. Training continues as before", error)
            return None
        self.start(data)
        logger.info("epoch %d: %d clips now, %d before", state.epoch + 1, len(data.samples), len(present.samples))
        return data

    def _from_main(self, find: Callable[[], dict[str, Any]]) -> KnownRows:
        rows = KnownRows.of_plan(from_main(self.processes.rank, find))
        assert rows is not None
        return rows

    def _read_everywhere(self, rows: KnownRows) -> TrainingData:
        """Open the same rows on all processes.

        Raises:
            ValueError: on all processes, if one of them cannot open them, or finds others.
        """
        config, (rank, world_size) = self.config, (self.processes.rank, self.processes.world_size)
        folders, split = config.data.dataset_folders(), train_split(config.data)
        if config.data.verify_data_hashes:
            output_dir = Path(config.training.output_dir)
            require_intact_data(folders, [split], output_dir, rank=rank, world_size=world_size)
        data, problem = None, "another process could not open them"
        try:
            data = self.read(rows)
        except (ValueError, OSError) as error:
            problem = str(error)
        if not all_succeeded(data is not None):
            raise ValueError(problem)
        assert data is not None
        if not all_succeeded(data.signature == from_main(rank, lambda: data.signature)):
            raise ValueError("the processes found different clips")
        return data


def take_in(data: TrainingData, config: RunConfig, state: TrainerState) -> int:
    """Fit the state of a run to more clips, from the next step on: the curve of its learning rate and its plan.

    Returns:
        The optimizer steps of the whole run.
    """
    total_steps = count_steps(config, data.plan, state)
    state.curve = continue_curve(state, total_steps, data.plan.steps_per_epoch(0))
    entry = [state.epoch, state.step, len(data.samples)]
    growth = [*state.plan.get(GROWTH_KEY, []), entry]
    state.total_steps, state.plan = total_steps, {**state.plan, **data.signature, GROWTH_KEY: growth}
    return total_steps


def recorded_growth(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of growth in the plan of a checkpoint, which the plan of the next launch keeps."""
    return {GROWTH_KEY: plan[GROWTH_KEY]} if GROWTH_KEY in plan else {}
