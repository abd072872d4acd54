"""Execution of the command of a job: start it, log what it prints, pass on what it is asked, record how it ended.

The command writes to the log by itself, so nothing it prints is lost when the process that watches it is killed. The
system then asks the command to stop (`end_with_parent`).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from songgen.exit_codes import EXIT_DONE, EXIT_SIGNAL_BASE
from songgen.jobs.log import read_log
from songgen.jobs.record import JOB_LOCK_FILE, JOB_STATUS_FILE, LOG_FILE, STOP_FILE, Job
from songgen.runtime.files import read_regular
from songgen.runtime.folder_lock import TOUCH_SECONDS, locked_without_thread
from songgen.runtime.processes.launcher import KILLED_ADVICE
from songgen.runtime.processes.signals import hear_of_parents_end
from songgen.runtime.status import State, StatusFile, new_run_id

LOOK_SECONDS = 0.2
"""Seconds between two looks whether the command has ended, or is to be stopped."""

LEFT_SECONDS = 600.0
"""Seconds that processes of a command get to end after it, such as those of a training run whose launcher was killed,
which save a checkpoint. They are killed then."""

JOB_VARIABLE = "SONGGEN_JOB"
"""Environment variable with the id of the job in all processes of its command: those of a training run are in sessions
of their own, and have lost their parent when a launcher was killed."""

Request = Literal["stop", "kill"]

_MAX_REQUEST_BYTES = 16
_SHOWN_BYTES = 1 << 16
_ERROR = re.compile(r"\berror: |\b\w*(Error|Exception): ", re.IGNORECASE)
_REASON_LINES = 50
_MAX_REASON = 2_000
"""Characters of a reason; what to do about an error is at its end."""
_STOPPED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def executable_command(command: Sequence[str], cwd: Path | None = None) -> list[str]:
    """Return a command with this Python, so that the virtual environment need not be activated.

    Args:
        command: command as typed by a user, which begins with `songgen`, `python` or `accelerate launch`.
        cwd: folder in which it runs; the current one if None.

    Raises:
        ValueError: if it begins with something else, or contains a character that no command may.
    """
    if any("\0" in word for word in command):
        raise ValueError("a command cannot contain the character NUL")
    if tuple(command[:1]) == ("python",):
        return [sys.executable, *command[1:]]
    if tuple(command[:1]) == ("songgen",):
        return [*python_module("songgen.cli.main", cwd), *command[1:]]
    if tuple(command[:2]) == ("accelerate", "launch"):
        return [*python_module("accelerate.commands.launch", cwd), *command[2:]]
    raise ValueError(f"not a command that a job can run: {shlex.join(command)}; it begins with `songgen`")


def python_module(module: str, cwd: Path | None = None) -> list[str]:
    """Return the command that runs a module of this Python, without a file of the folder that hides another module.

    In a checkout that is not installed, its root is where `songgen` is found, and stays on the search path.
    """
    is_checkout = (cwd or Path.cwd()).resolve() == Path(__file__).resolve().parents[2]
    return [sys.executable, *([] if is_checkout else ["-P"]), "-m", module]


class Execution:
    """Run of the command of one job by this process, which holds the lock of the job's folder for that time."""

    def __init__(
        self,
        folder: Path,
        job: Job,
        environment: Mapping[str, str],
        *,
        in_terminal: bool = False,
        show: Callable[[bytes], object] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            folder: folder of the job.
            job: what to run.
            environment: environment variables of the command.
            in_terminal: whether the command shares the terminal of this process. Then Ctrl-C reaches it by itself.
                Otherwise, it is in a process group of its own.
            show: function that gets everything the command prints.
        """
        self.request: Request | None = None  # what is asked of the command
        self._folder, self._job = folder, job
        # Python holds back what it prints into a file; the log is to have it when it is printed.
        self._environment = {**environment, JOB_VARIABLE: job.id, "PYTHONUNBUFFERED": "1"}
        self._in_terminal = in_terminal
        self._show = show
        self._has_passed_on = False
        self._touched_at = time.monotonic()

    def ask_to_stop(self) -> None:
        """Interrupt the command soon; a handler of signals may call this."""
        self.request = self.request or "stop"

    def note_interrupt(self) -> None:
        """Note that the terminal has interrupted the command; a handler of signals may call this."""
        self._has_passed_on = True
        self.ask_to_stop()

    def run(self, begun: Callable[[], object] = lambda: None) -> int:
        """Run the command to its end, and record it.

        Args:
            begun: function to call when the start is recorded.

        Returns:
            Exit code of the command; 128 plus the number of a signal that ended it.

        Raises:
            ValueError: if the folder is in use, or the command was run before.
            OSError: if the start cannot be recorded, or the command cannot be started.
        """
        # Without a thread: see `end_with_parent`.
        with locked_without_thread(self._folder, JOB_LOCK_FILE) as self._touch:
            status = StatusFile(self._folder, JOB_STATUS_FILE, new_run_id())
            if (self._folder / JOB_STATUS_FILE).exists():
                raise ValueError(f"the job {self._job.id} was run before; start its command again")
            status.begin()
            try:
                begun()
                code = self._run()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    status.write("stopped", reason="interrupted")
                else:
                    status.write("failed", reason=f"{type(error).__name__}: {error}")
                raise
            state, reason = _outcome(code, self.request, self._folder)
            status.write(state, exit_code=code, reason=reason)
        return code

    def _run(self) -> int:
        """Run the command to its end; return its exit code."""
        with open(self._folder / LOG_FILE, "ab") as log, open(self._folder / LOG_FILE, "rb") as printed:
            process = subprocess.Popen(
                executable_command(self._job.command, Path(self._job.cwd)),
                cwd=self._job.cwd,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=None if self._in_terminal else 0,
                # Between fork and exec, where threads are a danger: it calls the system and nothing of theirs.
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
            code = self._wait(process, printed)
            self._show_new(printed)
        return code if code >= 0 else EXIT_SIGNAL_BASE - code

    def _wait(self, process: subprocess.Popen[bytes], printed: BinaryIO) -> int:
        """Wait for the command and pass on what is asked of it; return its exit code, negative for a signal."""
        while process.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
            self._look(printed)
            if self.request == "kill":
                self._kill(process)
            elif self.request == "stop" and not self._has_passed_on and process.returncode is None:
                self._has_passed_on = True
                self._signal(process, signal.SIGINT)
        self._wait_for_rest(process, printed)
        return process.returncode

    def _wait_for_rest(self, process: subprocess.Popen[bytes], printed: BinaryIO) -> None:
        """Wait for what the command has started and not ended, so that a job that is over has no process any more."""
        deadline = time.monotonic() + LEFT_SECONDS
        while left := marked_processes(self._job.id):
            self._look(printed)
            if self.request == "kill" or time.monotonic() > deadline:
                self._kill(process)
            elif self.request == "stop" and not self._has_passed_on:
                self._has_passed_on = True
                _signal_all(left, signal.SIGINT)
            time.sleep(LOOK_SECONDS)

    def _look(self, printed: BinaryIO) -> None:
        """Show new output, read requests, and touch the lock."""
        self._show_new(printed)
        self._look_for_request()
        if time.monotonic() - self._touched_at >= TOUCH_SECONDS:
            self._touched_at = time.monotonic()
            self._touch()

    def _look_for_request(self) -> None:
        """Read what `stop_job` has written."""
        try:
            text = read_regular(self._folder / STOP_FILE, _MAX_REQUEST_BYTES)
        except (OSError, ValueError):  # usually because nothing was asked
            return
        if text == b"kill":
            self.request = "kill"
        self.ask_to_stop()

    def _signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Send a signal to the command, with its workers if it has a process group of its own, as Ctrl-C does."""
        if process.returncode is not None:  # its number may be that of another process by now
            return
        if self._in_terminal:
            process.send_signal(number)
        else:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the command and everything that it has started."""
        self._signal(process, signal.SIGKILL)
        _signal_all(marked_processes(self._job.id), signal.SIGKILL)

    def _show_new(self, printed: BinaryIO) -> None:
        """Show what the command has printed since the last call."""
        while self._show is not None and (content := printed.read(_SHOWN_BYTES)):
            self._show(content)


def marked_processes(job_id: str) -> set[int]:
    """Return the processes of the command of a job, also those that have lost their parent."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or it has just ended
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(JOB_VARIABLE) == job_id:
                found.add(process.pid)
    return found


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_with_parent(parent: int) -> None:
    """Ask the system to stop this process (SIGTERM) when its parent ends: a training run saves, others keep their work.

    The parent must not have threads. Linux counts the thread that started this process as its parent, and hands the
    process on to another one when that ends, with the signal each time. A training run would take the second signal for
    an order to end without saving.

    Args:
        parent: process that has started this one.
    """
    hear_of_parents_end(signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the system was asked
        os.kill(os.getpid(), signal.SIGTERM)


def _outcome(code: int, request: Request | None, folder: Path) -> tuple[State, str | None]:
    """Return how a command ended, and why.

    Args:
        code: its exit code.
        request: what was asked of it.
        folder: folder of the job.
    """
    number = code - EXIT_SIGNAL_BASE
    name = signal.Signals(number).name if number in set(signal.Signals) else None
    if request == "kill" and number == signal.SIGKILL:
        return "stopped", "killed, as was asked for"
    if request is not None and (code == EXIT_DONE or number in _STOPPED):
        return "stopped", "stopped, as was asked for"
    if code == EXIT_DONE:
        return "finished", None
    if number in _STOPPED:
        return "stopped", f"stopped by {name}"
    if name is not None:
        return "failed", f"ended by {name}{KILLED_ADVICE}"
    return "failed", _last_error(folder)


def _last_error(folder: Path) -> str | None:
    """Return the last line of the log that names an error, or else the last line; None if nothing was printed.

    A line that ends with a colon has its list of problems after it.
    """
    part = read_log(folder, max_lines=_REASON_LINES)
    lines = [line for line in (*part.text.splitlines(), part.unfinished) if line.strip()]
    errors = [number for number, line in enumerate(lines) if _ERROR.search(line)]
    if not lines:
        return None
    if errors and lines[errors[-1]].rstrip().endswith(":"):
        return _shortened("\n".join(map(str.rstrip, lines[errors[-1] :])))
    return _shortened(lines[errors[-1] if errors else -1].strip())


def _shortened(text: str) -> str:
    """Return a reason, cut between two words if it is too long."""
    if len(text) <= _MAX_REASON:
        return text
    start = text[: _MAX_REASON - 1]
    return f"{start.rsplit(maxsplit=1)[0] if ' ' in start else start}…"
