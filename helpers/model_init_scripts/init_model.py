"""Common code of the two init scripts: `songgen init` with the layouts of one task."""

import argparse
import sys

from songgen.cli.main import DefaultsHelpFormatter
from songgen.cli.models.init import add_arguments, run
from songgen.tasks import Task


def main(task: Task, *, default_pattern: str, description: str | None) -> None:
    """Create the model folder and print a description of the model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=DefaultsHelpFormatter, allow_abbrev=False)
    add_arguments(parser, task.layouts, default_pattern)
    arguments = parser.parse_args()
    try:
        run(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")
