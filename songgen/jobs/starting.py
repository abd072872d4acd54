"""Starting, stopping and removing jobs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from songgen.jobs.execution import JOB_VARIABLE, Execution, executable_command, python_module
from songgen.jobs.log import read_log
from songgen.jobs.record import LOG_FILE, STOP_FILE, JobView, create_job, read_job, read_record
from songgen.jobs.supervisor import READY
from songgen.runtime.files import write_text_atomic
from songgen.runtime.processes.signals import handling

_REASON_LINES = 5


def start_job(
    jobs_folder: Path,
    command: Sequence[str],
    *,
    title: str,
    cwd: Path,
    subject: str = "",
    environment: Mapping[str, str] | None = None,
) -> JobView:
    """Start a command that outlives this process and its terminal.

    This returns when the start is recorded, which takes a fraction of a second. Environment variables are handed over
    and not stored, since they may hold tokens.

    Args:
        jobs_folder: folder of the jobs; it is created if it does not exist.
        command: command as typed by a user, beginning with `songgen`.
        title: short description for users.
        cwd: folder in which the command runs.
        subject: folder or file that the command writes or works on; empty for none.
        environment: environment variables of the command; None for those of this process.

    Raises:
        ValueError: if it is not a command of songgen, the folder does not exist, or the job cannot be started.
    """
    executable_command(command, cwd)
    if not cwd.is_dir():
        raise ValueError(f"the command cannot run in {cwd}, which is not a folder")
    folder = create_job(jobs_folder, command, title=title, cwd=cwd.absolute(), subject=subject)
    variables = os.environ if environment is None else environment
    try:
        with open(folder / LOG_FILE, "ab") as log:
            process = subprocess.Popen(
                [*python_module("songgen.jobs.supervisor", cwd), str(folder.absolute())],
                cwd=cwd,
                # The page may be a job as well; what it starts is not a part of that.
                env={name: value for name, value in variables.items() if name != JOB_VARIABLE},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
    except (OSError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f"the job could not be started: {error}") from error
    assert process.stdout is not None
    with process.stdout:
        answer = process.stdout.read()
    # Collects the process when it ends. With a double fork, a container whose first process is this one, or one that
    # collects nothing, would fill with zombies.
    threading.Thread(target=process.wait, name="job", daemon=True).start()
    if answer != READY:
        reason = " ".join(read_log(folder, max_lines=_REASON_LINES).text.split())
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f"the job could not be started: {reason or 'its supervisor was killed'}")
    return read_job(jobs_folder, folder.name)


def run_in_foreground(
    jobs_folder: Path,
    command: Sequence[str],
    *,
    title: str,
    cwd: Path,
    subject: str = "",
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command as a job of this process, which shows what it prints and waits for its end.

    The command shares the terminal: Ctrl-C reaches it as well, and keys that a training run understands do. While it
    runs, this process must not look at the state of this job, which would release its lock.

    Args:
        jobs_folder: folder of the jobs; it is created if it does not exist.
        command: command as typed by a user, beginning with `songgen`, `python` or `accelerate launch`.
        title: short description for users.
        cwd: folder in which the command runs.
        subject: folder or file that the command writes or works on; empty for none.
        environment: environment variables of the command; None for those of this process.

    Returns:
        Exit code of the command; 128 plus the number of a signal that ended it.

    Raises:
        ValueError: if there is no such program.
        KeyboardInterrupt: if it was interrupted, after the end of the command.
    """
    executable_command(command, cwd)
    folder = create_job(jobs_folder, command, title=title, cwd=cwd.absolute(), subject=subject)
    variables = os.environ if environment is None else environment
    execution = Execution(folder, read_record(folder), variables, in_terminal=True, show=_show)

    def interrupt(number: int, frame: FrameType | None) -> None:
        # The first Ctrl-C is the command's, which may save. A second one ends this process first.
        if execution.request is not None:
            raise KeyboardInterrupt
        execution.note_interrupt()

    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # started with `&` by a script
    with handling({} if is_ignored else {signal.SIGINT: interrupt}):
        code = execution.run()
    if execution.request == "stop":
        raise KeyboardInterrupt
    return code


def stop_job(view: JobView, *, kill: bool = False) -> None:
    """Ask the supervisor of a job to stop its command.

    Args:
        view: the job.
        kill: whether to end it at once, without saving. Otherwise it is interrupted: a training run saves and ends, and
            other commands keep what is done.

    Raises:
        ValueError: if it does not run, or cannot be asked.
    """
    present = read_job(view.folder.parent, view.job.id)
    if not present.is_active:
        raise ValueError(f"the job {view.job.id} does not run: it is {present.state}")
    try:
        write_text_atomic(view.folder / STOP_FILE, "kill" if kill else "stop")
    except OSError as error:
        raise ValueError(f"the job {view.job.id} cannot be asked to stop: {error}") from error


def remove_job(view: JobView) -> None:
    """Remove the folder of a job with its log; what its command has written elsewhere is kept.

    Raises:
        ValueError: if it runs, or cannot be removed.
    """
    present = read_job(view.folder.parent, view.job.id)
    if present.is_active:
        raise ValueError(f"the job {view.job.id} runs; stop it first")
    try:
        shutil.rmtree(view.folder)
    except OSError as error:
        raise ValueError(f"the job {view.job.id} cannot be removed: {error}") from error


def _show(content: bytes) -> None:
    """Write to standard output; it is lost if that is closed."""
    with suppress(OSError):
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
