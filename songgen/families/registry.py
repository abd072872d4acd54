"""Registry of model families by the type in a model folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from songgen.families.family import Family
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import resolve_folder
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

DEFAULT_MODEL_TYPE = "songgen"
"""Type of a model whose `config.json` does not say one."""

FAMILIES: dict[str, str] = {DEFAULT_MODEL_TYPE: "songgen.families.tokens.family:TOKENS"}
"""`model_type` -> module and name of its family, imported when such a model is opened."""


def family_of(name: str | Path, revision: str | None = None) -> Family[Any]:
    """Return the family of a model.

    Args:
        name: folder or hub id.
        revision: branch, tag or commit of a hub repository.

    Raises:
        ValueError: if the model is not found, or the type in its `config.json` is unknown.
    """
    folder = resolve_folder(name, revision=revision, patterns=(MODEL_CONFIG_FILE,))
    model_type = read_json_object(folder / MODEL_CONFIG_FILE).get("model_type", DEFAULT_MODEL_TYPE)
    if model_type not in FAMILIES:
        raise ValueError(
            f"{name}: {MODEL_CONFIG_FILE} has model_type {model_type!r}, expected one of {', '.join(FAMILIES)}"
        )
    module, _, attribute = FAMILIES[model_type].partition(":")
    family: Family[Any] = getattr(importlib.import_module(module), attribute)
    return family
