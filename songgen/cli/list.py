"""`songgen list`: data sets, runs and models below some folders, with their state."""

import argparse
from pathlib import Path

from songgen.exit_codes import EXIT_DONE

DEFAULT_FOLDERS = ("datasets", "outputs")
"""What is listed where no folder is named: those that there are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen list`."""
    what = f"folders to look below; {' and '.join(DEFAULT_FOLDERS)} where none is named"
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=what)
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what lies there, the newest first.

    Raises:
        ValueError: there is no such folder.
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
