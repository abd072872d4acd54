"""Answers of a server from batches that failed, kept so that they are not paid for twice."""

import logging
import os
import threading
from dataclasses import asdict
from pathlib import Path

from songgen.prepare.describing.conversation import Answer
from songgen.runtime.json_files import parse_json
from songgen.runtime.json_lines import numbered, read_lines, seal, unseal

logger = logging.getLogger(__name__)

ANSWERS_FOLDER = "answers"
"""In the work folder: one file for each process in which a batch has failed."""


class PaidAnswers:
    """The answers of the present batch and of failed batches. It is safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str, Answer] = {}
        self._of_failed: dict[str, Answer] = {}

    def read(self, work_folder: Path) -> None:
        """Read the answers that earlier runs have kept; damaged lines are skipped with a warning."""
        for path in sorted((work_folder / ANSWERS_FOLDER).glob("*.jsonl")):
            lines = read_lines(path, _read_answer)
            self._of_failed |= lines.values
            if lines.damaged:
                logger.warning("%s: damaged %s; the model is asked again", path, numbered(lines.damaged))

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
            file.writelines(
                seal({"request": request, "answer": asdict(answer)}) + "\n" for request, answer in kept.items()
            )


def _read_answer(line: bytes) -> tuple[str, Answer]:
    if line.startswith(b"["):  # written by an earlier version
        request, answer = parse_json(line)
        return request, Answer(**answer)
    values = unseal(line)
    return values["request"], Answer(**values["answer"])
