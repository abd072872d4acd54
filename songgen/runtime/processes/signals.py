"""Handling of stop signals in runs, ignoring them in loader workers, and the end of a process that cannot end itself.

Training records stop signals and stops at the next step boundary (`songgen.runtime.processes.commands`). Tokenizing and
preparing keep completed work and exit at once, with clean-up (`leaving_on_signals`).

Python runs a signal handler in the main thread, between two of its instructions. A main thread that is in native code
(a backward pass, a collective operation whose other end has died) runs none until that code returns: for seconds, or
for ever. So signals are also heard in a thread (`heard_at_once`), which answers the user and can end the process.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from songgen import environment
from songgen.exit_codes import EXIT_LOST_PROCESS, EXIT_SIGNAL_BASE
from songgen.runtime.folder_lock import is_alive
from songgen.runtime.terminal import say

logger = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], None]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""Signals that ask a run to stop: preemption, Ctrl-C, the signal that Slurm is often asked to send before a time limit,
and a closed terminal. Signals to a whole process group also reach loader workers, and must not end them first."""

UNHEARD_SECONDS = 3.0
"""Seconds after a signal in which the main thread must have run its handler; otherwise it waits in native code."""

LOOK_SECONDS = 0.5
"""Seconds between two checks whether the launcher is alive."""

LAUNCHER_VARIABLE = "SONGGEN_LAUNCHER_PID"
"""Environment variable with which songgen's own launcher tells its processes its number."""

_LAUNCHER_VARIABLES = (LAUNCHER_VARIABLE, "ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""Environment variables that songgen's launcher, `accelerate launch` and `torchrun` set for their processes."""

KEPT = "completed work is kept, the same command continues"
"""End of the message of a process that ends early."""

_PR_SET_PDEATHSIG = 1
"""Option of Linux' prctl(2): the signal to get when the parent process ends."""

LastWords = Callable[[int, str], None]
"""Function that records why the process ends, given its exit code and the reason."""

_LAST_WORDS: list[LastWords] = []


@contextmanager
def last_words(record: LastWords) -> Iterator[None]:
    """Call a function before `leave_at_once` ends this process, in this context."""
    _LAST_WORDS.append(record)
    try:
        yield
    finally:
        _LAST_WORDS.remove(record)


def leave_at_once(code: int, reason: str | None = None) -> None:
    """End this process without clean-up, except that its worker processes are killed.

    Args:
        code: exit code.
        reason: reason to record (`last_words`); None to record nothing.
    """
    for record in list(_LAST_WORDS) if reason is not None else ():
        with suppress(Exception):  # nothing may keep the process from ending
            record(code, str(reason))
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


@contextmanager
def handling(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Install signal handlers in this context; the earlier ones are restored at its end.

    SIGHUP stays ignored if it is, as under `nohup`. Python only allows the main thread to set handlers, so nothing is
    changed in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    previous = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        if not (number is signal.SIGHUP and is_under_nohup)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def heard_at_once(hear: Callable[[int], None]) -> Iterator[None]:
    """Call a function in another thread for each signal that has a Python handler, in this context.

    Nothing happens outside of the main thread, which alone can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def listen() -> None:
        # Python writes the number of each signal; 0, which is no signal, is written below at the end.
        while (number := os.read(reading, 1)[0]) != 0:
            hear(number)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.write(writing, b"\0")
        thread.join()
        os.close(reading)
        os.close(writing)


def _forget_pipe() -> None:
    """Let a forked process write nothing into the pipe of its parent: that would be a signal to the parent."""
    with suppress(ValueError):  # not forked from the main thread; then there is no handler either
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_pipe)


@contextmanager
def leaving_on_signals(numbers: Collection[signal.Signals] = STOP_SIGNALS) -> Iterator[None]:
    """Raise an exception in the main thread on a stop signal in this context; a second one ends the process at once.

    A main thread that waits in native code, such as for another process, cannot raise it. Then the process ends without
    clean-up; what is left is the same as after a kill, and is cleaned up by the next start.

    Args:
        numbers: signals to leave on.

    Raises:
        SystemExit: if a signal arrives; its code is 128 plus the number of the signal.
        KeyboardInterrupt: instead, if it is Ctrl-C.
    """
    received: list[int] = []
    is_handled = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        is_handled.set()
        for other in numbers:
            signal.signal(other, signal.default_int_handler if other is signal.SIGINT else signal.SIG_DFL)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_SIGNAL_BASE + number)

    def hear(number: int) -> None:
        if number in numbers and not is_handled.wait(UNHEARD_SECONDS):
            name = signal.Signals(number).name
            say(f"stopped by {name} while waiting for other processes; {KEPT}")
            leave_at_once(EXIT_SIGNAL_BASE + number, f"a signal ({name})")

    try:
        with heard_at_once(hear), handling(dict.fromkeys(numbers, leave)):
            yield
    finally:
        if received and received[0] != signal.SIGINT:
            logger.warning("stopped by %s; %s", signal.Signals(received[0]).name, KEPT)


def is_launched() -> bool:
    """Return whether a launcher has started this process."""
    return any(name in os.environ for name in _LAUNCHER_VARIABLES)


def launcher_has_ended() -> bool:
    """Return whether this process had a launcher, and that has ended."""
    if not is_launched():
        return False
    # A process gets another parent when its own ends.
    pid = os.environ.get(LAUNCHER_VARIABLE, "")
    return os.getppid() != environment.PARENT_AT_START or (pid.isdigit() and not is_alive(int(pid)))


@contextmanager
def leaving_with_launcher(what_is_kept: str = KEPT) -> Iterator[None]:
    """End this process when its launcher has ended, in this context.

    No launcher would be left to end it if another process failed, or to report how the work ends; while the processes
    look for each other, it would wait for those that will never start.

    Args:
        what_is_kept: end of the message.
    """
    if not is_launched():
        yield
        return
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(LOOK_SECONDS):
            if launcher_has_ended():
                reason = f"process {os.environ.get('RANK', '0')} exits: its launcher has ended"
                say(f"error: {reason}; {what_is_kept}")
                leave_at_once(EXIT_LOST_PROCESS, reason)

    thread = threading.Thread(target=watch, name="launcher-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()


def hear_of_parents_end(number: signal.Signals | None) -> None:
    """Ask the system for a signal when the parent process ends (None: for none), where supported."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0 if number is None else int(number))


def ignore_stop_signals() -> None:
    """Ignore stop signals in a helper process: the run decides when to end, and still needs the helper."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
