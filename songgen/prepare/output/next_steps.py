"""The parts of a model that have to be made before a prepared data set can be tokenized."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songgen.prepare.output.writers import METADATA_FILES

TOKENIZERS_FOLDER = "tokenizers"
"""Name of the folder of new tokenizers, next to the model."""


def folder_beside(model: str, name: str) -> str:
    """Return a folder next to a model as it is written in commands; a relative one is marked as a path by `./`."""
    folder = str(Path(model).parent / name)
    return folder if folder.startswith((".", "/", "~")) else f"./{folder}"


def missing_parts(folder: str, values: Mapping[str, Any], root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Return the commands that make what is missing, in order: name of the command -> values of its options.

    Args:
        folder: prepared data set, as it is written in commands.
        values: its `data.json`.
        root: folder in which commands run.
    """
    model = str(values.get("model_name_or_path") or "")
    if not model.startswith((".", "/", "~")) or (root / Path(model).expanduser()).exists():
        return {}
    tokenizers = folder_beside(model, TOKENIZERS_FOLDER)
    commands: dict[str, dict[str, Any]] = {}
    if not (root / Path(tokenizers).expanduser()).exists():
        names = [name for name in METADATA_FILES.values() if (root / folder / name).is_file()]
        commands["tokenizer"] = {"manifest": [f"{folder}/{name}" for name in names[:1]], "out": tokenizers}
    commands["init"] = {"out": model, "tokenizers": tokenizers}
    return commands
