"""`songgen check`: what a run will need and what is wrong with it, before it starts."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from songgen.cli.run_arguments import add_config_arguments, add_launch_options, split_off_launch
from songgen.config.loading import keys_text, load_run_config, split_command_line
from songgen.config.recipes import TRAINING, find_recipe
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR

if TYPE_CHECKING:
    from songgen.planning.facts import RunFacts
    from songgen.planning.findings import Finding

USAGE = "songgen check [CONFIG] [--key value ...] [--num_processes N | --config_file FILE] [--fix] [--json]"

MAX_ROUNDS = 4
"""Rounds of writing suggestions: one suggestion can lead to another, such as a smaller batch to other steps."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `songgen check`."""
    add_config_arguments(parser, USAGE, "mixed_pro/step1.json", keys_text, is_optional=True)
    _add_options(parser)
    add_launch_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command itself."""
    parser.add_argument(
        "--fix", action="store_true", help="write the suggestions of errors and warnings into CONFIG, and show them"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the estimate and the findings; the exit code is 0 if the run can start, and 1 otherwise.

    Raises:
        ValueError: if the configuration or the launch options cannot be used.
    """
    from songgen.planning.check import report_lines, report_record
    from songgen.planning.processes import launched_processes
    from songgen.runtime.terminal import printable

    words, options = split_off_launch(arguments, _add_options)
    processes = launched_processes(options)
    changes = _fix(words, processes) if arguments.fix else ""
    facts, findings = _examined(words, processes)
    if arguments.json:
        print(json.dumps(report_record(facts, findings) | ({"diff": changes} if arguments.fix else {}), indent=2))
    else:
        print(printable("\n".join([*report_lines(facts, findings), *([changes] if changes else [])])))
    return EXIT_ERROR if any(finding.severity == "error" for finding in findings) else EXIT_DONE


def _examined(words: list[str], processes: object) -> tuple["RunFacts", list["Finding"]]:
    """Return the facts and findings of a command line."""
    from songgen.planning.check import check_run
    from songgen.planning.facts import gather_facts
    from songgen.planning.machine import this_machine

    config = load_run_config(words, description=USAGE)
    facts = gather_facts(config, this_machine(), processes)  # type: ignore[arg-type]
    return facts, check_run(facts)


def _fix(words: list[str], processes: object) -> str:
    """Write suggestions into the configuration file; return the changes.

    Raises:
        ValueError: if there is no file, or it is a shipped one.
    """
    from songgen.planning import fixes

    if not words or words[0].startswith("--"):
        raise ValueError("--fix writes into CONFIG, and none is given; name a JSON file of yours")
    path = Path(find_recipe(words[0], TRAINING))
    fixes.require_writable(path)
    given = [key for key, _ in split_command_line(words)[1]]
    original = path.read_text(encoding="utf-8-sig")
    for _ in range(MAX_ROUNDS):
        values = fixes.suggested_values(_examined(words, processes)[1], given)
        if not values:
            break
        after = fixes.written(path, values)
        if after is None:
            break
        fixes.write(path, after)
    return fixes.difference(path, original, path.read_text(encoding="utf-8-sig"))
