"""Status files: training, tokenizing and preparing record their state and progress in the same form.

The status is `running` until the work ends by itself. Work that was killed leaves `running` behind; it is recognized by
its lock, which no process holds any more.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from songgen.exit_codes import EXIT_SIGNAL_BASE
from songgen.runtime.files import remove_file, write_text_atomic
from songgen.runtime.json_files import read_json
from songgen.runtime.private_names import is_lost_connection
from songgen.runtime.processes.agreement import from_main
from songgen.runtime.processes.group import add_to_count
from songgen.runtime.processes.signals import last_words
from songgen.runtime.records import Format

logger = logging.getLogger(__name__)

RUN_STATUS_FILE = "run_status.json"
"""Status file in the output folder of a training run."""

EVALUATION_STATUS_FILE = "evaluation_status.json"
"""Status file of a launch that only evaluates (`do_train` false); the status of training is kept."""

TOKENIZE_STATUS_FILE = "tokenize_status.json"
PREPARE_STATUS_FILE = "prepare_status.json"
"""Status file in the work folder of a data set."""

WRITE_SECONDS = 1.0
"""Seconds between two writes of the progress."""

State = Literal["running", "stopped", "finished", "failed"]


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
    schema_version: int = 1
    """Version of this record."""


_FORMAT = Format(RunStatus, 1, fix="the next start writes it again", unversioned=1)


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
    """Return the status of the work in a folder; None if there is no file, or a newer version wrote it."""
    try:
        return _FORMAT.read(read_json(folder / name), name)
    except ValueError:
        return None


def new_run_id() -> str:
    """Return a random name for a launch of some work."""
    return secrets.token_hex(8)


class ReportedWork:
    """Work in phases whose status and progress are recorded in a file. Every process enters it, the main one writes.

    Counts are sums over all processes. The end of the block is recorded as well: an error on any process as `failed`, a
    signal as `stopped`.
    """

    def __init__(self, folder: Path, name: str, rank: int = 0, *, keeps_finished: bool = True) -> None:
        """Write nothing yet.

        Args:
            folder: folder of the work; the caller holds its lock.
            name: name of the file in it.
            rank: rank of this process.
            keeps_finished: whether the file is kept when the work is finished.
        """
        self.rank = rank
        self._place = (folder, name)
        self._keeps_finished = keeps_finished
        self._progress = Progress("starting")
        self._phases = 0
        self._counts = {True: 0, False: 0}
        self._pending = {True: 0, False: 0}
        self._written_at = 0.0
        self._leaving = ExitStack()

    def __enter__(self) -> ReportedWork:
        """Record that the work begins."""
        folder, name = self._place
        self._file = StatusFile(folder, name, from_main(self.rank, new_run_id), self.rank)
        self._leaving.enter_context(last_words(self._record_exit))
        self._write("running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record how the work ended."""
        self._leaving.close()
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
        elif self.rank == 0 or number is None:  # others exit with a code after the main one recorded why
            lost = "the connection to another process was lost"
            reason = lost if is_lost_connection(error) else f"{type(error).__name__}: {error}"
            if self._file.folder.is_dir():  # work that failed before it produced anything may have removed its folder
                self._write("failed", exit_code=number, reason=reason)

    def _record_exit(self, code: int, reason: str) -> None:
        """Record why this process ends at once, without an exception."""
        if code <= EXIT_SIGNAL_BASE:
            self._write("failed", exit_code=code, reason=reason)
        elif self.rank == 0:
            self._write("stopped", exit_code=code, reason=reason)

    def begin(self, phase: str, *, total: int | None = None, unit: str = "") -> None:
        """Begin a phase. Every process must do so, with the same phase and total.

        Args:
            phase: name of the phase.
            total: total number of units, over all processes.
            unit: name of the unit that is counted.
        """
        self._phases += 1
        self._counts, self._pending = {True: 0, False: 0}, {True: 0, False: 0}
        self._progress = Progress(phase, 0, total, unit, time.time())
        if self.rank == 0:
            self._write("running")

    def advance(self, count: int, *, by_earlier_run: bool = False) -> None:
        """Count completed units of this process. The file is written at most once in `WRITE_SECONDS`.

        Args:
            count: number of units.
            by_earlier_run: whether an earlier run completed them; they do not count for the estimated time.
        """
        self._pending[by_earlier_run] += count
        if time.monotonic() - self._written_at >= WRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Share the counts since the last call with the other processes, and write the file."""
        for is_earlier, count in self._pending.items():
            # A counter in the processes' shared store: no process waits for another, unlike in a reduction.
            shared = add_to_count(f"songgen-progress-{self._phases}-{is_earlier}", count)
            self._counts[is_earlier] = self._counts[is_earlier] + count if shared is None else shared
        self._pending = {True: 0, False: 0}
        # The estimate uses the pace of this run only: units of an earlier run took no time.
        own, done = self._counts[False], sum(self._counts.values())
        elapsed, total = time.time() - self._progress.started, self._progress.total
        left = None if total is None or not own else round(max(0, total - done) * elapsed / own, 1)
        self._progress = dataclasses.replace(self._progress, done=done, seconds_left=left)
        if self.rank == 0:
            self._write("running")

    def _write(self, status: State, *, exit_code: int | None = None, reason: str | None = None) -> None:
        """Replace the status, unless a process has already recorded a failure: later errors are consequences."""
        self._written_at = time.monotonic()
        told = self._file.read()
        if told is not None and told.run_id == self._file.run_id and told.status == "failed":
            return
        self._file.write(status, exit_code=exit_code, reason=reason, progress=self._progress)


def _rounded(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
