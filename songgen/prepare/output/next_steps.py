"""The parts of a model that have to be made before a prepared data set can be tokenized."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songgen.prepare.output.writers import METADATA_FILES

TOKENIZERS_FOLDER = "tokenizers"
"""Name of the folder of new tokenizers, next to the model."""


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
    tokenizers = Path(model).parent / TOKENIZERS_FOLDER
    commands: dict[str, dict[str, Any]] = {}
    if not (root / tokenizers.expanduser()).exists():
        names = [name for name in METADATA_FILES.values() if (root / folder / name).is_file()]
        commands["tokenizer"] = {"manifest": [f"{folder}/{name}" for name in names[:1]], "out": f"./{tokenizers}"}
    commands["init"] = {"out": model, "tokenizers": f"./{tokenizers}"}
    return commands
