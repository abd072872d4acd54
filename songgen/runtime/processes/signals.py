"""Signals that end a run: caught for a while, in one of two ways, and ignored by the processes that only help it.

Training notes them and stops at its next step boundary (`songgen.runtime.processes.commands`). Tokenizing and
preparing, which keep what is done, leave at once but in order (`leaving_on_signals`).
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from songgen.exit_codes import EXIT_SIGNAL_BASE

logger = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], None]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""Signals that ask a run to stop: a preemption, Ctrl-C, what Slurm is often asked to send ahead, a closed terminal.
Those to a whole process group reach the processes that read data too, and must not end them first."""


@contextmanager
def handling(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals for the length of the block; the earlier handlers come back at its end.

    SIGHUP stays ignored where it is: `nohup` ignores it, and so does the run under it. Python lets the main thread
    alone handle signals, so nothing is changed in another one.
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
def leaving_on_signals() -> Iterator[None]:
    """Let a signal raise in the main thread, for the length of the block; a second one ends the process at once.

    Ctrl-C is left to Python, which raises KeyboardInterrupt.

    Raises:
        SystemExit: with 128 plus the number of the signal.
    """
    caught = [number for number in STOP_SIGNALS if number is not signal.SIGINT]
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for other in caught:
            signal.signal(other, signal.SIG_DFL)
        raise SystemExit(EXIT_SIGNAL_BASE + number)

    try:
        with handling(dict.fromkeys(caught, leave)):
            yield
    finally:
        if received:
            logger.warning(
                "stopped by %s; what is done is kept, the same command continues", signal.Signals(received[0]).name
            )


def ignore_stop_signals() -> None:
    """Survive the signals that end a run, in a process that helps it: the run decides, and still needs the helper."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
