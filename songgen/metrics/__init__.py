"""Metrics of finished songs: modules of the `evaluate` library, loaded by path without access to a hub."""

from pathlib import Path
from typing import Any

METRIC_NAMES = ("codebook_accuracy", "mel_distance", "nearest_original")


def metric_path(name: str) -> Path:
    """Return the path of a metric's module, which `evaluate.load` accepts.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in METRIC_NAMES:
        raise ValueError(f"unknown metric {name!r}; known: {', '.join(METRIC_NAMES)}")
    return Path(__file__).parent / name / f"{name}.py"


def load_metric(name: str) -> Any:
    """Load a metric of this package; its `compute` takes predictions, references and the metric's own options.

    Raises:
        ValueError: if the name is unknown.
    """
    import evaluate

    return evaluate.load(str(metric_path(name)), keep_in_memory=True)
