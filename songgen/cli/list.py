"""`songgen list`: list the data sets, runs and models in folders, with their state."""

import argparse
from pathlib import Path

from songgen.exit_codes import EXIT_DONE

DEFAULT_FOLDERS = ("datasets", "outputs")
"""Folders that are listed if none is named, as far as they exist."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen list`."""
    what = f"folders to search; {' and '.join(DEFAULT_FOLDERS)} if none is named"
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=what)
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the entries, newest first.

    Raises:
        ValueError: if a folder does not exist.
    """
    from songgen.doctor.listing import find_entries, table, to_json

    folders = arguments.folders or [Path(name) for name in DEFAULT_FOLDERS if Path(name).is_dir()]
    if not folders:
        raise ValueError(f"there is neither {' nor '.join(DEFAULT_FOLDERS)} in {Path.cwd()}; name a folder")
    entries = find_entries(folders)
    if arguments.json:
        print(to_json(entries))
    elif entries:
        print("\n".join(table(entries)))
    else:
        print(f"there is nothing yet in {', '.join(map(str, folders))}")
    return EXIT_DONE
