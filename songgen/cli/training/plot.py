"""`songgen plot`: draw the metrics of runs, finished or running, over each other."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen plot`."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folder of a training run")
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: RUN/plots for one run, ./plots for several)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw the plots and print their files.

    Raises:
        ValueError: if matplotlib is not installed, a folder has no metrics, or the files cannot be written.
    """
    from songgen.train.reporting.plots.plot_files import PLOTS_FOLDER, write_plots

    runs = arguments.runs
    out = arguments.out or (runs[0] / PLOTS_FOLDER if len(runs) == 1 else Path(PLOTS_FOLDER))
    try:
        files = write_plots(runs, out)
    except OSError as error:
        raise ValueError(f"the plots cannot be written to {out}: {error}") from error
    for path in files:
        print(path)
    return 0
