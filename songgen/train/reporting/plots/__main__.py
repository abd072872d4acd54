"""Draws the plots of one run into its folder: `python -m songgen.train.reporting.plots FOLDER`."""

import os
import sys
from pathlib import Path

from songgen.train.reporting.plots.plot_files import PLOTS_FOLDER, write_plots

LOWEST_PRIORITY = 19
"""Niceness at which the process uses only time that nothing else wants."""


def main() -> int:
    """Draw, at the lowest priority; print a problem as one line."""
    folder = Path(sys.argv[1])
    if hasattr(os, "nice"):
        os.nice(LOWEST_PRIORITY)
    try:
        write_plots([folder], folder / PLOTS_FOLDER)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
