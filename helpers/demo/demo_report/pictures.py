"""Spectrograms of the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo_report.measures import SMALLEST_MAGNITUDE
from songgen.train.reporting.plots.pictures import matplotlib_modules


def draw_spectrogram(path: Path, spectrogram: NDArray[np.float32]) -> None:
    """Write a ``demo_log_mel`` spectrogram (F x M) as a PNG, one pixel per frame and band, low notes at the bottom.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    matplotlib_modules().image.imsave(
        path, spectrogram.T, origin="lower", cmap="magma", vmin=np.log(SMALLEST_MAGNITUDE), vmax=0.0
    )
