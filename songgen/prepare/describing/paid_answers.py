"""Answers of a server from batches that failed, kept so that they are not paid for twice."""

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from songgen.prepare.describing.conversation import Answer

ANSWERS_FOLDER = "answers"
"""In the work folder: one file for each process in which a batch has failed."""


class PaidAnswers:
    """The answers of the present batch and of failed batches. It is safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str, Answer] = {}
        self._of_failed: dict[str, Answer] = {}

    def read(self, work_folder: Path) -> None:
        """Read the answers that earlier runs have kept; a line that a kill has cut off is skipped."""
        for path in sorted((work_folder / ANSWERS_FOLDER).glob("*.jsonl")):
            for line in path.read_text(encoding="ascii").splitlines():
                try:
                    request, values = json.loads(line)
                    self._of_failed[request] = Answer(**values)
                except (ValueError, TypeError):
                    continue

    def take(self, request: str) -> Answer | None:
        """Move the answer to a request (given by its hash) from the failed batches to the present one; return it."""
        with self._lock:
            answer = self._of_failed.pop(request, None)
            if answer is not None:
                self._under_way[request] = answer
            return answer

    def add(self, request: str, answer: Answer) -> None:
        """Add an answer of the present batch."""
        with self._lock:
            self._under_way[request] = answer

    def forget_batch(self) -> None:
        """Drop the answers of the present batch, which is done."""
        with self._lock:
            self._under_way = {}

    def keep_batch(self, work_folder: Path) -> None:
        """Keep the answers of the present batch, which has failed, in memory and on disk."""
        with self._lock:
            kept, self._under_way = self._under_way, {}
            self._of_failed |= kept
        if not kept:
            return
        path = work_folder / ANSWERS_FOLDER / f"{os.getpid()}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.writelines(json.dumps([request, asdict(answer)]) + "\n" for request, answer in kept.items())
