"""Status files: training, tokenizing, preparing and jobs record their state and progress in the same form.

The status is `running` until the work ends by itself. Work that was killed leaves `running` behind; it is recognized by
its lock, which no process holds any more. Nothing here imports torch (`songgen.runtime.reported_work` does).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from songgen.runtime.files import remove_file, write_text_atomic
from songgen.runtime.json_files import read_json
from songgen.runtime.records import Format
from songgen.runtime.terminal import printable_lines

logger = logging.getLogger(__name__)

RUN_STATUS_FILE = "run_status.json"
"""Status file in the output folder of a training run."""

RUN_CONFIG_FILE = "training_config.json"
"""Resolved configuration in the output folder of a training run, in its checkpoints and with its final model."""

EVALUATION_STATUS_FILE = "evaluation_status.json"
"""Status file of a launch that only evaluates (`do_train` false); the status of training is kept."""

TOKENIZE_STATUS_FILE = "tokenize_status.json"
PREPARE_STATUS_FILE = "prepare_status.json"
"""Status file in the work folder of a data set."""

MAX_TIME = 253402128000.0
"""A time of the last days of the year 9999; later times have no date in some time zones."""

State = Literal["running", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Remedy:
    """Something that may keep a failure from happening again."""

    effect: str
    """What it does, or what to do if no key is to change."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """New values of keys of the configuration."""
    now: Mapping[str, Any] = field(default_factory=dict)
    """Present values of these keys."""


@dataclass(frozen=True)
class Diagnosis:
    """Known cause of a failure, and what to do about it."""

    title: str
    """What happened, in capital letters as on a terminal."""
    logs: list[str]
    """Names of files in the output folder that say more."""
    remedies: list[Remedy]
    """What to try, the most promising first."""


@dataclass(frozen=True)
class Progress:
    """Progress of the current phase of some work, over all processes."""

    phase: str
    """Name of the phase."""
    done: int = 0
    """Number of completed units, including those of an earlier run."""
    total: int | None = None
    """Total number of units; None if it is not known, or the phase has no units."""
    unit: str = ""
    """Name of the unit that is counted."""
    started: float = 0.0
    """Start of the phase, in seconds since 1970."""
    seconds_left: float | None = None
    """Estimated seconds to the end of the phase; None before there is an estimate."""

    def __str__(self) -> str:
        """Return the progress as a line of text."""
        if self.total is None:
            return self.phase
        left = "" if self.seconds_left is None else f", {_rounded(self.seconds_left)} left"
        return f"{self.phase}: {self.done:,} of {self.total:,} {self.unit}{left}"


@dataclass(frozen=True)
class RunStatus:
    """Content of a status file."""

    status: State
    """State of the work: `running` (or killed), `stopped` by a signal with everything kept, `finished`, or `failed`."""
    run_id: str
    """Random name of this launch of the work, the same for all its processes."""
    rank: int = 0
    """Rank of the process that wrote the status."""
    step: int | None = None
    """Completed optimizer steps; None while running (see the heartbeats), and for work other than training."""
    total_steps: int | None = None
    """Optimizer steps of the plan; None before they are known, and for work other than training."""
    exit_code: int | None = None
    """Exit code of the process; None while running, or if the caller decides it."""
    reason: str | None = None
    """Reason of a failure, or what stopped the work."""
    time: float = field(default_factory=time.time)
    """Time of the status, in seconds since 1970."""
    started: float | None = None
    """Start of this launch, in seconds since 1970."""
    progress: Progress | None = None
    """Progress of tokenizing or preparing; None for training."""
    diagnosis: Diagnosis | None = None
    """Known cause of a failure and what to do; None for others, and for work other than training."""
    schema_version: int = 1
    """Version of this record."""


_FORMAT = Format(RunStatus, 1, fix="the next start writes it again", unversioned=1, is_checked=True)


class StatusFile:
    """Status file of one launch of some work; every process has such an object for the same file."""

    def __init__(self, folder: Path, name: str, run_id: str, rank: int = 0) -> None:
        """Write nothing yet.

        Args:
            folder: folder of the work; it exists.
            name: name of the file in it.
            run_id: name of this launch of the work.
            rank: rank of this process.
        """
        self.folder, self.name, self.run_id, self.rank = folder, name, run_id, rank
        self.started = time.time()

    def begin(self) -> None:
        """Record that the work runs.

        Raises:
            OSError: if the folder cannot be written to; found at the start rather than after hours.
        """
        self._replace(RunStatus("running", self.run_id, self.rank, started=self.started))

    def write(
        self,
        status: State,
        *,
        step: int | None = None,
        total_steps: int | None = None,
        exit_code: int | None = None,
        reason: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Replace the status."""
        self.put(
            RunStatus(
                status, self.run_id, self.rank, step, total_steps, exit_code, reason,
                started=self.started, progress=progress,
            ),
            durable=progress is None or status != "running",
        )  # fmt: skip

    def put(self, status: RunStatus, *, durable: bool = True) -> None:
        """Replace the status by a whole record. An error, such as a full disk, is only logged.

        Args:
            status: new record.
            durable: whether to flush it to the disk.
        """
        try:
            self._replace(status, durable=durable)
        except OSError as error:  # must not hide why the work ends
            logger.warning("the status could not be written to %s: %s", self.folder / self.name, error)

    def _replace(self, status: RunStatus, *, durable: bool = True) -> None:
        text = json.dumps(dataclasses.asdict(status), indent=1) + "\n"
        write_text_atomic(self.folder / self.name, text, durable=durable)

    def read(self) -> RunStatus | None:
        """Return the status in the file, of whichever launch; None if there is none."""
        return read_run_status(self.folder, self.name)

    def remove(self) -> None:
        """Remove the file."""
        remove_file(self.folder / self.name)


def read_run_status(folder: Path, name: str = RUN_STATUS_FILE) -> RunStatus | None:
    """Return the status of the work in a folder, which may come from anyone.

    None if there is no file, it is damaged, or a newer version wrote it.
    """
    try:
        return _checked_status(folder, name)
    except ValueError:
        return None


def status_problem(folder: Path, name: str = RUN_STATUS_FILE) -> str:
    """Return why the status of the work in a folder cannot be read; empty if it can, or if there is none."""
    try:
        if os.path.lexists(folder / name):
            _checked_status(folder, name)
    except ValueError as problem:
        return str(problem)
    return ""


def _checked_status(folder: Path, name: str) -> RunStatus:
    """Return the status of the work in a folder, with the reason in lines that can be printed.

    Raises:
        ValueError: if there is none, or it does not have the form of a status.
    """
    status = _FORMAT.read(read_json(folder / name), name)
    if not all(0 <= value <= MAX_TIME for value in (status.time, status.started or 0.0)):
        raise ValueError(f"{name} has a time that is not one")
    return dataclasses.replace(status, reason=None if status.reason is None else printable_lines(status.reason))


def new_run_id() -> str:
    """Return a random name for a launch of some work."""
    return secrets.token_hex(8)


def _rounded(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
