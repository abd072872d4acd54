"""Metrics of finished songs, as modules of the `evaluate` library that are loaded by path: nothing comes from a hub."""

from pathlib import Path
from typing import Any

METRIC_NAMES = ("codebook_accuracy", "mel_distance", "nearest_original")


def metric_path(name: str) -> Path:
    """Return the file that `evaluate.load` takes.

    Raises:
        ValueError: if there is no metric of that name.
    """
    if name not in METRIC_NAMES:
        raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRIC_NAMES)}")
    return Path(__file__).parent / name / f"{name}.py"


def load_metric(name: str) -> Any:
    """Open one of our metrics; its `compute` takes predictions, references and the metric's own options.

    Raises:
        ValueError: if there is no metric of that name.
    """
    import evaluate

    return evaluate.load(str(metric_path(name)), keep_in_memory=True)
