"""What is expected of a run, as it is shown at its start; the estimate itself is made above this package."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from songgen.config import RunConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run."""

    lines: tuple[str, ...]
    """Lines to show at its start."""
    tensor_bytes: int | None = None
    """Most bytes of tensors on the device of a process; None if they are not known."""
    process_bytes: int | None = None
    """Most bytes of a process on its device, or in main memory."""


Forecaster = Callable[[RunConfig, Accelerator], Forecast]
"""Makes the forecast of a run, on its main process, before its model is loaded."""


def show_forecast(forecaster: Forecaster | None, config: RunConfig, accelerator: Accelerator) -> Forecast | None:
    """Show the forecast of a run on the main process, and return it. It never keeps a run from starting."""
    if forecaster is None or not accelerator.is_main_process or not config.training.do_train:
        return None
    try:
        forecast = forecaster(config, accelerator)
    except Exception as error:  # of any kind: what is wrong with the run is reported when it is built
        logger.info("what the run needs cannot be estimated (%s: %s)", type(error).__name__, error)
        return None
    for line in forecast.lines:
        logger.info("%s", line)
    return forecast


def peak_memory_line(device: torch.device, forecast: Forecast | None) -> str:
    """Return the peak of this process's memory so far, next to what was estimated for the longest clips."""
    if device.type == "cuda":
        peak, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
        measured = f"{peak / 1e9:.2f} GB of GPU memory in tensors, {reserved / 1e9:.2f} GB reserved"
        expected = None if forecast is None else forecast.tensor_bytes
    else:
        # Linux counts the resident set in kilobytes, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        measured = f"{peak / 1e9:.2f} GB of main memory (resident set of the process, libraries included)"
        expected = None if forecast is None else forecast.process_bytes
    estimated = "" if expected is None else f"; {expected / 1e9:.2f} GB were estimated for the longest clips"
    return f"peak memory after the first step: {measured}{estimated}"
