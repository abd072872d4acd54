"""A process that answers what the page asks of `songgen.ui.configuring.planner`, one question after the other."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from songgen.jobs.execution import python_module

SECONDS = 120.0
"""Time limit of an answer."""

IDLE_SECONDS = 60.0
"""Seconds without questions after which the process ends, which frees its memory, also that on GPUs."""


class Worker:
    """The process, started when something is asked."""

    def __init__(self, folder: Path, *, seconds: float = SECONDS, idle_seconds: float = IDLE_SECONDS) -> None:
        """Start nothing yet.

        Args:
            folder: folder in which relative paths begin.
            seconds: time limit of an answer.
            idle_seconds: seconds without questions after which the process ends.
        """
        self._folder = folder
        self._seconds, self._idle_seconds = seconds, idle_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None

    def ask(self, kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request, as `songgen.ui.configuring.planner.answer` does.

        Raises:
            ValueError: if it cannot be answered, also because it takes too long or the process was killed.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            line = self._exchange(json.dumps([kind, dict(request)]).encode() + b"\n")
            self._timer = threading.Timer(self._idle_seconds, self.close)
            self._timer.daemon = True
            self._timer.start()
        answer: dict[str, Any] = json.loads(line)
        if "problem" in answer:
            raise ValueError(answer["problem"])
        return answer

    def close(self) -> None:
        """End the process; the next question starts another one."""
        with self._lock:
            self._end()

    def _exchange(self, question: bytes) -> bytes:
        """Send a question, and return the line that answers it.

        Raises:
            ValueError: if there is none in time.
        """
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        reader = threading.Thread(target=lambda: found.put(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        try:
            process.stdin.write(question)
            process.stdin.flush()
            line = found.get(timeout=self._seconds)
        except queue.Empty:
            self._end()
            raise ValueError(
                f"this takes longer than {self._seconds:g} s and was ended; `songgen check` in a terminal has no limit"
            ) from None
        except OSError:
            line = b""
        if not line:
            self._end()
            raise ValueError("the process that checks configurations was killed, perhaps for lack of memory; try again")
        return line

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                python_module(__name__, self._folder),
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def main() -> None:
    """Answer questions until there are no more; the end of the page ends the input, too."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not an answer
    from songgen.ui.configuring.planner import answer

    for line in sys.stdin.buffer:
        kind, request = json.loads(line)
        try:
            found = answer(kind, request)
        except ValueError as error:
            found = {"problem": str(error)}
        except Exception as error:  # a defect; the page stays usable
            found = {
                "problem": f"this failed ({type(error).__name__}: {error}); `songgen check` in a terminal shows more"
            }
        answers.write(json.dumps(found).encode("ascii") + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
