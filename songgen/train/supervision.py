"""Supervision of a run on each of its processes: status and heartbeat files, and the exit when another process failed.

How a failure spreads. The process that fails writes its reason to the run's status file, unless another one was first.
The watching thread of every other process reads that file each second; it then gives its own process a short time to
fail by itself, with a message of its own, and exits the process otherwise. Each process also writes a heartbeat file: a
process that was killed, and could not report anything, is found by its old heartbeat.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from songgen.data.loader import LoaderError, worker_failure
from songgen.exit_codes import (
    EXIT_DONE,
    EXIT_ERROR,
    EXIT_LOST_PROCESS,
    EXIT_NO_CHECKPOINT,
    EXIT_NON_FINITE,
    EXIT_SIGNAL_BASE,
)
from songgen.runtime.private_names import is_lost_connection
from songgen.runtime.processes.commands import remove_command_files
from songgen.runtime.processes.heartbeat import STARTING, Heartbeat, missing_processes, remove_heartbeats
from songgen.runtime.processes.signals import leave_at_once
from songgen.runtime.status import RUN_STATUS_FILE, Diagnosis, RunStatus, State, StatusFile, new_run_id
from songgen.runtime.terminal import say
from songgen.train.checkpoints.manager import CheckpointError
from songgen.train.optimization.anomalies import NonFiniteError

WATCH_SECONDS = 1.0
"""Seconds between two heartbeats, and between two checks whether another process failed."""

GRACE_SECONDS = 2.0
"""Seconds that a process gets to fail by itself, and say why, after another process failed."""

SETTLE_SECONDS = 1.0
"""Seconds that a failing process waits before it checks the others; those that failed at the same time have reported by
then."""

AGREED_ERRORS = (NonFiniteError, CheckpointError)
"""Errors that all processes raise together, so that the main one reports for all."""


class Supervision:
    """Reports the state of one process of a run, and ends it when another process failed.

    A process that hangs does not learn of a failure by itself: the launcher's SIGTERM only asks it to save. Used as a
    context manager, this object watches the run's status from a thread and exits the process a few seconds after
    another one failed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        world_size: int,
        run_id: str,
        status_file: str = RUN_STATUS_FILE,
        earlier: RunStatus | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            folder: folder of the run; it exists.
            rank: rank of this process.
            world_size: number of processes of the run.
            run_id: name of this launch of the run.
            status_file: name of the status file.
            earlier: status before this launch (main process only). It is restored if the launch is refused.
        """
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.run_id = run_id
        self.status = StatusFile(folder, status_file, run_id, rank)
        self.earlier = earlier
        self.total_steps: int | None = None
        self.heartbeat = Heartbeat(folder, rank)
        self._writers: list[Callable[[], None]] = []
        self._has_begun = False
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._stand_watch, name="supervision", daemon=True)

    def __enter__(self) -> Supervision:
        """Start the watch and the heartbeats."""
        self.heartbeat.write()
        self._failed_elsewhere()  # notes that the run has begun
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the watch."""
        self._left.set()

    def running(self, total_steps: int) -> None:
        """Record that the run trains, and its number of steps."""
        self.total_steps = total_steps
        if self.rank == 0:
            self._write("running")

    def also_write(self, write: Callable[[], None]) -> None:
        """Call a function, which writes a small file, each time the heartbeat is written; it must not raise."""
        self._writers.append(write)

    def explain(self, diagnosis: Diagnosis) -> None:
        """Add what is known of the cause to the status of a run that this process has reported as failed."""
        status = self.status.read()
        if status is not None and self.reported:
            self.status.put(replace(status, diagnosis=diagnosis))

    def done(self, step: int, *, stopped: bool) -> None:
        """Record that the run ended without an error: it finished, or was stopped and has saved."""
        self.heartbeat.remove()
        if self.rank == 0:
            self._write("stopped" if stopped else "finished", step=step, exit_code=EXIT_DONE)

    def fail(self, error: BaseException) -> int:
        """Report what failed, on which process, after which step, and which other processes are missing.

        Returns:
            The exit code of the error.
        """
        error = worker_failure(error) or error
        code = exit_code_of(error)
        step = self.heartbeat.latest.step if self.trains else None
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            reason = f"it left by sys.exit({error.code!r}) before the run was done"
        # Before training, all processes mostly fail alike; one report is enough.
        if not self.trains and self._leaves_with_others(error, code, reason):
            return code
        refused = isinstance(error, ValueError) and not self.trains
        agreed = isinstance(error, AGREED_ERRORS)
        self.heartbeat.fail(reason, is_victim=is_lost_connection(error))
        if not agreed:
            when = "before its first step" if step is None else f"after step {step}"
            say(f"error: process {self.rank} of {self.world_size} failed {when}: {reason}")
            if code == EXIT_ERROR and not refused:
                say("".join(traceback.format_exception(error)).rstrip())
        elif self.rank == 0:
            say(f"error: {error}")
        if self.rank == 0 or not agreed:
            self._write("failed", step=step, exit_code=code, reason=f"process {self.rank}: {reason}")
        # A lost connection is a consequence: the cause is in another process. Wait until it had time to report, then
        # look for processes whose heartbeat stopped without a report (killed, out of memory).
        if is_lost_connection(error):
            time.sleep(SETTLE_SECONDS)
            sentences = missing_processes(self.folder, self.rank, self.world_size)
            for sentence in sentences:
                say(f"error: {sentence}")
            if sentences:  # more specific than the library's message about its connection
                self._write("failed", step=step, exit_code=code, reason="; ".join(sentences))
        return code

    @property
    def reported(self) -> bool:
        """Whether this process is the one whose failure is the reason in the run's status."""
        status = self.status.read()
        return status is not None and status.status == "failed" and status.rank == self.rank

    @property
    def trains(self) -> bool:
        """Whether training has begun. Before that, all processes run the same checks and mostly fail together."""
        return self.heartbeat.latest.doing != STARTING

    def _leaves_with_others(self, error: BaseException, code: int, reason: str) -> bool:
        """Return whether a failure before training is reported already: by this process for all, or by another one."""
        if isinstance(error, ValueError) and self._main_says(reason):
            self._refuse(error, code, reason)
            return True
        cause = self._failed_elsewhere() if is_lost_connection(error) else None
        if cause is not None:
            self.heartbeat.remove()
            say(f"error: process {self.rank} of {self.world_size} exits before its first step ({cause})")
        return cause is not None

    def _main_says(self, reason: str) -> bool:
        """Return whether the main process is refused for the same reason, and so reports for this one."""
        if self.rank == 0:
            return True
        time.sleep(SETTLE_SECONDS)
        status = self.status.read()
        if status is None:
            return False
        return status.run_id != self.run_id or status.reason == f"process 0: {reason}"  # another id: it was restored

    def _refuse(self, error: BaseException, code: int, reason: str) -> None:
        """Report why all processes are refused before training; an earlier status of training is restored."""
        self.heartbeat.remove()
        if self.rank != 0:
            return
        say(f"error: {error}")
        if self.earlier is None or self.earlier.step is None:
            self._write("failed", exit_code=code, reason=f"process 0: {reason}")
        else:
            self.status.put(self.earlier)

    def _write(
        self,
        status: State,
        *,
        step: int | None = None,
        exit_code: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Write the status, unless another process has already recorded why the run fails."""
        if status == "failed" and self._failed_elsewhere() is not None:
            return
        self.status.write(status, step=step, total_steps=self.total_steps, exit_code=exit_code, reason=reason)

    def _failed_elsewhere(self) -> str | None:
        """Return why another process of this run failed; None if none has."""
        status = self.status.read()
        if status is None:
            return None
        # The main process restored an earlier status, or a network file system does not show this launch's status yet.
        if status.run_id != self.run_id:
            return "the main process has left" if self._has_begun and self.rank != 0 else None
        self._has_begun = True
        return str(status.reason) if status.status == "failed" and status.rank != self.rank else None

    def _stand_watch(self) -> None:
        """Write heartbeats, and exit this process if another one failed and this one does not end by itself."""
        while not self._left.wait(WATCH_SECONDS):
            self.heartbeat.write()
            for write in self._writers:
                write()
            cause = self._failed_elsewhere()
            if cause is None or self._left.wait(GRACE_SECONDS):
                continue
            # The main thread hangs, most likely in a collective operation with the failed process. An exception here
            # would only end this thread, so the process exits without cleaning up.
            beat = self.heartbeat.latest
            say(
                f"error: process {self.rank} of {self.world_size} exits: another process failed "
                f"({cause}); the last heartbeat here was after step {beat.step}, {beat.doing}, "
                f"{time.time() - beat.time:.1f} s ago"
            )
            leave_at_once(EXIT_LOST_PROCESS)


def begin_run(folder: Path, status_file: str) -> str:
    """Record that a run begins and return its random name (main process, which holds the folder's lock)."""
    remove_heartbeats(folder)
    remove_command_files(folder)
    run_id = new_run_id()
    StatusFile(folder, status_file, run_id).begin()
    return run_id


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a run that ends with this error."""
    if isinstance(error, NonFiniteError):
        return EXIT_NON_FINITE
    if isinstance(error, CheckpointError):
        return EXIT_NO_CHECKPOINT
    if isinstance(error, KeyboardInterrupt):
        return EXIT_SIGNAL_BASE + 2
    return EXIT_LOST_PROCESS if isinstance(error, LoaderError) or is_lost_connection(error) else EXIT_ERROR
