"""Signals that ask a run to stop: noted at once, obeyed at a step boundary."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """While entered, the first stop signal sets a flag; a second one ends the process at once (code 128 + signal).

    The trainer asks for the flag at every step boundary, agrees on it with the other processes, saves, and exits
    with 0.
    """

    def __init__(self) -> None:
        """Nothing is caught before the object is entered."""
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        """Take the signals over."""
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether a stop signal has come."""
        return self.received is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Set the flag, or leave at the second signal."""
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)
