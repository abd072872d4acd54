"""Drawing while a run trains: in a process of its own, so that training neither waits for it nor ends because of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from songgen.train.reporting.plots.pictures import INSTALL, can_draw
from songgen.train.reporting.trackers import METRICS_FILE

PACKAGE_PARENT = Path(__file__).resolve().parents[4]
"""Folder that the package is in."""

CLOSE_SECONDS = 30.0
"""Most seconds to wait for the last plots at the end of a run."""

PAUSE_SECONDS = 120.0
"""Shortest time between two drawings, of about 5 seconds each. A process with low priority still slows down training on
a CPU, where threads that share a product wait for each other (by 20 % in the demo, which drew every 5 seconds)."""

logger = logging.getLogger(__name__)


class BackgroundPlots:
    """Plots of one run, drawn from its metrics by one process at a time.

    A process and not a thread: matplotlib computes for about a second, most of it holding the interpreter's lock, in
    which the training thread could not launch its kernels.
    """

    def __init__(self, folder: Path) -> None:
        """Start nothing yet."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._is_outdated = False
        self._next_start = 0.0
        self._is_off = not can_draw()
        if self._is_off:
            logger.info("no plots: matplotlib is not installed (%s); metrics.jsonl has all numbers", INSTALL)

    def draw(self) -> None:
        """Draw the present metrics, if there are any; later if the last drawing is not done or was just begun."""
        if not (self._folder / METRICS_FILE).is_file():
            return
        self._is_outdated = True
        if self._is_idle() and time.monotonic() >= self._next_start:
            self._start()

    def close(self) -> None:
        """Finish the last plots that were asked for. It waits for at most `CLOSE_SECONDS`."""
        deadline = time.monotonic() + CLOSE_SECONDS
        self._wait(deadline)
        if self._is_outdated and self._is_idle():
            self._start()
            self._wait(deadline)
        if self._process is not None and not self._is_idle():
            logger.warning("the plots take longer than %g s and are left to their process", CLOSE_SECONDS)

    def _is_idle(self) -> bool:
        """Return whether a process can be started: none runs, and the one before did not fail."""
        if self._process is not None and self._process.poll() is not None:
            code, self._process = self._process.returncode, None
            assert self._errors is not None
            with self._errors as errors:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
            if code:
                self._switch_off(lines[-1] if lines else f"exit code {code}")
        return self._process is None and not self._is_off

    def _start(self) -> None:
        """Start the process. A failure switches plots off."""
        self._is_outdated = False
        self._next_start = time.monotonic() + PAUSE_SECONDS
        # The package is found where this process found it, and nothing in the current folder is taken for a module. One
        # thread of BLAS is enough, and a session of its own keeps the terminal's Ctrl-C away.
        paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "songgen.train.reporting.plots", str(self._folder.absolute())]
        try:
            self._errors = tempfile.TemporaryFile()
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            self._switch_off(str(error))

    def _wait(self, deadline: float) -> None:
        """Wait for the process, if there is one."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, deadline - time.monotonic()))

    def _switch_off(self, reason: str) -> None:
        self._is_off = True
        logger.warning(
            "plots cannot be drawn (%s) and are switched off; `songgen plot %s` tries again", reason, self._folder
        )
