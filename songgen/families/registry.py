"""Registry of model families by the type in a model folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from songgen.families.family import Family
from songgen.models.loading import resolve_folder
from songgen.runtime.json_files import read_json_object
from songgen.runtime.pretrained import find_folder
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

PIPELINE_FILE = "model_index.json"
"""File at the root of a diffusers folder, which has no `config.json` there."""

DEFAULT_MODEL_TYPE = "songgen"
"""Type of a model whose `config.json` does not say one."""

FAMILIES: dict[str, str] = {DEFAULT_MODEL_TYPE: "songgen.families.tokens.family:TOKENS"}
"""`model_type` in `config.json` -> module and name of its family, imported when such a model is opened."""

PIPELINES: dict[str, str] = {"AceStepPipeline": "songgen.families.flow.family:FLOW"}
"""`_class_name` in `model_index.json` -> module and name of its family."""


def family_of(name: str | Path, revision: str | None = None) -> Family[Any]:
    """Return the family of a model.

    Args:
        name: folder or hub id.
        revision: branch, tag or commit of a hub repository.

    Raises:
        ValueError: if the model is not found, or the type that its folder states is unknown.
    """
    folder = find_folder(name, revision=revision, patterns=(MODEL_CONFIG_FILE, PIPELINE_FILE))
    if (folder / PIPELINE_FILE).is_file():
        stated, known, key, file = None, PIPELINES, "_class_name", PIPELINE_FILE
    else:
        folder, stated = resolve_folder(folder), DEFAULT_MODEL_TYPE
        known, key, file = FAMILIES, "model_type", MODEL_CONFIG_FILE
    stated = read_json_object(folder / file).get(key, stated)
    if stated not in known:
        raise ValueError(f"{name}: {file} has {key} {stated!r}, expected one of {', '.join(known)}")
    module, _, attribute = known[stated].partition(":")
    family: Family[Any] = getattr(importlib.import_module(module), attribute)
    return family
