"""Registry of model families by the type in a model folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from songgen.adapters.folder import Adapter
from songgen.families.family import Family
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import MODEL_CONFIG_FILES, PIPELINE_FILE, resolve_folder
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

DEFAULT_MODEL_TYPE = "songgen"
"""Type of a model whose `config.json` does not say one."""

FAMILIES: dict[str, str] = {DEFAULT_MODEL_TYPE: "songgen.families.tokens.family:TOKENS"}
"""`model_type` in `config.json` -> module and name of its family, imported when such a model is opened."""

PIPELINES: dict[str, str] = {"AceStepPipeline": "songgen.families.flow.family:FLOW"}
"""`_class_name` in `model_index.json` -> module and name of its family."""

SHARED_FORMS = ("songgen.families.flow.adapter_formats:write_shared_forms",)
"""Functions that write an adapter in the forms of other programs if its layers are those of their family."""


def write_shared_forms(folder: Path, adapter: Adapter) -> tuple[str, ...]:
    """Write an adapter in the forms that other programs of its family read.

    The family is found by the names of its layers, so that the base need not be here.

    Args:
        folder: folder of the adapter.
        adapter: the adapter.

    Returns:
        Names of the files; none if the family has no such forms.
    """
    names: list[str] = []
    for place in SHARED_FORMS:
        write: Callable[[Path, Adapter], tuple[str, ...]] = _imported(place)
        names += write(folder, adapter)
    return tuple(names)


def family_of(name: str | Path, revision: str | None = None) -> Family[Any]:
    """Return the family of a model.

    Args:
        name: folder or hub id.
        revision: branch, tag or commit of a hub repository.

    Raises:
        ValueError: if the model is not found, or the type that its folder states is unknown.
    """
    folder = resolve_folder(name, revision=revision, patterns=MODEL_CONFIG_FILES)
    if (folder / PIPELINE_FILE).is_file():
        known, key, file, default = PIPELINES, "_class_name", PIPELINE_FILE, None
    else:
        known, key, file, default = FAMILIES, "model_type", MODEL_CONFIG_FILE, DEFAULT_MODEL_TYPE
    stated = read_json_object(folder / file).get(key, default)
    if not isinstance(stated, str) or stated not in known:
        raise ValueError(f"{name}: {file} has {key} {stated!r}, expected one of {', '.join(known)}")
    try:
        family: Family[Any] = _imported(known[stated])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("songgen"):
            raise
        raise ValueError(
            f"{name}: {file} has {key} {stated!r}, and such models need the package {error.name}, which is not "
            'installed: pip install -c constraints.txt -e ".[flow]"'
        ) from error
    return family


def _imported(place: str) -> Any:
    """Return an object that is named as `MODULE:NAME`."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
