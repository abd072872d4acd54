"""`songgen try`: train a configuration on one clip for a minute or two, and say whether it learns."""

import argparse
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from songgen.cli.run_arguments import add_config_arguments
from songgen.cli.training.train import add_task_option, task_of
from songgen.config.loading import keys_text, load_run_config, read_config_file, split_command_line
from songgen.config.recipes import TRAINING, find_recipe
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.tasks import TASKS

USAGE = "songgen try CONFIG [--key value ...] [--keep FOLDER]"
DESCRIPTION = """Train a configuration on one clip with its own model and settings, until the model has learned the clip
by heart, and say whether it learns or why it does not. Nothing is left behind, unless --keep names a folder."""

RESULT_FILE = "try.json"
SECONDS, STEPS, CLIP_SECONDS = 120.0, 1000, 2.0
MIN_STEPS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `songgen try`."""
    add_config_arguments(parser, USAGE, "mixed_pro/step1.json", keys_text)
    parser.description = DESCRIPTION
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_task_option(parser)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="longest time of training, in seconds")
    parser.add_argument("--steps", type=int, default=STEPS, help="largest number of steps")
    parser.add_argument("--clip_seconds", type=float, default=CLIP_SECONDS, help="length of the clip, in seconds")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for the clip, the model and the result")


def run(arguments: argparse.Namespace) -> int:
    """Try a configuration, and print a curve of the loss and the verdict.

    Returns:
        The exit code: 0 if it learns.

    Raises:
        ValueError: if the configuration, the options or the data cannot be used.
    """
    words = _words(arguments)
    if {"-h", "--help"} & set(words):
        load_run_config(words, description=USAGE)  # prints the help and exits
    if arguments.keep is not None and arguments.keep.exists() and any(arguments.keep.iterdir()):
        raise ValueError(f"--keep: {arguments.keep} is not empty; name a new folder")
    if min(arguments.seconds, arguments.clip_seconds) <= 0 or arguments.steps < MIN_STEPS:
        raise ValueError(f"--seconds and --clip_seconds must be above 0, and --steps at least {MIN_STEPS}")

    from songgen.train.reporting.console import Console, route_logging, route_warnings
    from songgen.tryout.clip import write_clip
    from songgen.tryout.picture import curve
    from songgen.tryout.trial import Limits, run_trial, trial_config
    from songgen.tryout.verdict import verdict

    console = Console()
    route_logging(console)
    route_warnings(console)
    limits = Limits(arguments.seconds, arguments.steps)
    with ExitStack() as stack:
        work = arguments.keep or Path(stack.enter_context(TemporaryDirectory(prefix="songgen-try-")))
        work.mkdir(parents=True, exist_ok=True)
        defaults = {"save_to_disk": str(work / "none"), "output_dir": str(work / "run")}
        given = _given_keys(words)
        added = [word for key, value in defaults.items() if key not in given for word in (f"--{key}", value)]
        config = load_run_config([*words, *added], description=USAGE)
        task = TASKS[arguments.task] if arguments.task else task_of(config)
        clip, description = write_clip(config, work, arguments.clip_seconds)
        print(f"clip: {description}", flush=True)
        own = trial_config(config, clip, work / "run", limits)
        found = run_trial(own, task, console, limits, keep=arguments.keep is not None)
        if arguments.keep is not None:
            content = asdict(found) | {"learned": found.learned, "verdict": verdict(found)}
            (work / RESULT_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if picture := curve(found.losses, "loss"):
        print(picture)
    print(verdict(found))
    return EXIT_DONE if found.learned else EXIT_ERROR


def _words(arguments: argparse.Namespace) -> list[str]:
    """Return the configuration and its overrides; options of `songgen try` found among them are set in `arguments`."""
    parser = argparse.ArgumentParser(prog="songgen try", allow_abbrev=False, add_help=False)
    _add_options(parser)
    _, words = parser.parse_known_args(arguments.overrides, arguments)
    return [arguments.config, *words]


def _given_keys(words: list[str]) -> set[str]:
    """Return the keys that a configuration file or its overrides give a value."""
    files, overrides, _ = split_command_line(words)
    values, _ = read_config_file(find_recipe(files[0], TRAINING))
    return {name for name, value in values.items() if value} | {name for name, _ in overrides}
