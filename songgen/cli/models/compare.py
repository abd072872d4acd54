"""`songgen compare`: what an adapter changes, measured and played side by side."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from songgen.exit_codes import EXIT_DONE, EXIT_ERROR

if TYPE_CHECKING:
    from songgen.config import RunConfig

DEFAULT_CLIPS, DEFAULT_CAPTIONS = 64, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen compare`."""
    parser.add_argument("adapter", help="run, checkpoint, adapter folder or hub id, with or without :STRENGTH")
    parser.add_argument("--data", type=Path, help="tokenized data set with held-out clips (if left out: the run's)")
    parser.add_argument("--model", help="base model, instead of the one that the adapter names")
    parser.add_argument("--captions", type=int, default=DEFAULT_CAPTIONS, help="songs to generate (0: only losses)")
    parser.add_argument("--clips", type=int, default=DEFAULT_CLIPS, help="held-out clips whose losses are measured")
    parser.add_argument("--greedy", action="store_true", help="greedy decoding instead of the run's sampling")
    parser.add_argument("--seed", type=int, help="seed of the songs (if left out: the run's)")
    parser.add_argument("--out", type=Path, help="folder for the page (if left out: the run or adapter)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto uses the first available one")
    parser.add_argument("--any_base", action="store_true", help="compare on other weights than it was trained on")


def run(arguments: argparse.Namespace) -> int:
    """Compare and write the page; the exit code is 1 if the adapter does not lower the held-out loss.

    Raises:
        ValueError: if something is missing or does not fit.
    """
    from songgen.adapters.choice import parse_choice
    from songgen.adapters.folder import read_adapter
    from songgen.cli.models.generate import find_device
    from songgen.families.registry import family_of
    from songgen.families.songs import Processes, evaluation_data
    from songgen.families.use.opening import ModelChoice, choose_model, open_attached
    from songgen.runtime.processes.commands import Inbox
    from songgen.train.comparing.measure import ComparedModel
    from songgen.train.comparing.page import COMPARISON_FOLDER, PAGE_FILE, Subject, summary, write_comparison

    if arguments.clips < 1 or arguments.captions < 0:
        raise ValueError("--clips must be at least 1, and --captions at least 0")
    adapter = parse_choice(arguments.adapter)
    base = choose_model(arguments.model or adapter.folder).base
    config = _config(arguments, adapter.place, base)
    core, attached = open_attached(ModelChoice(base, (adapter,)), any_base=arguments.any_base)
    core.to(find_device(arguments.device))
    family = family_of(base)
    objective = family.objective(config, core)
    held_out = evaluation_data(
        config, objective, lambda songs: family.check_data(config, core, songs, objective.data_needs), Processes(0, 1)
    )
    compared = ComparedModel(objective, core, core, attached.without)
    comparison = compared.compare(held_out, Inbox(), clips=arguments.clips, songs=arguments.captions)
    out = arguments.out or adapter.place
    read = read_adapter(adapter.folder)
    comparison = replace(comparison, idle=read.is_idle)
    steps = None if read.recipe is None else read.recipe.steps
    write_comparison(comparison, Subject(adapter.folder.resolve().name, str(base), steps), out)
    print(summary(comparison))
    for warning in comparison.warnings():
        print(f"warning: {warning}")
    print(out / COMPARISON_FOLDER / PAGE_FILE)
    return EXIT_ERROR if comparison.warnings() else EXIT_DONE


def _config(arguments: argparse.Namespace, adapter: Path, base: Path) -> "RunConfig":
    """Return the configuration of the run that made an adapter, as far as it is known, for this comparison.

    Raises:
        ValueError: if no data set is known.
    """
    from songgen.config import RunConfig
    from songgen.config.keys import all_keys
    from songgen.runtime.json_files import read_json_object
    from songgen.train.checkpoints.files import RUN_CONFIG_FILE

    path = adapter / RUN_CONFIG_FILE
    stored = read_json_object(path) if path.is_file() else {}
    of_adapter = {name for name, key in all_keys().items() if key.group == "adapter"}
    # The adapter is attached already, and is not one to be trained.
    values = {name: value for name, value in stored.items() if name not in of_adapter}
    if arguments.data is not None:
        values["save_to_disk"] = str(arguments.data)
    if not values.get("save_to_disk"):
        raise ValueError(f"{adapter} does not say which data set it was trained on: give one with --data SET")
    values |= {
        "model_name_or_path": str(base),
        "output_dir": str(arguments.out or adapter),
        "do_eval": True,
        "predict_with_generate": arguments.captions > 0,
        "eval_dataloader_num_workers": 0,
    }
    if arguments.greedy:
        values["do_sample"] = False
    if arguments.seed is not None:
        values["seed"] = arguments.seed
    return RunConfig.from_dict(values, sources=(str(path),))
