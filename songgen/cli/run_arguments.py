"""Shared arguments of subcommands with a configuration: CONFIG, overrides, launch options, and help for every key."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from songgen.config.recipes import LAUNCHING, find_recipe
from songgen.runtime.processes.launcher import LaunchOptions, launch
from songgen.runtime.terminal import say


class HelpOfKeys(argparse.Action):
    """Action that prints the help with every key; the keys are only read when it is used."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, keys: Callable[[], str], help: str) -> None:
        """Keep the function that returns the text on the keys."""
        super().__init__(option_strings, dest, nargs=0, help=help)
        self.keys = keys

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print and exit."""
        print(f"{parser.format_help()}\n{self.keys()}")
        parser.exit()


def add_config_arguments(
    parser: argparse.ArgumentParser, usage: str, recipe: str, keys: Callable[[], str], *, is_optional: bool = False
) -> None:
    """Declare a configuration file and overrides of its keys, with a help that lists every key.

    Args:
        parser: parser of the subcommand.
        usage: first line of the help.
        recipe: name of a shipped file, as an example.
        keys: function that returns the help on the keys.
        is_optional: whether the file may be left out, so that all keys are on the command line.
    """
    parser.usage = usage
    parser.add_argument("-h", "--help", action=HelpOfKeys, keys=keys, help="show this help and every key")
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?" if is_optional else None,
        help=f"JSON file, or the name of a shipped one such as {recipe}",
    )
    parser.set_defaults(may_lack_config=is_optional)
    parser.add_argument("overrides", nargs=argparse.REMAINDER, metavar="--key value", help="keys to override in CONFIG")


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the number and place of a command's processes."""
    group = parser.add_argument_group("launch options (without them the command runs in one process)")
    group.add_argument("--num_processes", type=int, metavar="N", help="number of processes, on all machines together")
    group.add_argument(
        "--config_file",
        metavar="FILE",
        help="launch file, or the name of a shipped one such as fsdp2_8_gpus.yaml",
    )
    group.add_argument("--devices", type=int, metavar="N", help="number of processes on each machine, one for each GPU")
    group.add_argument("--gpu_ids", metavar="IDS", help="GPUs of this machine to use, such as 0,1")
    group.add_argument(
        "--num_machines",
        "--num_nodes",
        type=int,
        metavar="N",
        help="number of machines; run the command on each of them",
    )
    group.add_argument("--machine_rank", type=int, metavar="N", help="number of this machine, 0 for the first")
    group.add_argument("--main_process_ip", metavar="ADDRESS", help="address of the first machine")
    group.add_argument("--main_process_port", type=int, metavar="PORT", help="port of the first machine")


def split_off_launch(
    arguments: argparse.Namespace, *declare: Callable[[argparse.ArgumentParser], None]
) -> tuple[list[str], LaunchOptions]:
    """Separate the arguments of a run from the options of `songgen` itself, in any order.

    Args:
        arguments: parsed command line; options found among the overrides are set in it.
        declare: functions that add further options which may come after CONFIG.

    Returns:
        The arguments `[CONFIG] [--key value ...]` of the run, and its launch options.

    Raises:
        ValueError: if the launch options contradict each other.
    """
    parser = argparse.ArgumentParser(
        prog="songgen", usage="--help shows the options", allow_abbrev=False, add_help=False
    )
    for add in (add_launch_options, *declare):
        add(parser)
    _, words = parser.parse_known_args(arguments.overrides, arguments)
    _read_devices(arguments)
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(LaunchOptions)}
    if values["config_file"] is not None:
        values["config_file"] = find_recipe(values["config_file"], LAUNCHING)
    return [*filter(None, [arguments.config]), *words], LaunchOptions(**values)


def _read_devices(arguments: argparse.Namespace) -> None:
    """Set the number of processes from the number of devices of each machine, and say so.

    Raises:
        ValueError: if both are given, or the number is below 1.
    """
    if arguments.num_machines == 1:
        arguments.num_machines = None
    if arguments.devices is None:
        return
    machines = arguments.num_machines or 1
    if arguments.devices < 1:
        raise ValueError(f"--devices is {arguments.devices}; give 1 or more")
    if arguments.num_processes not in (None, arguments.devices * machines):
        raise ValueError(
            f"--devices {arguments.devices} on {machines} machine(s) and --num_processes {arguments.num_processes} "
            "contradict each other; give one of them"
        )
    arguments.num_processes = arguments.devices * machines
    say(f"--devices {arguments.devices} is read as --num_processes {arguments.num_processes}")


def launch_command(words: Sequence[str], options: LaunchOptions) -> int:
    """Run a subcommand in several processes.

    Args:
        words: name and arguments of the subcommand.
        options: options of the launch.

    Returns:
        The exit code of the run.

    Raises:
        ValueError: if accelerate refuses the options.
    """
    return launch("songgen.cli.main", words, options)
