"""Progress of a run in a file: what its terminal shows, for the page and other programs."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json
from songgen.runtime.records import Format
from songgen.train.reporting.milestones import Expectation

PROGRESS_FILE = "progress.json"
"""File in the output folder of a run."""

_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class NextMilestone:
    """Value that a metric reaches next."""

    metric: str
    """Metric: `loss` or `accuracy`."""
    value: float
    """The value."""
    early: float | None = None
    """Early estimate of the step; None if there is none, or it is never reached."""
    late: float | None = None
    """Late estimate of the step, likewise."""

    @classmethod
    def of(cls, expected: Expectation) -> NextMilestone:
        """Return a milestone as it is in the file."""
        early, late = (None, None) if expected.steps is None else map(finite, expected.steps)
        return cls(expected.metric, expected.value, early, late)


@dataclass(frozen=True)
class RunProgress:
    """Content of the file."""

    step: int
    """Completed optimizer steps."""
    total_steps: int
    """Optimizer steps of the whole run."""
    first_step: int
    """Completed steps when this launch began."""
    epoch: int | None
    """Epoch of the latest step, from 1; None before the first step of this launch."""
    num_epochs: float
    """Number of epochs of the whole run."""
    step_in_epoch: int | None
    """Completed steps of that epoch."""
    steps_in_epoch: int | None
    """Number of steps of that epoch."""
    steps_per_second: float
    """Mean speed since the start of this launch."""
    epochs_per_hour: float
    """The same in epochs, by the length of the current one."""
    seconds_left: float | None
    """Estimated seconds to the last step; None before there is an estimate."""
    loss: float | None
    """Training loss in the latest line of metrics; None if there is none, or it is not finite."""
    learning_rate: float | None
    """Learning rate in that line."""
    milestones: list[NextMilestone] = field(default_factory=list)
    """Next milestones."""
    time: float = field(default_factory=time.time)
    """Time of the record, in seconds since 1970."""
    schema_version: int = 1
    """Version of this record."""


_FORMAT = Format(RunProgress, 1, fix="the run writes it again", is_checked=True)


class ProgressFile:
    """File with the progress of this launch. Only the main process has it.

    The training loop does not wait for the disk: `songgen.train.supervision` calls `write` from its thread.
    """

    def __init__(self, folder: Path, snapshot: Callable[[], RunProgress | None]) -> None:
        """Write nothing yet.

        Args:
            folder: output folder of the run.
            snapshot: returns the present progress; None if there is none yet.
        """
        self._path = folder / PROGRESS_FILE
        self._snapshot = snapshot
        self._lock = threading.Lock()

    def write(self) -> None:
        """Replace the file; an error, such as a full disk, is left to others to report. Any thread may call this."""
        # Two threads at once would write the same temporary file, and the older progress could come last.
        with self._lock, suppress(OSError):
            if (progress := self._snapshot()) is not None:
                write_text_atomic(self._path, json.dumps(dataclasses.asdict(progress)) + "\n", durable=False)


def read_progress(folder: Path) -> RunProgress | None:
    """Return the progress of the run in a folder; None if there is no file that can be read."""
    try:
        return _FORMAT.read(read_json(folder / PROGRESS_FILE, max_bytes=_MAX_BYTES), PROGRESS_FILE)
    except ValueError:
        return None


def finite(value: float | None) -> float | None:
    """Return a number that JSON has; None for one that it has not."""
    return None if value is None or not math.isfinite(value) else value
