"""A program of two processes that join each other as tokenizing and preparing do; process 1 comes late.

Arguments: a folder, and `before` or `inside`: whether process 0 waits for process 1 while they look for each other, or
once they work.
"""

import os
import sys
import time
from pathlib import Path

from songgen.runtime.processes.peers import LostProcess
from songgen.runtime.processes.signals import leaving_on_signals
from songgen.runtime.processes.start import join_processes
from songgen.runtime.terminal import say

LATE_SECONDS = {"before": 8, "inside": 1000}
"""Seconds that process 1 is late."""


def main() -> None:
    folder, where, rank = Path(sys.argv[1]), sys.argv[2], os.environ["RANK"]

    def be_late(here: str) -> None:
        if where == here:
            (folder / f"ready-{rank}").write_text(str(os.getpid()))
            time.sleep(LATE_SECONDS[where] if rank == "1" else 0)

    with leaving_on_signals():
        be_late("before")
        with join_processes() as state:
            be_late("inside")
            state.wait_for_everyone()
            time.sleep(1000)


if __name__ == "__main__":
    try:
        main()
    except LostProcess as lost:
        say(f"error: {lost}")
        sys.exit(lost.exit_code)
