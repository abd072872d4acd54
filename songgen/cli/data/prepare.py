"""`songgen prepare`: prepare a data set from a folder of songs."""

import argparse
import shlex
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from songgen.cli.run_arguments import add_config_arguments
from songgen.exit_codes import EXIT_BAD_DATA, EXIT_DONE, EXIT_LOST_PROCESS
from songgen.runtime.json_files import read_json_object
from songgen.runtime.terminal import outliving_terminal, printable, say

if TYPE_CHECKING:
    from songgen.prepare.config import PrepareConfig
    from songgen.prepare.preparation import PrepareSummary


FIRST_STAGE = "mixed_pro/step1.json"
"""Recipe of the first stage of training."""

SHOWN_LINES = 5
"""Number of lines printed of a list in LJSpeech format."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `songgen prepare`."""
    usage = "songgen prepare CONFIG [--key value] [--section.key value] [--section null]"
    add_config_arguments(parser, usage, "offline.json", _keys)


def _keys() -> str:
    from songgen.prepare.config import help_text

    return help_text()


def run(arguments: argparse.Namespace) -> int:
    """Prepare the data set and print a summary.

    Raises:
        ValueError: if something needs the user's attention.
    """
    from songgen.prepare.config import load_prepare_config
    from songgen.prepare.engine.runner import WorkerLost
    from songgen.prepare.preparation import TooManyBadSongs, prepare
    from songgen.runtime.processes.peers import LostProcess

    if {"-h", "--help"} & set(arguments.overrides):
        print(_keys())
        return EXIT_DONE
    config = load_prepare_config([arguments.config, *arguments.overrides])
    with outliving_terminal():
        try:
            summary = prepare(config)
        except TooManyBadSongs as error:
            say(f"songgen prepare: {error}")
            return EXIT_BAD_DATA
        except (WorkerLost, LostProcess) as error:
            say(f"songgen prepare: {error}")
            return EXIT_LOST_PROCESS
        if summary is not None:
            print(printable("\n".join(describe(config, summary))))
    return EXIT_DONE


def _first_lines(config: "PrepareConfig") -> Iterator[str]:
    """Yield the first lines of each list in LJSpeech format, as a preview of what other programs read."""
    from songgen.prepare.output.writers import LJSPEECH_FILES

    for name in LJSPEECH_FILES.values():
        path = config.output_folder / name
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                first = [line.rstrip("\n") for line in islice(file, SHOWN_LINES)]
            yield f"{name} begins:"
            yield from (f"  {line}" for line in first)


def describe(config: "PrepareConfig", summary: "PrepareSummary") -> list[str]:
    """Return a summary of a run, line by line."""
    info = summary.info
    folder = config.settings.output_dir.rstrip("/")
    lines = [f"{summary.songs} songs in, {sum(info.clips.values())} clips out"]
    lines += [f"  {split}: {count} clips, {info.seconds[split] / 3600:.2f} h" for split, count in info.clips.items()]
    lines += [f"  refused, {code}: {count}" for code, count in info.refused.items()]
    if info.without_caption:
        lines.append(f"{info.without_caption} clips have no caption, and preprocessing leaves them out: switch tag on")
    if summary.notices:
        lines.append(f"{summary.notices} notices on the inputs: {folder}.work/songs.notices.json")
    lines.append(f"{'written' if summary.is_changed else 'nothing has changed'}: {folder}")
    if config.sections["report"] is not None:
        lines.append(f"report: {folder}/report.html")
    lines += _first_lines(config)
    lines.append(f"to listen and to correct: songgen review {shlex.quote(folder)}")
    return [*lines, "next:", *(f"  {command}" for command in next_commands(config))]


def next_commands(config: "PrepareConfig") -> list[str]:
    """Return the commands that lead from the data set to a training run, with all names filled in."""
    import torch

    from songgen.prepare.output.next_steps import missing_parts
    from songgen.prepare.output.writers import DATA_CONFIG_FILE

    folder = config.settings.output_dir.rstrip("/")
    values = read_json_object(config.output_folder / DATA_CONFIG_FILE)
    has_eval, has_vocal = "eval_dataset_name" in values, "ref_voice_column_name" in values
    commands: list[tuple[str, ...]] = []
    for name, given in missing_parts(folder, values).items():
        if name == "tokenizer":
            commands.append((name, "--manifest", *given["manifest"], "--out", given["out"]))
        else:
            commands.append((name, given["out"], "--tokenizers", given["tokenizers"]))
    commands.append(("tokenize", f"{folder}/{DATA_CONFIG_FILE}"))
    options = ["--model_name_or_path", values["model_name_or_path"], "--save_to_disk", values["save_to_disk"]]
    options += [] if has_vocal else ["--add_vocal_loss", "false"]
    options += [] if has_eval else ["--do_eval", "false", "--eval_strategy", "no"]
    options += [] if torch.cuda.is_available() else ["--dtype", "float32"]
    commands.append(("train", FIRST_STAGE, *options))
    return [shlex.join(("songgen", *command)) for command in commands]
