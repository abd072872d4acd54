"""Reports of a run: the summary at its start, the progress, and every line of metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from songgen.train.reporting.console import Console, RunSummary, TrainingProgress
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
    peak_memory: Callable[[], str] | None = None
    """Function that returns the line about memory after the first step; None to show none."""
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
        if self.trackers is not None:
            self.trackers.close()

    def start(self, first_step: int) -> None:
        """Show the summary and open trackers and progress."""
        summary = replace(self.summary, first_step=first_step)
        self.console.table("training", summary.rows())
        self.trackers = self.open_trackers(first_step or None)
        self.progress = self.console.progress(summary.total_steps, summary.num_epochs, first_step=first_step)

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
        self.trackers.log({f"train/{name}": value for name, value in metrics.items()}, step, epoch)
        self.progress.report({name: value for name, value in metrics.items() if "/" not in name})

    def evaluation(self, metrics: Mapping[str, float], step: int, epoch: float) -> None:
        """Report metrics of the held-out clips."""
        assert self.trackers is not None
        self.trackers.log({f"eval/{name}": value for name, value in metrics.items()}, step, epoch)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
        self.console.info(f"evaluation after step {step}: {shown}")

    def audio(self, name: str, waveform: NDArray[np.float32], sample_rate: int, step: int) -> Path | None:
        """Log a clip and return its file; None on other processes."""
        assert self.trackers is not None
        return self.trackers.log_audio(name, waveform, sample_rate, step)
