"""Phases of a run, as its status names them: its steps, and what comes before, between and after them."""

import json
from collections.abc import Sequence
from pathlib import Path

from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json

PHASES_FILE = "phases.json"
"""In the work folder: the phases of the newest run, in order."""

READING = "reading inputs"
"""Before the steps."""

ESTIMATING = "measuring the expected time"
"""After the first step, unless there are few songs: all steps run on some of them."""

WRITING = "writing the data set"
"""After the steps."""


def write_phases(folder: Path, steps: Sequence[str]) -> None:
    """Write the phases of a run, before the first of them begins.

    Args:
        folder: work folder.
        steps: names of its steps, in order.
    """
    phases = [READING, *steps[:1], ESTIMATING, *steps[1:], WRITING]
    write_text_atomic(folder / PHASES_FILE, json.dumps(phases) + "\n")


def read_phases(folder: Path) -> list[str]:
    """Return the phases of the newest run in a work folder; empty if they are not known."""
    try:
        phases = read_json(folder / PHASES_FILE)
    except (OSError, ValueError):
        return []
    return phases if isinstance(phases, list) and all(isinstance(phase, str) for phase in phases) else []
