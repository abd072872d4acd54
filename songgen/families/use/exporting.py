"""Writing adapters as folders to share: merged into their base as a whole model, or by themselves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from songgen.adapters.folder import ADAPTER_FILES, AdapterRecipe, read_adapter, read_recipe, write_adapter
from songgen.adapters.merge import MergeDifference, merge_adapters
from songgen.families.registry import family_of, in_own_names, write_shared_forms
from songgen.families.use.opening import ModelChoice, open_choice
from songgen.runtime.file_hashes import record_hashes
from songgen.runtime.files import new_folder, require_new
from songgen.runtime.tensor_files import non_finite_names

MERGED_KEY = "songgen_merged"
"""Metadata of the weights of a merged model: a JSON list of the adapters, their strengths and recipes."""


def export_adapter(source: Path, out: Path, *, base_model: str | None = None) -> AdapterRecipe | None:
    """Write an adapter by itself, out of a checkpoint or another folder; return its recipe.

    It is written in the form of PEFT, and in those of other programs that its family has.

    Args:
        source: folder of an adapter, or a weight file of another program.
        out: new folder.
        base_model: name of the base to record instead of the one in `source`, such as a hub id.

    Raises:
        ValueError: if the adapter cannot be read, or `out` exists.
    """
    require_new(out)
    adapter = in_own_names(read_adapter(source))
    recipe, config = adapter.recipe, adapter.config
    if base_model is not None:
        config.base_model_name_or_path = base_model
        recipe = None if recipe is None else dataclasses.replace(recipe, base_model=base_model)
    with new_folder(out) as folder:
        write_adapter(folder, config, adapter.weights, recipe, hashes=False)
        record_hashes(folder, (*ADAPTER_FILES, *write_shared_forms(folder, adapter)))
    return recipe


def export_merged(choice: ModelChoice, out: Path, *, any_base: bool = False) -> MergeDifference:
    """Write a whole model: the base with its adapters merged, each weight in the precision of the stored base.

    Args:
        choice: base and adapters.
        out: new folder.
        any_base: whether adapters may have been trained on a base with other weights, with a warning.

    Returns:
        What rounding changed.

    Raises:
        ValueError: if something cannot be read, does not fit, or `out` exists.
    """
    require_new(out)
    family = family_of(choice.base)
    if family.stored_precisions is None or family.write_merged is None:
        raise ValueError(f"adapters of the family {family.name} cannot be merged")
    model = open_choice(choice, any_base=any_base)
    prefix = f"{family.adapter_root}." if family.adapter_root else ""
    stored = family.stored_precisions(choice.base)
    precisions = {name.removeprefix(prefix): kind for name, kind in stored.items() if name.startswith(prefix)}
    recipes = [recipe for each in choice.adapters if (recipe := read_recipe(each.folder)) is not None]
    quantization = next((recipe.quantization for recipe in recipes if recipe.quantization), None)
    difference = merge_adapters(model.get_submodule(family.adapter_root), precisions, quantization=quantization)
    weights = {name: tensor.to(stored.get(name, tensor.dtype)) for name, tensor in model.state_dict().items()}
    if bad := non_finite_names(weights):
        raise ValueError(f"merged, {bad[0]} holds NaN or infinity: use a smaller strength, or another checkpoint")
    with new_folder(out) as folder:
        family.write_merged(model, weights, folder, {MERGED_KEY: _merged(choice)})
        record_hashes(folder, family.model_files.names(folder))
    return difference


def _merged(choice: ModelChoice) -> str:
    """Return what was merged, as the text for the headers of the weights."""
    merged = []
    for each in choice.adapters:
        recipe = read_recipe(each.folder)
        merged.append(
            {
                "adapter": each.folder.name,
                "strength": each.strength,
                "recipe": None if recipe is None else dataclasses.asdict(recipe),
            }
        )
    return json.dumps(merged, sort_keys=True)
