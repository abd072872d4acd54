"""`songgen tokenize`: turn songs into a tokenized data set, in one process or in several."""

import argparse

from songgen.cli.run_arguments import add_config_arguments, add_launch_options, launch_command, split_off_launch
from songgen.config.loading import keys_text, load_run_config

USAGE = "songgen tokenize [CONFIG] [--key value ...] [--num_processes N | --config_file FILE]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `songgen tokenize`."""
    add_config_arguments(parser, USAGE, "data_musiccaps.json", keys_text, is_optional=True)
    add_launch_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tokenize, and return the exit code of the run.

    Raises:
        ValueError: if the configuration or the launch options cannot be used; nothing was started.
    """
    words, options = split_off_launch(arguments)
    load_run_config(words, description=USAGE, warn=False)
    if options.are_needed:
        return launch_command(["tokenize", *words], options)

    from songgen.tokenize.launch import run_tokenization

    return run_tokenization(words, description=USAGE)
