"""Registry of model families by the type in a model folder."""

from __future__ import annotations

import importlib
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

ADAPTER_FORMATS: dict[str, str] = {"AceStepPipeline": "songgen.families.flow.adapter_formats"}
"""Key of `PIPELINES` -> module with the forms of its adapters in other programs: `own_names(adapter)`, and
`write_shared_forms(folder, adapter)`. They know adapters by the names of their layers, and need no base."""


def in_own_names(adapter: Adapter) -> Adapter:
    """Return an adapter from elsewhere with the names of layers that its family uses here."""
    for module in ADAPTER_FORMATS.values():
        adapter = importlib.import_module(module).own_names(adapter)
    return adapter


def write_shared_forms(folder: Path, adapter: Adapter) -> tuple[str, ...]:
    """Write an adapter in the forms that other programs of its family read.

    Args:
        folder: folder of the adapter.
        adapter: the adapter, in the names of its family.

    Returns:
        Names of the files; none if the family has no such forms.
    """
    names: list[str] = []
    for module in ADAPTER_FORMATS.values():
        names += importlib.import_module(module).write_shared_forms(folder, adapter)
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
    module, _, attribute = known[stated].partition(":")
    try:
        family: Family[Any] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "songgen":
            raise
        raise ValueError(
            f"{name}: {file} has {key} {stated!r}, and such models need the package {package}, which is not "
            'installed: pip install -c constraints.txt -e ".[flow]"'
        ) from error
    return family
