"""Pictures of panels, drawn by matplotlib (an optional package) without a screen."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.runtime.files import write_bytes_atomic
from songgen.train.reporting.plots.panels import Line, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES = (4.8, 2.9)
"""Width and height of a panel."""

DPI = 150
"""Pixels for an inch of a PNG."""

MAX_LEGEND_ENTRIES = 12

INSTALL = "pip install matplotlib"


def can_draw() -> bool:
    """Return whether matplotlib is installed; it is not loaded."""
    return importlib.util.find_spec("matplotlib") is not None


def matplotlib_modules() -> Any:
    """Return matplotlib with its modules for figures and images.

    Raises:
        ValueError: if it is not installed.
    """
    if not can_draw():
        raise ValueError(f"plots need matplotlib, which is not installed: {INSTALL}")
    import matplotlib
    import matplotlib.figure
    import matplotlib.image

    return matplotlib


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels side by side as a picture, PNG or SVG by the ending of its name; an earlier one stays until then.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, picture(panels, path.suffix.removeprefix(".")), durable=False)


def picture(panels: Sequence[Panel], kind: str = "png") -> bytes:
    """Return panels side by side as a picture.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    # Objects of their own: pyplot would keep each figure until it is closed.
    width, height = PANEL_INCHES
    figure = matplotlib_modules().figure.Figure(figsize=(width * len(panels), height), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=DPI)
    return content.getvalue()


def _draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw lines, marks and legend of a panel."""
    for line in panel.lines:
        _draw_line(axes, line)
    for guide in panel.guides:
        axes.axhline(guide.value, color="#6b7280", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            guide.label, (1.0, guide.value), xycoords=("axes fraction", "data"), xytext=(-2, 2),
            textcoords="offset points", ha="right", fontsize=7, color="#6b7280",
        )  # fmt: skip
    if panel.is_logarithmic and any((line.curve.values > 0).any() for line in panel.lines):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0, top=panel.top)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    labels = [line.label for line in panel.lines if line.label]
    if 1 < len(labels) <= MAX_LEGEND_ENTRIES or (len(labels) == 1 and "," in labels[0]):
        axes.legend(frameon=False, fontsize=7, ncols=1 + (len(labels) > 6))


def _draw_line(axes: Axes, line: Line) -> None:
    """Draw a curve, with the range of the values behind each mean."""
    curve = line.curve
    # A curve of one point is invisible without a marker.
    marker = "o" if line.has_markers or len(curve.steps) == 1 else None
    axes.plot(
        curve.steps, curve.values, color=line.color, linewidth=1.3, marker=marker, markersize=3,
        alpha=line.opacity, label=line.label or None,
    )  # fmt: skip
    if curve.lowest is not None and curve.highest is not None:
        axes.fill_between(curve.steps, curve.lowest, curve.highest, color=line.color, alpha=0.2, linewidth=0)
