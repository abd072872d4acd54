"""A training script to be launched in which one process comes to harm: SONGGEN_TEST_FAULT is `KIND RANK STEP`."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from forked import before_each_step

from songgen.tasks import MIXED
from songgen.train.launch import run_training
from songgen.train.trainer import Trainer

FAULT_VARIABLE = "SONGGEN_TEST_FAULT"
FAULT_FILE = "fault.txt"
"""In the output folder: when the fault happened, in seconds since 1970."""


def _raise() -> None:
    raise RuntimeError("something unforeseen")


FAULTS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "raise": _raise,
    "exit": lambda: sys.exit(0),
    "sleep": lambda: time.sleep(1000),
}


def install(kind: str, rank: int, step: int) -> None:
    """Let the process of a rank come to harm when `step` steps lie behind."""

    def harm(trainer: Trainer, batches: Any) -> None:
        if trainer.accelerator.process_index == rank and trainer.state.step == step:
            if kind == "kill":
                trainer.heartbeat.write()  # done once a second; this fault does not wait for it
            (trainer.output_dir / FAULT_FILE).write_text(str(time.time()))
            FAULTS[kind]()

    before_each_step(harm)


if __name__ == "__main__":
    kind, rank, step = os.environ[FAULT_VARIABLE].split()
    install(kind, int(rank), int(step))
    sys.exit(run_training(sys.argv[1:], MIXED))
