"""Steps of a run of `songgen prepare` for the page: which are done, which one runs, which wait."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from songgen.prepare.engine.phases import ESTIMATING, READING, WRITING, read_phases
from songgen.prepare.sections import SECTIONS, is_over_songs
from songgen.runtime.status import Progress

DONE, WAITING = "finished", "waiting"
"""States of steps before and after the present one, which has the state of the work."""

SUMMARIES = {
    READING: "the list of songs with their texts",
    ESTIMATING: "every step on a few songs, whose results are used again",
    WRITING: "audio files, rows and report",
} | {step.name: section.summary for section in SECTIONS.values() for step in section.steps}
"""Phase -> what it is for."""


@dataclass(frozen=True)
class StepState:
    """A step of a run."""

    name: str
    """Name, as in the status and the configuration."""

    summary: str
    """What it is for; empty for a step of another version."""

    state: str
    """`finished`, `waiting`, or the state of the work."""

    unit: str
    """What its progress counts: `songs` or `clips`; empty for what is not a step."""


def steps_of(work_folder: Path, state: str, progress: Progress | None) -> Iterator[StepState]:
    """Yield the steps of a run; none if they are not known.

    Args:
        work_folder: its work folder.
        state: state of the work.
        progress: its progress.
    """
    phases = read_phases(work_folder)
    present = phases.index(progress.phase) if progress is not None and progress.phase in phases else 0
    for number, phase in enumerate(phases):
        if phase == ESTIMATING and number != present:  # most runs of few songs have none
            continue
        shown = DONE if number < present else WAITING if number > present else state
        is_step = phase not in (READING, ESTIMATING, WRITING)
        unit = ("songs" if is_over_songs(phase) else "clips") if is_step else ""
        yield StepState(phase, SUMMARIES.get(phase, ""), shown, unit)
