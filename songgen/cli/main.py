"""The `songgen` command: a table of subcommands, each a module that is imported when it is called.

A subcommand's module has `add_arguments(parser)` and `run(arguments) -> exit code`. A `ValueError` from `run` is a
problem that the user can solve, and is printed without a traceback.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from songgen import __version__
from songgen.exit_codes import EXIT_SIGNAL_BASE, EXIT_USAGE
from songgen.runtime.files import expand_home
from songgen.runtime.terminal import log_to_stderr, printable


@dataclass(frozen=True)
class Command:
    """Subcommand of `songgen`."""

    module: str
    """Module with `add_arguments` and `run`."""

    summary: str
    """Summary for `songgen --help`, one line."""

    log_level: str | None = "WARNING"
    """Lowest level of log messages to print, unless SONGGEN_LOG_LEVEL names another; None for a command that prints its
    messages itself."""


COMMANDS: dict[str, Command] = {
    "ui": Command("songgen.cli.ui", "one page in the browser for all of it: prepare, configure, train, listen"),
    "prepare": Command(
        "songgen.cli.data.prepare", "prepare a data set from a folder of songs; every step can be resumed"
    ),
    "review": Command(
        "songgen.cli.data.review", "listen to prepared clips on a local page, correct them, accept or refuse"
    ),
    "tokenizer": Command("songgen.cli.data.tokenizer", "train the tokenizers of lyrics and captions on manifests"),
    "codec": Command("songgen.cli.data.codec", "fit the embedded codec, which needs no download, on manifests"),
    "init": Command("songgen.cli.models.init", "create the folder of an untrained model"),
    "tokenize": Command("songgen.cli.data.tokenize", "turn songs into a tokenized data set", log_level="INFO"),
    "configure": Command(
        "songgen.cli.training.configure", "write a training configuration for a data set and this machine"
    ),
    "check": Command(
        "songgen.cli.training.check", "say what a run will need, and what is wrong with it, before it starts"
    ),
    "try": Command(
        "songgen.cli.training.tryout", "learn one clip by heart: does a configuration learn?", log_level=None
    ),
    "train": Command("songgen.cli.training.train", "train a model, in one process or in several", log_level=None),
    "ctl": Command("songgen.cli.training.ctl", "send a command to a run that trains, such as save, lr 1e-4 or quit"),
    "plot": Command("songgen.cli.training.plot", "draw the metrics of runs, finished or running, over each other"),
    "generate": Command("songgen.cli.models.generate", "generate songs from a caption, lyrics and a reference voice"),
    "compare": Command(
        "songgen.cli.models.compare", "losses and songs with and without an adapter, on a page side by side"
    ),
    "export": Command(
        "songgen.cli.models.export",
        "write an adapter to share, by itself or merged into its base; a checkpoint as a model",
    ),
    "list": Command("songgen.cli.list", "list data sets, runs and models with their state, newest first"),
    "jobs": Command(
        "songgen.cli.jobs", "start commands that outlive the terminal, list them, read their logs, stop them"
    ),
    "doctor": Command("songgen.cli.doctor", "report problems of a run, a checkpoint, a data set or a model"),
    "push": Command(
        "songgen.cli.models.push",
        "upload a model or an adapter to a hub, private by default; --dry_run shows the files",
    ),
}
"""Name -> subcommand, in the order in which a project uses them. A new one needs an entry and a module."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code."""
    arguments = [_with_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    place = next((index for index, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    name = _front_parser().parse_args(arguments[: place + 1]).command
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"songgen {name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        formatter_class=DefaultsHelpFormatter,
        conflict_handler="resolve",  # a subcommand may define its own --help
    )
    module.add_arguments(parser)
    try:
        parsed = parse_words(parser, arguments[place + 1 :])
        if command.log_level is not None:
            log_to_stderr(os.environ.get("SONGGEN_LOG_LEVEL", command.log_level).upper())
        code = int(module.run(parsed))
        sys.stdout.flush()
        return code
    except ValueError as error:
        print(printable(f"songgen {name}: error: {error}"), file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:  # `songgen doctor FOLDER | head`: the reader has ended, which is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_SIGNAL_BASE + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"songgen {name}: interrupted", file=sys.stderr)
        return EXIT_SIGNAL_BASE + signal.SIGINT


def parse_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a subcommand; one whose CONFIG is optional may begin with a key of a run."""
    parsed, unknown = parser.parse_known_args(words)
    if unknown and getattr(parsed, "may_lack_config", False):
        # argparse takes the value of an unknown `--key` for CONFIG: an empty CONFIG in front of it keeps them together.
        place = list(words).index(unknown[0])
        parsed, unknown = parser.parse_known_args([*words[:place], "", *words[place:]])
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


def _with_home(word: str) -> str:
    """Return a word of the command line with `~/` as the home folder, also in `--key=~/x`, where the shell keeps it."""
    option, equals, value = word.partition("=")
    return f"{option}={expand_home(value)}" if equals and option.startswith("--") else expand_home(word)


class DefaultsHelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help formatter that shows defaults where they are informative, and descriptions unchanged."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """Return the help of an option, with its default unless that is None or a switch that is off."""
        hidden = action.default is None or action.default is False  # 0 is a default to show
        return action.help if hidden else super()._get_help_string(action)


def _front_parser() -> argparse.ArgumentParser:
    """Return the parser of `songgen` itself: version, help and the name of a subcommand."""
    width = max(len(name) for name in COMMANDS)
    rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="songgen",
        description="Text-to-song models: prepare songs, train, generate.",
        epilog="\n".join(["commands:", *rows, "", "songgen COMMAND --help describes a command."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"songgen {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of the commands below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
