"""Pictures of the page: spectrograms and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo_report.measures import SMALLEST_MAGNITUDE

LOSS_COLOR, RATE_COLOR, EVAL_COLOR = "#3457d5", "#1b8a5a", "#c2410c"


def draw_spectrogram(path: Path, spectrogram: NDArray[np.float32]) -> None:
    """Write a ``demo_log_mel`` spectrogram (F x M) as a PNG, one pixel per frame and band, low notes at the bottom."""
    _matplotlib().image.imsave(
        path, spectrogram.T, origin="lower", cmap="magma", vmin=np.log(SMALLEST_MAGNITUDE), vmax=0.0
    )


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps and values of a metric, from the rows that have it."""
    points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    return [point[0] for point in points], [point[1] for point in points]


def draw_curves(path: Path, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Write loss and learning rate over the steps of one stage as an SVG.

    Args:
        path: File to write.
        rows: Rows of ``metrics.jsonl``.
        names: Names of the metrics ``loss``, ``eval_loss`` and ``learning_rate`` in the rows.
    """
    pyplot = _matplotlib().pyplot
    figure, (loss_axes, rate_axes) = pyplot.subplots(1, 2, figsize=(7.2, 2.5), layout="constrained")
    loss_axes.plot(*curve(rows, names["loss"]), color=LOSS_COLOR, linewidth=1.5, label="training")
    eval_curve = curve(rows, names["eval_loss"])
    if eval_curve[0]:
        loss_axes.plot(*eval_curve, color=EVAL_COLOR, marker="o", markersize=4, linewidth=1.2, label="held-out songs")
        loss_axes.legend(frameon=False, fontsize=8)
    loss_axes.set_ylim(bottom=0)
    loss_axes.set_title("loss (mean over codebooks)", fontsize=10)
    rate_axes.plot(*curve(rows, names["learning_rate"]), color=RATE_COLOR, linewidth=1.5)
    rate_axes.set_ylim(bottom=0)
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate_axes.set_title("learning rate", fontsize=10)
    for axes in (loss_axes, rate_axes):
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)


def _matplotlib() -> Any:
    """Return matplotlib, set up to draw to files only.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("the demo's page needs matplotlib: pip install matplotlib (the demo extra)") from error
    matplotlib.use("Agg")
    import matplotlib.image
    import matplotlib.pyplot

    return matplotlib
