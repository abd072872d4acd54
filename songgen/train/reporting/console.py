"""Console output of a run: a summary at the start, a progress bar or plain lines, and messages.

Only the main process writes. The other processes have a silent `Console`, so that no caller needs to check.
"""

import logging
import sys
import time
import warnings
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from songgen.runtime.files import append_whole
from songgen.runtime.terminal import printable

CONSOLE_FILE = "console.txt"
"""File in the output folder of a run with the messages of its main process and the lines of its progress."""

EARLY_MESSAGES = 200
"""Number of messages before the file is known that are kept for it."""

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
        self._file: Path | None = None
        self._early: deque[str] = deque(maxlen=EARLY_MESSAGES)

    def info(self, message: str) -> None:
        """Write a message, above the progress bar if there is one. Errors such as a full disk are ignored."""
        if self.enabled:
            with suppress(OSError):
                tqdm.write(printable(message), file=self.stream)
                self.stream.flush()
            self.record(message)

    def record(self, message: str) -> None:
        """Write a message to the file only."""
        if self._file is None:
            self._early.append(message)
            return
        # Opened each time: a folder that was moved away gets no more lines, and no disk is kept busy by an open file.
        with suppress(OSError):
            append_whole(self._file, f"{printable(message)}\n".encode())

    def copy_to(self, path: Path) -> None:
        """Write all messages to a file as well, from the first one on, so that others can read them."""
        if self.enabled:
            self._file = path
            while self._early:
                self.record(self._early.popleft())

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


@dataclass(frozen=True)
class EpochPlace:
    """Place of a step in its epoch."""

    epoch: int
    """Epoch, from 0."""
    step: int
    """Completed steps of the epoch."""
    steps: int
    """Number of steps of the epoch."""

    def text(self, num_epochs: float) -> str:
        """Return the place as text, given the number of epochs of the run."""
        return f"epoch {self.epoch + 1}/{num_epochs:g} ({self.step}/{self.steps})"


class TrainingProgress:
    """Progress of a run: steps, epochs, speed and latest metrics. Use it as a context manager."""

    def __init__(self, console: Console, total_steps: int, num_epochs: float, first_step: int) -> None:
        """Show the bar if the stream is interactive."""
        self._console = console
        self.total_steps = total_steps
        self.num_epochs = num_epochs
        self.first_step = first_step
        self.step = first_step
        self.place: EpochPlace | None = None
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
        self.total_steps, self.num_epochs = total_steps, num_epochs
        self._bar.total = total_steps
        self._bar.refresh()

    def advance(self, epoch: int, step_in_epoch: int, steps_in_epoch: int) -> None:
        """Count one optimizer step; nothing is read from the device.

        Args:
            epoch: epoch of the step, from 0.
            step_in_epoch: completed steps of that epoch, including this one.
            steps_in_epoch: number of steps of that epoch.
        """
        self.step += 1
        self.place = EpochPlace(epoch, step_in_epoch, steps_in_epoch)
        self._bar.set_description_str(self.place.text(self.num_epochs), refresh=False)
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
        speed = f"{self.steps_per_second:.3g} steps/s, {self.epochs_per_hour:.3g} epochs/h, {self.remaining} left"
        place = f"step {self.step}"
        if self.place is not None:
            place += f"/{self.total_steps}, {self.place.text(self.num_epochs)}"
        line = " | ".join([place, *shown, speed, *filter(None, [outlook])])
        if self._console.interactive:
            self._console.record(line)
        else:
            self._console.info(line)

    @property
    def steps_per_second(self) -> float:
        """Mean speed since the start of this process, used to estimate the remaining time."""
        return (self.step - self.first_step) / max(1e-9, time.monotonic() - self._start)

    @property
    def epochs_per_hour(self) -> float:
        """Mean speed in epochs, by the length of the current one."""
        return 0.0 if self.place is None else self.steps_per_second / self.place.steps * 3600

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to the last step, in seconds; None before a step is done."""
        return None if self.step == self.first_step else (self.total_steps - self.step) / self.steps_per_second

    @property
    def remaining(self) -> str:
        """Estimated time to the last step, as [hours:]minutes:seconds."""
        return "?" if self.seconds_left is None else str(tqdm.format_interval(self.seconds_left))

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
