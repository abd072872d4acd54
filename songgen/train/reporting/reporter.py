"""Reports of a run: the summary at its start, the progress, and every line of metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from songgen.train.reporting.console import Console, RunSummary, TrainingProgress
from songgen.train.reporting.milestones import LOSS_METRICS, Expectation, Milestones, describe
from songgen.train.reporting.plots.background import BackgroundPlots
from songgen.train.reporting.progress_file import NextMilestone, ProgressFile, RunProgress, finite
from songgen.train.reporting.trackers import Trackers


@dataclass
class Reporter:
    """Console and trackers of one process; both are silent on all but the main one."""

    console: Console
    """Console for messages and progress."""
    summary: RunSummary
    """Summary shown at the start."""
    open_trackers: Callable[[int | None], Trackers]
    """Function that opens the trackers, given the step that the run resumes from (None for a new run)."""
    milestones: Milestones = field(default_factory=Milestones)
    """Milestones of the run."""
    plots: BackgroundPlots | None = None
    """Plots of the run; None for none, and on all but the main process."""
    peak_memory: Callable[[], str] | None = None
    """Function that returns the line about memory after the first step; None to show none."""
    progress_file: ProgressFile | None = None
    """File with the progress, for other programs; None for none, and on all but the main process."""
    expected: list[Expectation] = field(default_factory=list, init=False)
    """Next milestones."""
    latest: Mapping[str, float] = field(default_factory=dict, init=False)
    """Latest metrics of training."""
    next_milestone: str = field(default="", init=False)
    """Next milestones and when they are expected; empty if there are none."""
    trackers: Trackers | None = field(default=None, init=False)
    """Trackers, open from `start` to the end of the context."""
    progress: TrainingProgress | None = field(default=None, init=False)
    """Progress, open from `start` to the end of the context."""

    def __enter__(self) -> Reporter:
        """Open nothing before `start`: a run that cannot start leaves no trace in a tracker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is open."""
        if self.progress is not None:
            self.progress.close()
        if self.progress_file is not None:
            self.progress_file.write()
        if self.trackers is not None:
            self.trackers.close()
        if self.plots is not None and error is None:
            self.plots.close()

    def start(self, first_step: int) -> None:
        """Show the summary and open trackers and progress."""
        summary = replace(self.summary, first_step=first_step)
        self.console.table("training", summary.rows())
        self.trackers = self.open_trackers(first_step or None)
        self.progress = self.console.progress(summary.total_steps, summary.num_epochs, first_step=first_step)
        if first_step and self.console.enabled:
            self.milestones.read(self.trackers.folder)

    def plan(self, total_steps: int, num_epochs: float) -> None:
        """Replace the number of steps and epochs of the run."""
        assert self.progress is not None
        self.progress.plan(total_steps, round(num_epochs, 2))

    def advance(self, epoch: int, step_in_epoch: int, steps_in_epoch: int) -> None:
        """Show that a step of an epoch (from 0) is completed, the `step_in_epoch`-th of `steps_in_epoch`."""
        assert self.progress is not None
        self.progress.advance(epoch, step_in_epoch, steps_in_epoch)
        if self.peak_memory is not None:
            self.console.info(self.peak_memory())
            self.peak_memory = None

    def training(self, metrics: Mapping[str, float], step: int, epoch: float) -> None:
        """Report metrics of the latest steps."""
        assert self.progress is not None and self.trackers is not None
        named = {f"train/{name}": value for name, value in metrics.items()}
        self.trackers.log(named, step, epoch)
        self.milestones.add(named, step)
        self.latest, self.expected = named, self.milestones.expected()
        self.next_milestone = describe(self.expected, self.progress.total_steps, self.progress.steps_per_second)
        self.progress.report({name: value for name, value in metrics.items() if "/" not in name}, self.next_milestone)

    def snapshot(self) -> RunProgress | None:
        """Return the present progress, for its file; None before the start. Any thread may call this."""
        if (progress := self.progress) is None:
            return None
        place, latest = progress.place, self.latest
        return RunProgress(
            step=progress.step,
            total_steps=progress.total_steps,
            first_step=progress.first_step,
            epoch=None if place is None else place.epoch + 1,
            num_epochs=progress.num_epochs,
            step_in_epoch=None if place is None else place.step,
            steps_in_epoch=None if place is None else place.steps,
            steps_per_second=progress.steps_per_second,
            epochs_per_hour=progress.epochs_per_hour,
            seconds_left=progress.seconds_left,
            loss=finite(next((latest[name] for name in LOSS_METRICS if name in latest), None)),
            learning_rate=finite(latest.get("train/learning_rate")),
            milestones=[NextMilestone.of(each) for each in self.expected],
        )

    def evaluation(self, metrics: Mapping[str, float], step: int, epoch: float) -> None:
        """Report metrics of the held-out clips."""
        assert self.trackers is not None
        named = {f"eval/{name}": value for name, value in metrics.items()}
        self.trackers.log(named, step, epoch)
        self.milestones.add(named, step)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
        self.console.info(f"evaluation after step {step}: {shown}")

    def samples(self, metrics: Mapping[str, float], step: int, epoch: float) -> None:
        """Report metrics of songs that were sampled outside of an evaluation."""
        assert self.trackers is not None
        if metrics:
            self.trackers.log({f"sample/{name}": value for name, value in metrics.items()}, step, epoch)

    def plot(self) -> None:
        """Draw the metrics so far, if plots are drawn."""
        if self.plots is not None:
            self.plots.draw()

    def audio(self, name: str, waveform: NDArray[np.float32], sample_rate: int, step: int) -> Path | None:
        """Log a clip and return its file; None on other processes."""
        assert self.trackers is not None
        return self.trackers.log_audio(name, waveform, sample_rate, step)
