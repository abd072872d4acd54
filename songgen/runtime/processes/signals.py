"""Handling of stop signals in runs, and ignoring them in loader workers.

Training records them and stops at the next step boundary (`songgen.runtime.processes.commands`). Tokenizing and
preparing keep completed work and exit at once, with clean-up (`leaving_on_signals`).
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
"""Signals that ask a run to stop: preemption, Ctrl-C, the signal that Slurm is often asked to send before a time limit,
and a closed terminal. Signals to a whole process group also reach loader workers, and must not end them first."""


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
def leaving_on_signals() -> Iterator[None]:
    """Raise an exception in the main thread on a stop signal in this context; a second one ends the process at once.

    Ctrl-C is left to Python, which raises KeyboardInterrupt.

    Raises:
        SystemExit: if a signal arrives; its code is 128 plus the number of the signal.
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
                "stopped by %s; completed work is kept, the same command continues", signal.Signals(received[0]).name
            )


def ignore_stop_signals() -> None:
    """Ignore stop signals in a helper process: the run decides when to end, and still needs the helper."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
