"""Work that commands ask for, and that no interval makes due: songs and exports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from songgen.runtime.control.commands import Action, Command
from songgen.runtime.processes.agreement import all_succeeded
from songgen.runtime.processes.commands import Interrupted
from songgen.runtime.processes.heartbeat import Heartbeat
from songgen.train.control.control import RunControl
from songgen.train.final_model import ModelWriter, write_agreed
from songgen.train.optimization.ema import MovingAverage, averaged_weights
from songgen.train.reporting.trackers import samples_folder

EXPORTS_FOLDER = "exports"
"""Folder for the models of single steps in the output folder of a run."""


@dataclass(frozen=True)
class OwedWork:
    """Songs and exports of a run. Every process does them together."""

    control: RunControl
    """Commands of the run."""
    writer: ModelWriter
    """Writer of the model, with the model itself."""
    average: MovingAverage | None
    """Moving average of the weights; None if none is kept."""
    heartbeat: Heartbeat
    """Heartbeat of this process."""

    def do(self, epoch: float) -> bool:
        """Do what commands have asked for, with the averaged weights if they are kept.

        An error does not end the run: the command is answered with it.

        Args:
            epoch: passes over the data so far.

        Returns:
            Whether all of it is done; False if a stop request has interrupted it, on every process.
        """
        for command in self.control.owed(Action.SAMPLE, Action.EXPORT):
            try:
                if command.action is Action.SAMPLE:
                    self._sample(command, epoch)
                else:
                    self._export()
            except Interrupted:
                return False
        return True

    def _sample(self, command: Command, epoch: float) -> None:
        """Sample songs from held-out clips.

        Raises:
            Interrupted: if any process was asked to stop.
        """
        control, step = self.control, self.control.state.step
        assert control.evaluator is not None
        self.heartbeat.beat("sampling songs", step)
        wanted = command.argument if isinstance(command.argument, int) else None
        metrics, error = dict[str, float](), None
        try:
            with averaged_weights(self.average):
                metrics = control.evaluator.sample(
                    self.writer.engine.model, self.writer.core, step, control.reporter, control.inbox, num_songs=wanted
                )
        except (OSError, ValueError) as failure:  # a codec that cannot be opened, on the main process
            error = failure
        if all_succeeded(error is None):
            control.reporter.samples(metrics, step, epoch)
            control.finish(Action.SAMPLE, f"songs of step {step} are in {samples_folder(control.folder, step)}")
        else:
            control.finish(Action.SAMPLE, f"failed: {error or 'another process failed'}", is_done=False)

    def _export(self) -> None:
        """Write the model of this step into a folder of its own."""
        step = self.control.state.step
        folder: Path = self.control.folder / EXPORTS_FOLDER / f"step-{step}"
        self.heartbeat.beat("writing the model", step)
        with averaged_weights(self.average):
            error = write_agreed(partial(self.writer.export, folder))
        text = f"the model of step {step} is in {folder}" if error is None else f"failed: {error}"
        self.control.finish(Action.EXPORT, text, is_done=error is None)
