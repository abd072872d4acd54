"""Answers of a server that were paid for in batches that then failed, kept so that nobody pays for them twice."""

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from songgen.prepare.describing.conversation import Answer

ANSWERS_FOLDER = "answers"
"""In the work folder: a file for each process that a batch has failed in."""


class PaidAnswers:
    """The answers of the batch under way, and those of batches that have failed. Threads may share it."""

    def __init__(self) -> None:
        """Know none."""
        self._lock = threading.Lock()
        self._under_way: dict[str, Answer] = {}
        self._of_failed: dict[str, Answer] = {}

    def read(self, work_folder: Path) -> None:
        """Take over what earlier runs have kept; a line that a kill has cut off is passed over."""
        for path in sorted((work_folder / ANSWERS_FOLDER).glob("*.jsonl")):
            for line in path.read_text(encoding="ascii").splitlines():
                try:
                    request, values = json.loads(line)
                    self._of_failed[request] = Answer(**values)
                except (ValueError, TypeError):
                    continue

    def take(self, request: str) -> Answer | None:
        """Return the answer to a request, by its hash, if a failed batch has got it; it counts for this batch."""
        with self._lock:
            answer = self._of_failed.pop(request, None)
            if answer is not None:
                self._under_way[request] = answer
            return answer

    def add(self, request: str, answer: Answer) -> None:
        """Note an answer of the batch under way."""
        with self._lock:
            self._under_way[request] = answer

    def forget_batch(self) -> None:
        """Let the answers of a batch go that is done."""
        with self._lock:
            self._under_way = {}

    def keep_batch(self, work_folder: Path) -> None:
        """Keep the answers of a batch that has failed, on disk too."""
        with self._lock:
            kept, self._under_way = self._under_way, {}
            self._of_failed |= kept
        if not kept:
            return
        path = work_folder / ANSWERS_FOLDER / f"{os.getpid()}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.writelines(json.dumps([request, asdict(answer)]) + "\n" for request, answer in kept.items())
