"""A process that answers what the page asks of `songgen.ui.configuring.planner`, one question after the other."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from songgen.jobs.execution import python_module

SECONDS = 120.0
"""Time limit of an answer."""

ATTEMPTS = 2
"""Number of processes that are given a question: what ended the first one, such as an update of the program that was
replacing its files, may be over."""

ENDING_SECONDS = 10.0
"""Time limit for the end of a process that has closed its output."""

ERROR_BYTES = 4_000
"""Number of bytes at the end of the error output in which its last line is looked for."""

IDLE_SECONDS = 60.0
"""Seconds without questions after which the process ends, which frees its memory, also that on GPUs."""


class ProcessEnded(ValueError):
    """The process has ended by itself, without an answer; the message says how."""


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
        self._errors: IO[bytes] | None = None
        self._timer: threading.Timer | None = None

    def ask(self, kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request, as `songgen.ui.configuring.planner.answer` does.

        Raises:
            ValueError: if it cannot be answered, also because it takes too long or the process was killed.
        """
        if not self._lock.acquire(timeout=self._seconds):
            raise ValueError("other questions about configurations are still being answered; try again in a moment")
        try:
            if self._timer is not None:
                self._timer.cancel()
            line = self._answer_to(json.dumps([kind, dict(request)]).encode() + b"\n")
            self._timer = threading.Timer(self._idle_seconds, self.close)
            self._timer.daemon = True
            self._timer.start()
        finally:
            self._lock.release()
        answer: dict[str, Any] = json.loads(line)
        if "problem" in answer:
            raise ValueError(answer["problem"])
        return answer

    def close(self) -> None:
        """End the process; the next question starts another one."""
        with self._lock:
            self._end()

    def _answer_to(self, question: bytes) -> bytes:
        """Return the line that answers a question, from another process if the first one ends by itself.

        Raises:
            ValueError: if there is none in time, or each process has ended.
        """
        for _ in range(ATTEMPTS - 1):
            with suppress(ProcessEnded):
                return self._exchange(question)
        return self._exchange(question)

    def _exchange(self, question: bytes) -> bytes:
        """Send a question, and return the line that answers it.

        Raises:
            ProcessEnded: if the process ends by itself.
            ValueError: if there is none in time, or the process is killed.
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
            raise self._ending()
        return line

    def _ending(self) -> ValueError:
        """Return the problem of a process that has closed its output: how it ended."""
        process, errors = self._process, self._errors
        assert process is not None and errors is not None
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING_SECONDS)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - ERROR_BYTES))
        lines = errors.read().decode(errors="replace").strip().splitlines()
        self._end()
        if process.returncode == -signal.SIGKILL:  # another one would lack the same memory
            return ValueError(
                "the process that checks configurations was killed, perhaps for lack of memory; try again"
            )
        said = lines[-1] if lines else "it wrote no message"
        return ProcessEnded(f"the process that checks configurations ended with exit code {process.returncode}: {said}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._errors = tempfile.TemporaryFile()
            self._process = subprocess.Popen(
                python_module(__name__, self._folder),
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, self._errors):
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
