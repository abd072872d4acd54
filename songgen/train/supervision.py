"""Around a run, on each of its processes: files that say how it stands, and the end when another process has failed."""

from __future__ import annotations

import sys
import threading
import time
import traceback
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
from songgen.runtime.processes.group import leave_at_once
from songgen.runtime.processes.heartbeat import STARTING, Heartbeat, missing_processes, remove_heartbeats
from songgen.runtime.status import RUN_STATUS_FILE, RunStatus, State, StatusFile, new_run_id
from songgen.runtime.terminal import printable
from songgen.train.checkpoints.manager import CheckpointError
from songgen.train.optimization.anomalies import NonFiniteError

WATCH_SECONDS = 1.0
"""Between two signs of life, and two looks at whether another process has failed."""

GRACE_SECONDS = 2.0
"""Left to a process to fail by itself, and say why, after another one has."""

SETTLE_SECONDS = 1.0
"""After which a failing process looks at the others: those that failed with it have said so by then."""

AGREED_ERRORS = (NonFiniteError, CheckpointError)
"""Errors that all processes raise together, so that the main one speaks for all."""


class Supervision:
    """Says how one process of a run stands, and ends it when another one has failed.

    A process that hangs does not hear of a failure by itself: the launcher's SIGTERM only asks it to save. Entered,
    this object watches the run's status from a thread and leaves a few seconds after another process has failed.
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
            folder: of the run; it exists.
            rank: of this process.
            world_size: processes of the run.
            run_id: of this start of the run.
            status_file: name of the file that says how the run stands.
            earlier: what the file said before this start (main process), for a start that is refused changes nothing.
        """
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.run_id = run_id
        self.status = StatusFile(folder, status_file, run_id, rank)
        self.earlier = earlier
        self.total_steps: int | None = None
        self.heartbeat = Heartbeat(folder, rank)
        self._has_begun = False
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._stand_watch, name="supervision", daemon=True)

    def __enter__(self) -> Supervision:
        """Begin to watch, and to give signs of life."""
        self.heartbeat.write()
        self._failed_elsewhere()  # sees that the run has begun
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the watch."""
        self._left.set()

    def running(self, total_steps: int) -> None:
        """Say how long the run will be."""
        self.total_steps = total_steps
        if self.rank == 0:
            self._write("running")

    def done(self, step: int, *, stopped: bool) -> None:
        """Say that the run has ended well: it is finished, or was stopped and has saved."""
        self.heartbeat.remove()
        if self.rank == 0:
            self._write("stopped" if stopped else "finished", step=step, exit_code=EXIT_DONE)

    def fail(self, error: BaseException) -> int:
        """Say what failed, on which process, after which step, and which other processes are missing.

        Returns:
            the exit code for it.
        """
        error = worker_failure(error) or error
        code = exit_code_of(error)
        step = self.heartbeat.latest.step if self.trains else None
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, SystemExit):
            reason = f"it left by sys.exit({error.code!r}) before the run was done"
        if not self.trains and self._leaves_with_others(error, code, reason):
            return code
        refused = isinstance(error, ValueError) and not self.trains
        agreed = isinstance(error, AGREED_ERRORS)
        self.heartbeat.fail(reason, is_victim=is_lost_connection(error))
        if not agreed:
            when = "before its first step" if step is None else f"after step {step}"
            say(f"error: process {self.rank} of {self.world_size} failed {when}: {reason}")
            if code == EXIT_ERROR and not refused:
                traceback.print_exception(error)
        elif self.rank == 0:
            say(f"error: {error}")
        if self.rank == 0 or not agreed:
            self._write("failed", step=step, exit_code=code, reason=f"process {self.rank}: {reason}")
        if is_lost_connection(error):
            time.sleep(SETTLE_SECONDS)
            sentences = missing_processes(self.folder, self.rank, self.world_size)
            for sentence in sentences:
                say(f"error: {sentence}")
            if sentences:  # more to the point than what the library says of its connection
                self._write("failed", step=step, exit_code=code, reason="; ".join(sentences))
        return code

    @property
    def trains(self) -> bool:
        """Whether training has begun; before that, all processes check the same things and mostly fail together."""
        return self.heartbeat.latest.doing != STARTING

    def _leaves_with_others(self, error: BaseException, code: int, reason: str) -> bool:
        """Whether, before training, the failure is told already: by this process for all, or by another one."""
        if isinstance(error, ValueError) and self._main_says(reason):
            self._refuse(error, code, reason)
            return True
        cause = self._failed_elsewhere() if is_lost_connection(error) else None
        if cause is not None:
            self.heartbeat.remove()
            say(f"error: process {self.rank} of {self.world_size} leaves before its first step ({cause})")
        return cause is not None

    def _main_says(self, reason: str) -> bool:
        """Whether the main process is refused for the same reason, and so speaks for this one."""
        if self.rank == 0:
            return True
        time.sleep(SETTLE_SECONDS)
        status = self.status.read()
        if status is None:
            return False
        return status.run_id != self.run_id or status.reason == f"process 0: {reason}"  # another id: it was put back

    def _refuse(self, error: BaseException, code: int, reason: str) -> None:
        """Say why all processes are refused, before training; what the status told of training stays."""
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
        """Write the status, unless another process has said already why the run fails."""
        if status == "failed" and self._failed_elsewhere() is not None:
            return
        self.status.write(status, step=step, total_steps=self.total_steps, exit_code=exit_code, reason=reason)

    def _failed_elsewhere(self) -> str | None:
        """Why another process has failed in this run, if one has."""
        status = self.status.read()
        if status is None:
            return None
        if status.run_id != self.run_id:  # put back by the main process, or the file system is late to show ours
            return "the main process has left" if self._has_begun and self.rank != 0 else None
        self._has_begun = True
        return str(status.reason) if status.status == "failed" and status.rank != self.rank else None

    def _stand_watch(self) -> None:
        """Give signs of life, and end this process if another one has failed and this one does not end by itself."""
        while not self._left.wait(WATCH_SECONDS):
            self.heartbeat.write()
            cause = self._failed_elsewhere()
            if cause is None or self._left.wait(GRACE_SECONDS):
                continue
            beat = self.heartbeat.latest
            say(
                f"error: process {self.rank} of {self.world_size} leaves, because another one has failed "
                f"({cause}); here the last sign of life was after step {beat.step}, {beat.doing}, "
                f"{time.time() - beat.time:.1f} s ago"
            )
            leave_at_once(EXIT_LOST_PROCESS)


def begin_run(folder: Path, status_file: str) -> str:
    """Say that a run begins (main process, which holds the folder); returns the run's random name."""
    remove_heartbeats(folder)
    remove_command_files(folder)
    run_id = new_run_id()
    StatusFile(folder, status_file, run_id).begin()
    return run_id


def exit_code_of(error: BaseException) -> int:
    """The exit code of a run that ends with this error."""
    if isinstance(error, NonFiniteError):
        return EXIT_NON_FINITE
    if isinstance(error, CheckpointError):
        return EXIT_NO_CHECKPOINT
    if isinstance(error, KeyboardInterrupt):
        return EXIT_SIGNAL_BASE + 2
    return EXIT_LOST_PROCESS if isinstance(error, LoaderError) or is_lost_connection(error) else EXIT_ERROR


def say(message: str) -> None:
    """Write a line of this process, main or not."""
    print(printable(message), file=sys.stderr, flush=True)
