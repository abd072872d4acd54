"""Folders of runs that were not trained: what their files say is all that a reader of them needs."""

import json
from pathlib import Path
from typing import Any

from songgen.runtime.status import RunStatus, StatusFile
from songgen.train.reporting.trackers import METRICS_FILE


def write_run(folder: Path, lines: int = 30, **status: Any) -> Path:
    """Write the files of a run that has ended."""
    folder.mkdir(parents=True)
    rows = [
        {"step": step, "epoch": step / 10, "time": 1e9 + step, "train/loss": 5.0 / step, "train/learning_rate": 1e-4}
        | ({"eval/loss": 6.0 / step, "eval/accuracy": 0.5} if step % 10 == 0 else {})
        for step in range(1, lines + 1)
    ]
    (folder / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "status": "finished",
        "run_id": "x",
        "step": lines,
        "total_steps": lines,
        "exit_code": 0,
    } | status
    StatusFile(folder, "run_status.json", "x").put(RunStatus(**values))
    return folder
