"""`songgen doctor`: identify a folder and report its problems."""

import argparse
from pathlib import Path

from songgen.exit_codes import EXIT_DONE, EXIT_ERROR


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen doctor`."""
    parser.add_argument(
        "folder",
        type=Path,
        help="output folder of a run, checkpoint, data set, model, adapter, codec, encoder or tokenizers",
    )
    parser.add_argument("--deep", action="store_true", help="also read older checkpoints and check every value")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--accept",
        action="store_true",
        help="first record the hashes of a model folder as it is now, after you changed it on purpose",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; the exit code is 0 if everything can be used, and 1 otherwise.

    Raises:
        ValueError: if the kind of folder is not recognized, or it cannot be accepted.
    """
    from songgen.doctor import examine
    from songgen.doctor.hashes import accept
    from songgen.runtime.terminal import printable

    if arguments.accept:
        accept(arguments.folder)
    diagnosis = examine(arguments.folder, deep=arguments.deep)
    print(diagnosis.to_json() if arguments.json else printable("\n".join(diagnosis.lines())))
    return EXIT_DONE if diagnosis.is_fine else EXIT_ERROR
