"""How a piece of work stands, in a file of its folder: training, tokenizing and preparing write the same record.

The file says `running` until the work ends by itself; work that was killed leaves that, and is known by its lock, which
nobody holds any more.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from songgen.exit_codes import EXIT_SIGNAL_BASE
from songgen.runtime.files import write_text_atomic
from songgen.runtime.processes.agreement import from_main
from songgen.runtime.processes.group import add_to_count
from songgen.runtime.records import Format

logger = logging.getLogger(__name__)

RUN_STATUS_FILE = "run_status.json"
"""In the output folder of a training run."""

EVALUATION_STATUS_FILE = "evaluation_status.json"
"""The same for a launch that only evaluates (`do_train` false): what `RUN_STATUS_FILE` says of training stays."""

TOKENIZE_STATUS_FILE = "tokenize_status.json"
PREPARE_STATUS_FILE = "prepare_status.json"
"""In the work folder of a data set."""

WRITE_SECONDS = 1.0
"""Between two states of the progress that are written."""

State = Literal["running", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Progress:
    """How far the present part of some work has come, over all of its processes."""

    phase: str
    """What is being done: name of a step."""
    done: int = 0
    """Units that are done, those that an earlier run has done included."""
    total: int | None = None
    """Units that there are; None where that is not known, or the phase is one single thing."""
    unit: str = ""
    """What is counted."""
    started: float = 0.0
    """When the phase began, in seconds since 1970."""
    seconds_left: float | None = None
    """How long the phase takes from now on at its pace so far; None before there is a pace."""

    def __str__(self) -> str:
        """Return it as a list shows it."""
        if self.total is None:
            return self.phase
        left = "" if self.seconds_left is None else f", {_rounded(self.seconds_left)} left"
        return f"{self.phase}: {self.done:,} of {self.total:,} {self.unit}{left}"


@dataclass(frozen=True)
class RunStatus:
    """The content of a status file."""

    status: State
    """`running` (or killed before it could say more), `stopped` by a signal with everything kept, `finished`, or
    `failed`."""
    run_id: str
    """Random name of this start of the work, the same for all its processes."""
    rank: int = 0
    """Process that wrote this."""
    step: int | None = None
    """Completed optimizer steps; None while running (the heartbeats say it), and for work that is not training."""
    total_steps: int | None = None
    """Optimizer steps of the plan; None before they are known, and for work that is not training."""
    exit_code: int | None = None
    """What the process ends with; None while running, or where the caller decides."""
    reason: str | None = None
    """Why it failed, or what stopped it."""
    time: float = field(default_factory=time.time)
    """When this was written, in seconds since 1970."""
    started: float | None = None
    """When this start of the work began, in seconds since 1970."""
    progress: Progress | None = None
    """How far tokenizing or preparing has come; None for training."""
    schema_version: int = 1
    """Version of this record."""


_FORMAT = Format(RunStatus, 1, fix="the next start writes it again", unversioned=1)


class StatusFile:
    """Writes the status of one start of some work; every process has one, for the same file."""

    def __init__(self, folder: Path, name: str, run_id: str, rank: int = 0) -> None:
        """Write nothing yet.

        Args:
            folder: of the work; it exists.
            name: of the file in it.
            run_id: of this start of the work.
            rank: of this process.
        """
        self.folder, self.name, self.run_id, self.rank = folder, name, run_id, rank
        self.started = time.time()

    def begin(self) -> None:
        """Say that the work runs.

        Raises:
            OSError: if the folder cannot be written to: better now than after hours.
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
        """Replace the status by a whole record; a full disk is told and ends nothing.

        Args:
            status: the record.
            durable: wait until it is on the disk.
        """
        try:
            self._replace(status, durable=durable)
        except OSError as error:  # the end of the work must not be hidden by it
            logger.warning("the status could not be written to %s: %s", self.folder / self.name, error)

    def _replace(self, status: RunStatus, *, durable: bool = True) -> None:
        text = json.dumps(dataclasses.asdict(status), indent=1) + "\n"
        write_text_atomic(self.folder / self.name, text, durable=durable)

    def read(self) -> RunStatus | None:
        """Return what the file says, whoever wrote it; None if there is none."""
        return read_run_status(self.folder, self.name)

    def remove(self) -> None:
        """Remove the file."""
        (self.folder / self.name).unlink(missing_ok=True)


def read_run_status(folder: Path, name: str = RUN_STATUS_FILE) -> RunStatus | None:
    """Return how the work in a folder stands; None if no file says so, or a newer version wrote it."""
    try:
        return _FORMAT.parse((folder / name).read_text(encoding="utf-8"), name)
    except (OSError, ValueError):
        return None


def new_run_id() -> str:
    """Return a random name for a start of some work."""
    return secrets.token_hex(8)


class ReportedWork:
    """Work in phases, whose status and progress a file tells; every process enters it, the main one writes.

    Counts are those of all processes together. How the block ends is written as well: an error on any process is
    `failed`, a signal is `stopped`.
    """

    def __init__(self, folder: Path, name: str, rank: int = 0, *, keeps_finished: bool = True) -> None:
        """Write nothing yet.

        Args:
            folder: of the work; the caller holds its lock.
            name: of the file in it.
            rank: of this process.
            keeps_finished: whether the file stays when the work is done; otherwise it is removed.
        """
        self.rank = rank
        self._place = (folder, name)
        self._keeps_finished = keeps_finished
        self._progress = Progress("starting")
        self._phases = 0
        self._counts = {True: 0, False: 0}
        self._pending = {True: 0, False: 0}
        self._written_at = 0.0

    def __enter__(self) -> ReportedWork:
        """Say that the work begins."""
        folder, name = self._place
        self._file = StatusFile(folder, name, from_main(self.rank, new_run_id), self.rank)
        self._write("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say how the work has ended."""
        if error is None:
            if self.rank == 0 and not self._keeps_finished:
                self._file.remove()
            elif self.rank == 0:
                self._write("finished", exit_code=0)
            return
        number = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else None
        if isinstance(error, KeyboardInterrupt) or (number is not None and number > EXIT_SIGNAL_BASE):
            if self.rank == 0:
                self._write("stopped", exit_code=number, reason="a signal")
        elif self.rank == 0 or number is None:  # other processes leave with a number when the main one says why
            self._write("failed", exit_code=number, reason=f"{type(error).__name__}: {error}")

    def begin(self, phase: str, *, total: int | None = None, unit: str = "") -> None:
        """Begin a phase. Every process must do so, with the same phase and total.

        Args:
            phase: what is to be done.
            total: units that there are, over all processes.
            unit: what is counted.
        """
        self._phases += 1
        self._counts, self._pending = {True: 0, False: 0}, {True: 0, False: 0}
        self._progress = Progress(phase, 0, total, unit, time.time())
        if self.rank == 0:
            self._write("running")

    def advance(self, count: int, *, by_earlier_run: bool = False) -> None:
        """Note that some more units of this process are done; written at most once in `WRITE_SECONDS`.

        Args:
            count: how many.
            by_earlier_run: whether they were found done, so that they say nothing of the pace.
        """
        self._pending[by_earlier_run] += count
        if time.monotonic() - self._written_at >= WRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Tell the others, and the file, what was done since the last time."""
        for is_earlier, count in self._pending.items():
            shared = add_to_count(f"songgen-progress-{self._phases}-{is_earlier}", count)
            self._counts[is_earlier] = self._counts[is_earlier] + count if shared is None else shared
        self._pending = {True: 0, False: 0}
        own, done = self._counts[False], sum(self._counts.values())
        elapsed, total = time.time() - self._progress.started, self._progress.total
        left = None if total is None or not own else round(max(0, total - done) * elapsed / own, 1)
        self._progress = dataclasses.replace(self._progress, done=done, seconds_left=left)
        if self.rank == 0:
            self._write("running")

    def _write(self, status: State, *, exit_code: int | None = None, reason: str | None = None) -> None:
        """Replace the status, unless a process has said already why the work fails: the rest is its consequence."""
        self._written_at = time.monotonic()
        told = self._file.read()
        if told is not None and told.run_id == self._file.run_id and told.status == "failed":
            return
        self._file.write(status, exit_code=exit_code, reason=reason, progress=self._progress)


def _rounded(seconds: float) -> str:
    """Return a time to wait as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
