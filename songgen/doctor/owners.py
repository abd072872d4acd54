"""Who is writing to a folder: the lock files of runs and of preprocessing, which have the same content."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path

from songgen.train.output_folder import is_alive


@dataclass(frozen=True)
class Owner:
    """The process that wrote a lock file."""

    pid: int
    """Its number on its machine."""
    host: str
    """Its machine."""

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"process {self.pid} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, so that one can tell whether it lives."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it is a living process of this machine."""
        return self.is_here and is_alive(self.pid)


def read_owner(path: Path) -> Owner | None:
    """Return the owner that a lock file names.

    Raises:
        ValueError: if there is such a file, and it names nobody.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Owner(int(content["pid"]), str(content["host"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise ValueError(f"it cannot be read ({type(failure).__name__}: {failure})") from failure
