"""How a run stands, in a file of its output folder: exit code 0 alone does not say whether it is finished."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from songgen.runtime.files import write_text_atomic

RUN_STATUS_FILE = "run_status.json"

EVALUATION_STATUS_FILE = "evaluation_status.json"
"""The same for a launch that only evaluates (`do_train` false): what `RUN_STATUS_FILE` says of training stays."""


@dataclass(frozen=True)
class RunStatus:
    """The content of `run_status.json`."""

    status: Literal["running", "stopped", "finished", "failed"]
    """`running` (or killed before it could say more), `stopped` by a signal after saving, `finished`: the plan is done
    and the model written, `failed`."""
    run_id: str
    """Random name of this start of the run, the same for all its processes."""
    rank: int = 0
    """Process that wrote this."""
    step: int | None = None
    """Optimizer steps that lie behind; None while running (the heartbeats say it)."""
    total_steps: int | None = None
    """Optimizer steps of the plan; None before they are known."""
    exit_code: int | None = None
    """What the process ends with; None while running."""
    reason: str | None = None
    """Why it failed."""
    time: float = field(default_factory=time.time)
    """When this was written, in seconds since 1970."""

    def write(self, folder: Path, name: str = RUN_STATUS_FILE) -> None:
        """Replace the file, at once for every reader."""
        write_text_atomic(folder / name, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_run_status(folder: Path, name: str = RUN_STATUS_FILE) -> RunStatus | None:
    """How the run in a folder stands; None if no file says so."""
    try:
        return RunStatus(**json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
