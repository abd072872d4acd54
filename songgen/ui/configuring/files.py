"""Configuration files of the page: the saved ones, and those that a new one can start from."""

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.config.loading import BASE_KEY, read_config_file
from songgen.config.lora import with_lora
from songgen.config.recipes import ADAPTING, TRAINING, recipe_folder
from songgen.runtime.files import expand_home, write_text_atomic
from songgen.runtime.json_files import read_json_object
from songgen.ui.configuring.form_values import effective_values, without_adapter
from songgen.ui.site import as_json
from songgen.ui.workspace import CONFIGS_FOLDER, Workspace

NAME = re.compile(r"[^\W_][\w.-]{0,79}")
"""Names of configurations; the file has `.json` besides."""

DEMO = "demo/"
"""Beginning of the names of shipped configurations that train the demo's model of a toy size."""

PREPARE_KEY = "inputs"
"""Key that every configuration of `prepare` has, and none of a run; the page keeps both in one folder."""

MAX_BASES = 20
"""Maximum number of files in a chain of bases."""

_SAVING = threading.Lock()
"""Held from the test whether a file exists until it is written: of two browsers, one is then asked."""

CHECK_PATHS = "Choose the model and the data set: the paths of this preset are those of the published training."
"""Notice for the user."""


@dataclass(frozen=True)
class Start:
    """Configuration that the form begins with."""

    values: Mapping[str, Any]
    """Content of the file."""

    name: str = ""
    """Name for saving it."""

    notice: str = ""
    """What the user should know."""

    reasons: Mapping[str, str] | None = None
    """Reason for each value that was chosen."""

    is_saved: bool = False
    """Whether these are the values of the saved file of this name."""


def config_path(workspace: Workspace, name: str) -> Path:
    """Return the path of a saved configuration, which need not exist, relative to the workspace.

    Raises:
        ValueError: if the name is not one of a file, or leads out of the workspace.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"name: {name!r} cannot be the name of a file; use letters, digits, dots, hyphens and underscores, at most "
            "80, and begin with a letter or digit"
        )
    path = CONFIGS_FOLDER / f"{name}.json"
    workspace.path(str(path), "name")
    return path


def saved_configs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return name, file, time, model and data of every saved configuration of a run, newest first."""
    found = []
    for path in (workspace.root / CONFIGS_FOLDER).glob("*.json"):
        try:
            values, changed = read_json_object(workspace.path(str(path))), path.stat().st_mtime
        except (OSError, ValueError):
            continue
        if PREPARE_KEY in values:
            continue
        texts = {key: values.get(key) for key in ("model_name_or_path", "save_to_disk")}
        found.append({"name": path.stem, "file": workspace.shown(path), "changed": changed, **texts})
    return sorted(found, key=lambda entry: -entry["changed"])


def save_config(workspace: Workspace, name: str, values: Mapping[str, Any], *, overwrite: bool) -> Path | None:
    """Write a configuration; return its path, or None if it exists and must not be replaced.

    What the checks say of it does not matter here: it is the user's file.

    Raises:
        ValueError: if the name is not one of a file, a path in it is outside of the folders, or it cannot be written.
    """
    path = config_path(workspace, name)
    require_values_inside(workspace, path, values)
    target = workspace.root / path
    with _SAVING:
        if target.exists() and not overwrite:
            return None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(target, as_json(dict(values)) + "\n")
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} could not be written: {error}") from error
    return path


def require_values_inside(workspace: Workspace, path: Path, values: Mapping[str, Any]) -> None:
    """Check every path in a configuration, and in the files that it is based on, before anything reads them.

    Shipped files may be bases too: they are public, and read-only.

    Raises:
        ValueError: if a path is outside of the folders, or a base cannot be read.
    """
    _require_own_inside(workspace, values, "values")
    base, file = values.get(BASE_KEY), workspace.root / path
    for _ in range(MAX_BASES):
        if not isinstance(base, str) or not base:
            return
        file = Path(os.path.normpath(file.parent / expand_home(base)))  # found as `read_layers` finds it
        if not file.resolve().is_relative_to(recipe_folder().resolve()):
            workspace.path(str(file), BASE_KEY)
        content = read_json_object(file)
        _require_own_inside(workspace, content, file.name)
        base = content.get(BASE_KEY)
    if base is not None:
        raise ValueError(f'{BASE_KEY}: more than {MAX_BASES} files; does a "base" lead to itself?')


def _require_own_inside(workspace: Workspace, values: Mapping[str, Any], what: str) -> None:
    """Check the paths of one file, without those in its base."""
    own = {name: value for name, value in values.items() if name != BASE_KEY and not _is_recipe(name, value)}
    workspace.require_inside(own, what)


def _is_recipe(name: str, value: Any) -> bool:
    """Return whether a value is the name of a shipped adapter, which is not a path of the workspace."""
    return name == "lora_config_path" and isinstance(value, str) and value in adapter_presets()


def merged_values(workspace: Workspace, path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a file together with those of its bases, under their real names.

    Raises:
        ValueError: if a base cannot be read, or a path is outside of the folders.
    """
    require_values_inside(workspace, path, values)
    return read_config_file(workspace.root / path, content=dict(values))[0]


def standard_values(workspace: Workspace, path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every field if the file did not have it: that of its base, or the default.

    Raises:
        ValueError: as `merged_values` does.
    """
    base = {BASE_KEY: values[BASE_KEY]} if BASE_KEY in values else {}
    return effective_values(merged_values(workspace, path, base))


def training_presets() -> list[str]:
    """Return the names of the shipped configurations of runs, those of the demo last.

    Files that only others are based on are left out.
    """
    root = recipe_folder() / TRAINING
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.json"))]
    return sorted(filter(lambda name: _is_preset(root / name), names), key=lambda name: name.startswith(DEMO))


def _is_preset(path: Path) -> bool:
    return "model_name_or_path" in read_json_object(path) and "data" not in path.stem


def adapter_presets() -> list[str]:
    """Return the names of the shipped descriptions of adapters, small ones first."""
    names = [path.name for path in (recipe_folder() / ADAPTING).glob("*.json")]
    return sorted(names, key=lambda name: (int("".join(filter(str.isdigit, name.split("_")[0])) or 0), name))


def with_adapter(values: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Return the values with a shipped adapter in place of any other.

    Raises:
        ValueError: if there is no such preset.
    """
    if preset not in adapter_presets():
        raise ValueError(f"there is no adapter {preset}; there are {', '.join(adapter_presets())}")
    changed, problems = with_lora({**without_adapter(values), "lora_config_path": preset})
    assert not problems, "shipped"
    return changed


def from_preset(name: str, *, model: str = "", data: str = "") -> Start:
    """Return a shipped configuration, complete: without its base, for the chosen model and data.

    Raises:
        ValueError: if there is no such preset.
    """
    if name not in training_presets():
        raise ValueError(f"there is no preset {name}")
    values, _ = read_config_file(recipe_folder() / TRAINING / name)
    stem = name.removesuffix(".json").replace("/", "-")
    chosen = {"model_name_or_path": model, "save_to_disk": data}
    values |= {key: value for key, value in chosen.items() if value} | {"output_dir": f"outputs/{stem}"}
    return Start(without_defaults(values), stem, notice="" if model and data else CHECK_PATHS)


def from_saved(workspace: Workspace, file: str) -> Start:
    """Return a configuration file of the workspace as it is; saving replaces it if it is one of the page's own.

    Raises:
        ValueError: if it cannot be read or is outside of the folders.
    """
    path = workspace.path(file, "config")
    values = read_json_object(path)
    is_own = path.parent == (workspace.root / CONFIGS_FOLDER).resolve()
    if not is_own and BASE_KEY in values:
        require_values_inside(workspace, path, values)
        values, _ = read_config_file(path)  # its base is found from its own folder only
    return Start(values, path.stem if NAME.fullmatch(path.stem) else "", is_saved=is_own)


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from what is used anyway; unknown keys stay."""
    standard = effective_values({})
    return {name: value for name, value in values.items() if name not in standard or value != standard[name]}
