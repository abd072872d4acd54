"""Signals that end a run, such as the SIGTERM of a preemption: it leaves in order, so that no lock stays behind."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from songgen.exit_codes import EXIT_SIGNAL_BASE

logger = logging.getLogger(__name__)

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""A preemption, a terminal that closes, and what Slurm is often asked to send ahead. Ctrl-C raises by itself."""


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Let a signal raise in the main thread, for the length of the block; a second one ends the process at once.

    A signal that is ignored (under `nohup`) stays so, and outside of the main thread nothing is changed.

    Raises:
        SystemExit: with 128 plus the number of the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handled = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    handled = {number: handler for number, handler in handled.items() if handler is not signal.SIG_IGN}

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for other in handled:
            signal.signal(other, signal.SIG_DFL)
        raise SystemExit(EXIT_SIGNAL_BASE + number)

    for number in handled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        if received:
            logger.warning(
                "stopped by %s; what is done is kept, the same command goes on", signal.Signals(received[0]).name
            )
