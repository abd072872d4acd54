"""`songgen configure`: a training configuration for a data set and this machine, every choice explained."""

import argparse
from pathlib import Path

from songgen.exit_codes import EXIT_DONE, EXIT_ERROR

GOALS = ("full", "lora", "qlora", "try")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen configure`."""
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="folder that `songgen tokenize` has written")
    parser.add_argument("--model", help="folder or hub id of the model to start from (default: the one that fits DATA)")
    parser.add_argument(
        "--goal",
        choices=GOALS,
        help="train all weights, an adapter, an adapter on a 4-bit base, or one clip only (default: by data and model)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: DATA-GOAL.json)")
    parser.add_argument("--output_dir", help="folder of the run (default: ./outputs/DATA-GOAL)")
    parser.add_argument("--hours", type=float, help="most hours of training, by the estimate")
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="number of processes")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE and its companion if they exist")


def run(arguments: argparse.Namespace) -> int:
    """Write a configuration and its explanation; the exit code is 1 if the run could not start with it.

    Raises:
        ValueError: if there is no such data set, no model fits it, or the file exists.
    """
    from songgen.planning.check import report_lines
    from songgen.planning.configure import configure, write_configuration
    from songgen.planning.machine import this_machine
    from songgen.runtime.terminal import printable

    configured = configure(
        arguments.data,
        this_machine(),
        model=arguments.model,
        goal=arguments.goal,
        output_dir=arguments.output_dir,
        processes=arguments.num_processes,
        hours=arguments.hours,
    )
    path = arguments.out or Path(f"{arguments.data[0].resolve().name}-{configured.goal}.json")
    companion = write_configuration(configured, path, overwrite=arguments.overwrite)
    lines = [*configured.rows(), "", *report_lines(configured.facts, configured.findings), ""]
    processes = f" --num_processes {arguments.num_processes}" if arguments.num_processes > 1 else ""
    lines += [f"written: {path}, reasons in {companion}", f"next: songgen train {path}{processes}"]
    print(printable("\n".join(lines)))
    return EXIT_ERROR if any(finding.severity == "error" for finding in configured.findings) else EXIT_DONE
