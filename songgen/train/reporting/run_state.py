"""State of the run in an output folder, as its files tell it; nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from songgen.adapters.folder import is_adapter_folder
from songgen.runtime.folder_lock import RUN_LOCK_FILE
from songgen.runtime.folder_owner import read_owner
from songgen.runtime.processes.heartbeat import Beat, read_beat
from songgen.runtime.status import RunStatus, read_run_status, status_problem

State = Literal["running", "finished", "stopped", "failed", "unfinished"]

RUNNING: Final = "running"
FINISHED: Final = "finished"
STOPPED: Final = "stopped"
FAILED: Final = "failed"
UNFINISHED: Final = "unfinished"


@dataclass(frozen=True)
class RunState:
    """State of a run."""

    state: State
    """State: `failed` also if it was killed; `unfinished` if nothing was recorded."""
    is_killed: bool
    """Whether the run ended without recording its end."""
    step: int | None
    """Completed steps; None if they are not known."""
    total_steps: int | None
    """Steps of the whole run."""
    status: RunStatus | None
    """Content of its status file."""
    beat: Beat | None
    """Latest heartbeat of its main process: what it does, and since when."""
    problem: str = ""
    """Why its status file cannot be read; empty if it can, or if there is none."""

    @property
    def place(self) -> str:
        """Step and plan as text; empty if they are not known."""
        if self.step is None:
            return ""
        return f"step {self.step}" + ("" if self.total_steps is None else f" of {self.total_steps}")


def read_run_state(folder: Path) -> RunState:
    """Return the state of the run in a folder."""
    status = read_run_status(folder)
    total = None if status is None else status.total_steps
    beat = read_beat(folder, 0)
    step = beat.step if beat else None
    try:
        owner = read_owner(folder / RUN_LOCK_FILE)
    except ValueError:
        owner = None
    if owner is not None and owner.may_hold:
        return RunState(RUNNING, False, step, total, status, beat)
    if status is None:  # damaged, or an old version or other programs wrote the folder
        from songgen.runtime.model_folders import model_config_file  # loads torch, and such runs are rare

        is_finished = model_config_file(folder) is not None or is_adapter_folder(folder)
        state: State = FINISHED if is_finished else UNFINISHED
        return RunState(state, False, None, None, None, None, status_problem(folder))
    if status.status == RUNNING:
        return RunState(FAILED, True, step, total, status, beat)
    return RunState(status.status, False, status.step, total, status, None)
