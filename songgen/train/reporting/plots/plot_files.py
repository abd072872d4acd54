"""Files of plots: a picture of each panel, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from songgen.runtime.files import write_bytes_atomic
from songgen.train.reporting.plots.curves import read_curves
from songgen.train.reporting.plots.page import write_page
from songgen.train.reporting.plots.panels import all_panels
from songgen.train.reporting.plots.pictures import INSTALL, can_draw, picture
from songgen.train.reporting.trackers import METRICS_FILE

PLOTS_FOLDER = "plots"
"""Folder of the plots in the folder of a run."""

PAGE_FILE = "index.html"


def write_plots(folders: Sequence[Path], out: Path) -> list[Path]:
    """Draw the metrics of runs over each other.

    Args:
        folders: folders of the runs, finished or running.
        out: folder to write to.

    Returns:
        The files: the page, then the pictures.

    Raises:
        ValueError: if matplotlib is not installed, or a folder has no metrics.
        OSError: if the files cannot be written.
    """
    if not can_draw():
        raise ValueError(f"plots need matplotlib, which is not installed: {INSTALL}")
    runs = [read_curves(folder) for folder in folders]
    for run in runs:
        if not run.curves:
            what = f"no metric in its {METRICS_FILE}" if (run.folder / METRICS_FILE).exists() else f"no {METRICS_FILE}"
            raise ValueError(f"{run.folder} has {what}: give the output_dir of a training run that has logged")
    pictures = [(panel, picture([panel])) for panel in all_panels(runs)]
    out.mkdir(parents=True, exist_ok=True)
    files = [out / PAGE_FILE]
    for panel, content in pictures:
        files.append(out / f"{_file_name(panel.key)}.png")
        write_bytes_atomic(files[-1], content, durable=False)
    write_page(files[0], runs, pictures)
    return files


def _file_name(key: str) -> str:
    """Return a key as a file name: names of tracks come from the metrics of a run."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in key)
