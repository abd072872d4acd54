"""Console output of a run: a summary at the start, a progress bar or plain lines, and messages.

Only the main process writes. The other processes have a silent `Console`, so that no caller needs to check.
"""

import logging
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from songgen.runtime.terminal import printable

SHOWN_VALUES = {
    "loss": ("loss", "{:.4f}"),
    "learning_rate": ("lr", "{:.2e}"),
    "grad_norm": ("grad", "{:.3f}"),
    "tokens_per_second": ("tok/s", "{:,.0f}"),
}
"""Metrics shown with the progress -> short name and format."""


class Console:
    """Messages, tables and progress of one process.

    Args:
        enabled: whether this process writes; True on the main process only.
        stream: stream to write to; None for standard error.
        interactive: whether a progress bar can move; None to ask the stream.
    """

    def __init__(self, *, enabled: bool = True, stream: TextIO | None = None, interactive: bool | None = None) -> None:
        """Write nothing yet."""
        self.enabled = enabled
        self.stream = stream or sys.stderr
        self.interactive = self.stream.isatty() if interactive is None else interactive

    def info(self, message: str) -> None:
        """Write a message, above the progress bar if there is one. Errors such as a full disk are ignored."""
        if self.enabled:
            with suppress(OSError):
                tqdm.write(printable(message), file=self.stream)
                self.stream.flush()

    def warn(self, message: str) -> None:
        """Write a warning."""
        self.info(f"warning: {message}")

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """Write a table of two columns with a title."""
        width = max((len(name) for name in rows), default=0)
        lines = [title, "-" * len(title), *(f"{name:<{width}}  {value}" for name, value in rows.items())]
        self.info("\n".join(lines))

    def progress(self, total_steps: int, num_epochs: float, *, first_step: int = 0) -> "TrainingProgress":
        """Start the progress of a run with `first_step` completed steps of `total_steps`."""
        return TrainingProgress(self, total_steps, num_epochs, first_step)


class TrainingProgress:
    """Progress of a run: steps, epochs, speed and latest metrics. Use it as a context manager."""

    def __init__(self, console: Console, total_steps: int, num_epochs: float, first_step: int) -> None:
        """Show the bar if the stream is interactive."""
        self._console = console
        self._total_steps = total_steps
        self._num_epochs = num_epochs
        self._first_step = first_step
        self._step = first_step
        self._place = ""
        self._epochs_per_step = 0.0
        self._start = time.monotonic()
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            file=console.stream,
            disable=not (console.enabled and console.interactive),
            dynamic_ncols=True,
            smoothing=0,
            unit="step",
        )

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar and leave it visible."""
        self.close()

    def plan(self, total_steps: int, num_epochs: float) -> None:
        """Replace the number of steps and epochs of the run."""
        self._total_steps, self._num_epochs = total_steps, num_epochs
        self._bar.total = total_steps
        self._bar.refresh()

    def advance(self, epoch: int, step_in_epoch: int, steps_in_epoch: int) -> None:
        """Count one optimizer step; nothing is read from the device.

        Args:
            epoch: epoch of the step, from 0.
            step_in_epoch: completed steps of that epoch, including this one.
            steps_in_epoch: number of steps of that epoch.
        """
        self._step += 1
        self._place = f"epoch {epoch + 1}/{self._num_epochs:g} ({step_in_epoch}/{steps_in_epoch})"
        self._epochs_per_step = 1 / steps_in_epoch
        self._bar.set_description_str(self._place, refresh=False)
        self._bar.update()

    def report(self, values: Mapping[str, float], outlook: str = "") -> None:
        """Show metrics next to the bar, or on a line of their own.

        Args:
            values: metrics; names may have a prefix (`train/loss`).
            outlook: what comes next, shown after them.
        """
        by_name = {name.rpartition("/")[2]: value for name, value in values.items()}
        shown = [
            f"{label} {form.format(by_name[name])}" for name, (label, form) in SHOWN_VALUES.items() if name in by_name
        ]
        if self._console.interactive:
            speed = f"{self.epochs_per_hour:.3g} epochs/h"
            self._bar.set_postfix_str(", ".join([*shown, speed, *filter(None, [outlook])]))
            return
        speed = f"{self.steps_per_second:.3g} steps/s, {self.epochs_per_hour:.3g} epochs/h, {self.remaining} left"
        place = f"step {self._step}/{self._total_steps}, {self._place}" if self._place else f"step {self._step}"
        self._console.info(" | ".join([place, *shown, speed, *filter(None, [outlook])]))

    @property
    def steps_per_second(self) -> float:
        """Mean speed since the start of this process, used to estimate the remaining time."""
        return (self._step - self._first_step) / max(1e-9, time.monotonic() - self._start)

    @property
    def epochs_per_hour(self) -> float:
        """Mean speed in epochs, by the length of the current one."""
        return self.steps_per_second * self._epochs_per_step * 3600

    @property
    def remaining(self) -> str:
        """Estimated time to the last step, as [hours:]minutes:seconds."""
        if self._step == self._first_step:
            return "?"
        return str(tqdm.format_interval((self._total_steps - self._step) / self.steps_per_second))

    def close(self) -> None:
        """Close the bar and leave it visible."""
        self._bar.close()


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run, for the table at its start."""

    model: str
    """Source and kind of the model."""
    trained_parameters: int
    """Number of trained parameters."""
    frozen_parameters: int
    """Number of frozen parameters."""
    num_clips: int
    """Number of songs to train on."""
    hours: float
    """Total length of the songs to train on, in hours."""
    num_evaluation_clips: int
    """Number of held-out songs."""
    micro_batch: str
    """Size of a micro-batch, such as "4 clips" or "6,000 frames"."""
    world_size: int
    """Number of processes."""
    accumulation: int
    """Number of micro-batches of a process in a step."""
    device: str
    """Device of each process."""
    precision: str
    """Precision of the computation."""
    total_steps: int
    """Number of optimizer steps of the whole run."""
    num_epochs: float
    """Number of epochs of the whole run."""
    first_step: int = 0
    """Completed steps when the run is resumed."""

    def rows(self) -> dict[str, str]:
        """Return the rows of the table."""
        total = self.trained_parameters + self.frozen_parameters
        share = self.trained_parameters / total if total else 0.0
        rows = {
            "model": self.model,
            "parameters": f"{self.trained_parameters:,} trained ({share:.1%}), {self.frozen_parameters:,} frozen",
            "training data": f"{self.num_clips:,} songs, {self.hours:.2f} h",
            "evaluation data": f"{self.num_evaluation_clips:,} songs" if self.num_evaluation_clips else "none",
            "batch": f"{self.micro_batch} x {self.accumulation} accumulated x {self.world_size} processes",
            "device": f"{self.device}, {self.precision}",
            "steps": f"{self.total_steps:,} in {self.num_epochs:g} epochs",
        }
        if self.first_step:
            rows["resumed"] = f"after step {self.first_step:,}"
        return rows


class ConsoleHandler(logging.Handler):
    """Logging handler that writes to a console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        message = self.format(record)
        if record.levelno >= logging.WARNING:
            self._console.warn(message)
        else:
            self._console.info(message)


def route_warnings(console: Console) -> None:
    """Send Python's warnings to the console, each text once: some libraries issue theirs at every call."""
    shown: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = f"{message} ({category.__name__}, {filename}:{lineno})"
        if text not in shown:
            shown.add(text)
            console.warn(text)

    warnings.showwarning = show
    warnings.simplefilter("default", UserWarning)


def route_logging(console: Console, name: str = "songgen", level: int = logging.INFO) -> None:
    """Send the package's log messages to the console, replacing an earlier console."""
    logger = logging.getLogger(name)
    logger.handlers = [each for each in logger.handlers if not isinstance(each, ConsoleHandler)]
    logger.addHandler(ConsoleHandler(console))
    logger.setLevel(level)
