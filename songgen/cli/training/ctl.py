"""`songgen ctl`: send a command to a run that trains on this machine, and print its answer."""

import argparse
import sys
from pathlib import Path

from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_LOST_PROCESS
from songgen.runtime.control.commands import Action, help_text, parse
from songgen.runtime.control.requests import NoAnswer, RunEnded, is_active, send
from songgen.runtime.terminal import printable, say

TIMEOUT_SECONDS = 600.0
"""Default number of seconds to wait: the run answers after its step, which an evaluation may precede."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `songgen ctl`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "songgen ctl RUN [COMMAND [ARGUMENT ...]] [--timeout SECONDS]"
    parser.epilog = (
        f"commands:\n{help_text()}\n\nWithout a command: this list, and the status of the run.\n"
        "Exit codes: 0 carried out; 1 refused by the run, or no answer in time; 2 a wrong command, or no run in that "
        "folder;\n6 the run ended before it answered."
    )
    parser.add_argument("run", type=Path, help="output folder of the run")
    parser.add_argument("command", nargs="*", help="command for the run, see below")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS",
        help="seconds to wait for the answer, which comes after the present step (default: %(default)g)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Send the command and print the answer.

    Raises:
        ValueError: if it is not a command, or no run is active in the folder.
    """
    text = " ".join(arguments.command) or Action.STATUS.value
    folder: Path = arguments.run
    if not arguments.command or parse(text, "").action is Action.HELP:
        print(help_text())
    if arguments.command and parse(text, "").action is Action.HELP:
        return EXIT_DONE
    if not is_active(folder):
        raise ValueError(f"no run is active in {folder}; `songgen doctor {folder}` says how the last one ended")
    try:
        answer = send(folder, text, timeout=arguments.timeout, is_alive=lambda: is_active(folder))
    except NoAnswer as error:
        say(f"songgen ctl: {error}")
        return EXIT_ERROR
    except RunEnded as error:
        say(f"songgen ctl: {error}")
        return EXIT_LOST_PROCESS
    except OSError as error:
        raise ValueError(f"the command could not be sent to {folder}: {error}") from error
    print(printable(answer.text), file=sys.stdout if answer.is_done else sys.stderr)
    return EXIT_DONE if answer.is_done else EXIT_ERROR
