"""`songgen export`: an adapter as a folder to share, or merged into its base; a checkpoint as a whole model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from songgen.exit_codes import EXIT_DONE

if TYPE_CHECKING:
    from songgen.adapters.choice import AdapterChoice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `songgen export`."""
    parser.add_argument("source", help="what to export: a run, a checkpoint, an adapter folder or its hub id")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--adapter", type=Path, metavar="OUT", help="new folder for the adapter by itself")
    what.add_argument(
        "--merge", type=Path, metavar="OUT", help="new folder for a whole model, with the adapter merged into its base"
    )
    what.add_argument(
        "--model",
        type=Path,
        metavar="OUT",
        help="new folder for a whole model out of a checkpoint (or the newest one) of a run without adapters",
    )
    parser.add_argument(
        "--base", help="base model, folder or hub id, instead of the one that the adapter names; with --adapter: the "
        "name to record, such as the hub id under which others find the base",
    )  # fmt: skip
    parser.add_argument("--strength", type=float, default=1.0, help="with --merge: factor of what the adapter adds")
    parser.add_argument(
        "--any_base", action="store_true", help="with --merge: merge into other weights than it was trained on"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and say what is in it.

    Raises:
        ValueError: if there is no adapter, something does not fit, or the folder exists.
    """
    from songgen.adapters.choice import AdapterChoice

    if arguments.model is not None:
        if arguments.strength != 1 or arguments.any_base or arguments.base is not None:
            raise ValueError("--base, --strength and --any_base are about adapters: leave them out with --model")
        from songgen.train.checkpoint_model import export_model

        print(f"model of {export_model(Path(arguments.source), arguments.model)} written to {arguments.model}")
        return EXIT_DONE
    source = _adapter_of(arguments.source)
    if arguments.adapter is not None:
        if arguments.strength != 1 or arguments.any_base:
            raise ValueError("--strength and --any_base say how to merge: leave them out with --adapter")
        _export_adapter(source, arguments.adapter, arguments.base)
    else:
        _merge(AdapterChoice(source, arguments.strength), arguments)
    return EXIT_DONE


def _adapter_of(source: str) -> Path:
    """Return the adapter's folder.

    Raises:
        ValueError: if the source has no adapter; a model says that nothing is to be merged.
    """
    from songgen.adapters.choice import find_adapter
    from songgen.runtime.model_folders import model_config_file
    from songgen.runtime.pretrained import local_folder
    from songgen.train.checkpoints.files import MODEL_FILE
    from songgen.train.checkpoints.folders import checkpoint_folders

    folder = local_folder(source)
    try:
        return find_adapter(source)
    except ValueError as error:
        if folder is None:
            raise
        if model_config_file(folder) is None:
            if (folder / MODEL_FILE).is_file() or any(
                (path / MODEL_FILE).is_file() for path in checkpoint_folders(folder)
            ):
                raise ValueError(
                    f"{source} is of a run without adapters: there is nothing to merge. Its checkpoints become whole "
                    f"models with `songgen export {source} --model OUT`"
                ) from error
            raise
        raise ValueError(
            f"{source} is a whole model and has no adapter: there is nothing to merge. Use the folder as it is, with "
            "`songgen generate --model` or `songgen push`"
        ) from error


def _export_adapter(source: Path, out: Path, base: str | None) -> None:
    from songgen.families.use.exporting import export_adapter

    recipe = export_adapter(source, out, base_model=base)
    print(f"adapter of {source} written to {out}")
    if recipe is None:
        print("it has no recipe: another program wrote it")
    else:
        steps = "" if recipe.steps is None else f", {recipe.steps} steps"
        print(f"base {recipe.base_model}, fingerprint {recipe.base_fingerprint[:12]}{steps}")


def _merge(adapter: "AdapterChoice", arguments: argparse.Namespace) -> None:
    from songgen.families.use.exporting import export_merged
    from songgen.families.use.opening import choose_model

    base = arguments.base
    choice = choose_model(adapter.folder) if base is None else choose_model(base)
    choice = type(choice)(choice.base, (adapter,))
    difference = export_merged(choice, arguments.merge, any_base=arguments.any_base)
    print(f"{adapter.folder} merged into {choice.base}, written to {arguments.merge}")
    print(difference)
