"""The form of `songgen prepare`: its fields, starting points, and the configuration that it writes."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from songgen.config.keys import keys_of
from songgen.config.loading import read_layers
from songgen.config.recipes import PREPARING, find_recipe, recipe_folder
from songgen.prepare.config import (
    OWN_KEYS,
    PrepareConfig,
    PrepareSettings,
    config_of_layers,
    merge_layers,
)
from songgen.prepare.engine.section import Section
from songgen.prepare.sections import SECTIONS
from songgen.ui.fields import Field, field_of_key
from songgen.ui.workspace import Workspace

RECIPES = {
    "offline.json": "Cuts and measures songs that have their own lyrics and tags. Needs no network and no GPU.",
    "cpu.json": "Also writes down the words with a small speech recognizer. For a few hours of songs without a GPU.",
    "full.json": "Also separates the voice, transcribes with two recognizers, and lets a model describe every clip. "
    "Needs a GPU.",
    "hq.json": "As full.json, and keeps only clips of high quality: fewer and cleaner.",
    "total.json": "As full.json, and keeps almost every clip: more, and less clean.",
}
"""Recipe -> what it does; the first is the default."""

SPLIT = "split"
"""Section that is shown next to the songs."""

_PLACEHOLDERS = {"inputs": ["songs"], "output_dir": "songs"}


@dataclass(frozen=True)
class SectionForm:
    """A section of the form."""

    section: Section
    """The section."""

    fields: tuple[Field, ...]
    """Its keys; each name is `SECTION.KEY`."""


def top_fields() -> tuple[Field, ...]:
    """Return the fields of the keys that are in no section, except those with a place of their own."""
    return tuple(field_of_key(key) for key in keys_of("", PrepareSettings) if key.name not in OWN_KEYS)


@cache
def section_forms() -> dict[str, SectionForm]:
    """Return the form of every section, in the order in which they run."""
    return {
        name: SectionForm(
            section,
            tuple(
                dataclasses.replace(field_of_key(key), name=f"{name}.{key.name}")
                for key in keys_of(f"{name}.", section.options)
            ),
        )
        for name, section in SECTIONS.items()
    }


def recipes() -> dict[str, str]:
    """Return the recipes with what they do; one that is not described yet has an empty text."""
    names = sorted(path.name for path in (recipe_folder() / PREPARING).glob("*.json"))
    return {name: RECIPES.get(name, "") for name in sorted(names, key=[*RECIPES, *names].index)}


def starting_layer(start: str, workspace: Workspace) -> dict[str, Any]:
    """Return the values that a form starts with, as they are written into the configuration.

    Args:
        start: name of a recipe, or a prepared data set or run whose settings are imported.
        workspace: folders that a data set must be in.

    Raises:
        ValueError: if there is no such recipe or folder.
    """
    if start in recipes():
        merged = merge_layers([values for _, values in read_layers(find_recipe(start, PREPARING))])
        return {name: value for name, value in merged.items() if name not in OWN_KEYS}
    return {"import_settings": workspace.shown(workspace.existing_folder(start, "import_settings"))}


def starting_values(start: str, workspace: Workspace) -> dict[str, Any]:
    """Return the value of every field for a starting point: `KEY`, `SECTION` (whether it is on), `SECTION.KEY`.

    Raises:
        ValueError: if there is no such recipe or folder, or its settings cannot be read.
    """
    layer = _resolved(starting_layer(start, workspace), workspace)
    config = config_of_layers([layer, _PLACEHOLDERS], where=start)
    values: dict[str, Any] = {field.name: getattr(config.settings, field.name) for field in top_fields()}
    for name, form in section_forms().items():
        options = config.sections[name]
        values[name] = options is not None
        for field in form.fields:
            key = field.name.partition(".")[2]
            values[field.name] = field.default if options is None else getattr(options, key)
    return values


def configuration(
    start: str, songs: Sequence[str], held_out: Sequence[str], changes: Mapping[str, Any], workspace: Workspace
) -> dict[str, Any]:
    """Return the values of a configuration file.

    Args:
        start: see `starting_layer`.
        songs: inputs: folders, manifests, saved data sets, hub ids.
        held_out: inputs whose songs are for evaluation only.
        changes: `KEY` -> value, `SECTION` -> whether it is on, `SECTION.KEY` -> value; of what differs.
        workspace: folders that paths must be in.

    Raises:
        ValueError: if a path is outside of the folders.
    """
    values: dict[str, Any] = {"inputs": [*songs, *({"name": name, "use_for": "eval"} for name in held_out)]}
    values |= starting_layer(start, workspace)
    switched_off = [name for name in SECTIONS if changes.get(name) is False]
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if section in switched_off:
            values[section] = None
        elif section in SECTIONS:
            present = values.get(section)
            values[section] = {**(present if isinstance(present, dict) else {}), **({key: value} if key else {})}
        else:
            values[name] = value
    workspace.require_inside(values, "configuration")
    if values.get("output_dir"):
        workspace.path(str(values["output_dir"]), "output_dir")  # it need not exist, so it would pass as a text
    return values


def checked(values: Mapping[str, Any], workspace: Workspace) -> PrepareConfig:
    """Return the configuration that the values of a file make.

    Raises:
        ValueError: if there are problems; lists all of them.
    """
    return config_of_layers([_resolved(values, workspace)], where="these settings")


def _resolved(values: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
    """Return the values with the folder of imported settings as seen from any folder."""
    folder = values.get("import_settings")
    return {**values, "import_settings": str(workspace.root / Path(folder))} if folder else dict(values)
