"""Tasks of a model: generate one mixed track, or vocal and accompaniment together."""

from dataclasses import dataclass

MIX, VOCAL, ACCOMPANIMENT = "mix", "vocal", "acc"

TRACKS = (MIX, VOCAL, ACCOMPANIMENT)
"""Names of all tracks that a data set may contain."""


@dataclass(frozen=True)
class Task:
    """A set of tracks that a model generates, and the token layouts for it."""

    name: str
    """Name in messages and in the model's configuration."""

    target_tracks: tuple[str, ...]
    """Tracks that the model generates, in the order of the layouts' first index."""

    auxiliary_tracks: tuple[str, ...]
    """Tracks that only an auxiliary loss predicts, in training."""

    layouts: tuple[str, ...]
    """Names of the token layouts of this task."""


MIXED = Task("mixed", (MIX,), (VOCAL,), ("mixed", "mixed_pro"))
DUAL_TRACK = Task(
    "dual_track",
    (ACCOMPANIMENT, VOCAL),
    (),
    ("parallel_std", "parallel_A_V", "parallel_V_A", "interleaving_A_V", "interleaving_V_A"),
)

TASKS = {task.name: task for task in (MIXED, DUAL_TRACK)}


def task_of_layout(layout_name: str) -> Task:
    """Return the task of a layout.

    Raises:
        ValueError: if the layout is unknown; the message lists the known ones.
    """
    for task in TASKS.values():
        if layout_name in task.layouts:
            return task
    known = ", ".join(name for task in TASKS.values() for name in task.layouts)
    raise ValueError(f"unknown track_pattern {layout_name!r}; known layouts: {known}")
