"""`songgen` with a slow process 1: the others wait for it in native code, where Python runs no signal handler."""

import os
import sys
import time
from typing import Any

from songgen.cli.main import main
from songgen.train.trainer import Trainer

STEP_SECONDS = 5.0
"""Seconds of a step of process 1."""


def slow_down() -> None:
    """Let each step of process 1 take a while."""
    original = Trainer.step

    def step(self: Trainer, batches: Any) -> Any:
        if os.environ.get("RANK") == "1":
            end = time.monotonic() + STEP_SECONDS
            while time.monotonic() < end:
                time.sleep(0.05)
        return original(self, batches)

    Trainer.step = step  # type: ignore[method-assign]


if __name__ == "__main__":
    slow_down()
    sys.exit(main())
