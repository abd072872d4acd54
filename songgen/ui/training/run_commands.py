"""Commands to runs: sent by a thread each, since a run answers after its step, and that may take minutes."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from songgen.runtime.control.commands import parse
from songgen.runtime.control.requests import NoAnswer, RunEnded, is_active, pending_requests, send
from songgen.train.control.journal import JOURNAL_FILE, in_effect, journal_lines

PAGE = "songgen ui"
"""Name of the page in the journals of runs."""

TIMEOUT_SECONDS = 3600.0
"""Seconds after which a command that a run has not taken is withdrawn."""

AT_ONCE_SECONDS = 1.5
"""Seconds that a browser waits for the answer of a run that is quick."""

MAX_WAITING = 8
"""Number of commands that wait for one run."""

MAX_ANSWERS = 20
"""Number of the latest answers that are kept."""

MAX_JOURNAL = 200
"""Number of the latest lines of a journal that are shown."""


@dataclass
class Sent:
    """Command that was sent to a run."""

    text: str
    """Text of the command."""
    time: float = field(default_factory=time.time)
    """Time at which it was sent, in seconds since 1970."""
    state: str = "waiting"
    """State: `waiting`, `done`, `refused` by the run, or `failed` to reach it."""
    answer: str = ""
    """Answer of the run, or why there is none."""


class RunCommands:
    """Commands that were sent to runs by this server. Threads may share it."""

    def __init__(self) -> None:
        """Nothing was sent yet."""
        self._sent: dict[Path, deque[Sent]] = {}
        self._lock = threading.Lock()

    def send(self, folder: Path, text: str) -> dict[str, Any]:
        """Send a command; return its answer, or that it waits for the run.

        Raises:
            ValueError: if it is not a command, no run is active in the folder, or too many commands wait.
        """
        command = parse(text, "the page")
        if not is_active(folder):
            raise ValueError(f"no run is active in {folder.name}; resume it first")
        with self._lock:
            known = self._sent.setdefault(folder, deque(maxlen=MAX_ANSWERS))
            if sum(sent.state == "waiting" for sent in known) >= MAX_WAITING:
                raise ValueError(f"{MAX_WAITING} commands wait for the run already; wait until it has answered one")
            sent = Sent(command.text)
            known.append(sent)
        # A daemon: a command that waits must not keep the server from stopping. The run may still carry it out.
        thread = threading.Thread(target=self._wait, args=(folder, sent), name="command", daemon=True)
        thread.start()
        thread.join(AT_ONCE_SECONDS)
        return asdict(sent)

    def _wait(self, folder: Path, sent: Sent) -> None:
        """Send a command and wait for what comes of it. Runs in a thread."""
        try:
            answer = send(folder, sent.text, timeout=TIMEOUT_SECONDS, is_alive=lambda: _is_alive(folder), program=PAGE)
            sent.answer, sent.state = answer.text, "done" if answer.is_done else "refused"
        except (NoAnswer, RunEnded, OSError) as error:
            sent.answer, sent.state = str(error), "failed"

    def shown(self, folder: Path) -> dict[str, Any]:
        """Return what waits for a run, the latest answers to this server, and the run's journal, the latest first.

        What waits is read from the run's folder, so that every browser and every server shows the same.
        """
        with self._lock:
            answers = [asdict(sent) for sent in self._sent.get(folder, ())]
        try:
            lines = journal_lines(folder / JOURNAL_FILE)
        except OSError:
            lines = None
        kept = {id(entry) for entry in in_effect(lines.values)} if lines is not None else set()
        journal = [
            {
                "step": entry.step,
                "command": entry.command,
                "source": entry.source,
                "is_of_page": entry.source.startswith(f"{PAGE} ("),
                "time": entry.time,
                "is_dropped": entry.command is not None and id(entry) not in kept,
            }
            for entry in (lines.values[-MAX_JOURNAL:] if lines is not None else [])
        ]
        return {
            "waiting": pending_requests(folder),
            "answers": answers[::-1],
            "journal": journal[::-1],
            "damaged": [] if lines is None else lines.damaged,
        }


def _is_alive(folder: Path) -> bool:
    try:
        return is_active(folder)
    except ValueError:  # the folder has disappeared
        return False
