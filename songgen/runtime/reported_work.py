"""Work in phases, in one process or several, whose status and progress are recorded in a file."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from songgen.exit_codes import EXIT_SIGNAL_BASE
from songgen.runtime.private_names import is_lost_connection
from songgen.runtime.processes.agreement import from_main
from songgen.runtime.processes.group import add_to_count
from songgen.runtime.processes.signals import last_words
from songgen.runtime.status import Progress, State, StatusFile, new_run_id

WRITE_SECONDS = 1.0
"""Seconds between two writes of the progress."""


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

    def expect(self, total: int) -> None:
        """Change the total of the phase, which begins as an estimate for songs that may end early."""
        self._progress = dataclasses.replace(self._progress, total=total)

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
