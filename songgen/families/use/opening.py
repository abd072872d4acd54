"""Opening a model to generate with: a model folder, or an adapter with its base, and further adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.adapters.choice import AdapterChoice, base_of, find_adapter, has_adapter, parse_choice
from songgen.adapters.folder import read_recipe
from songgen.runtime.model_folders import DOWNLOADED, model_config_file, resolve_folder
from songgen.runtime.pretrained import find_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from songgen.adapters.apply import Attached
    from songgen.families.family import Family, UsedRecipe


@dataclass(frozen=True)
class ModelChoice:
    """What is opened: a base model and the adapters on it."""

    base: Path
    """Folder of the base model."""
    adapters: tuple[AdapterChoice, ...] = ()
    """Adapters, with their strengths."""


def choose_model(name: str | Path, adapters: Iterable[str | Path | AdapterChoice] = ()) -> ModelChoice:
    """Find the folders of a model and its adapters, downloading what is on a hub.

    Args:
        name: model folder or hub id; or an adapter's folder, checkpoint, run or hub id, which is then applied to the
            base model that it names.
        adapters: further adapters: `FOLDER[:strength]`.

    Raises:
        ValueError: if something is not found, or is neither a model nor an adapter, or if an adapter is given twice.
    """
    chosen = [each if isinstance(each, AdapterChoice) else parse_choice(each) for each in adapters]
    if Path(name).is_file():
        return _with_own_adapter(name, chosen)
    folder = find_folder(name, patterns=DOWNLOADED)
    if model_config_file(folder) is not None or not has_adapter(folder):
        return ModelChoice(resolve_folder(folder), tuple(chosen))
    return _with_own_adapter(folder, chosen)


def _with_own_adapter(name: str | Path, others: list[AdapterChoice]) -> ModelChoice:
    own = find_adapter(name)
    base = base_folder(own)
    if any(other.folder.resolve() == own.resolve() for other in others):
        raise ValueError(f"{name} is given as a model and as an adapter; for a strength of it, name its base: {base}")
    return ModelChoice(base, (AdapterChoice(own), *others))


def open_attached(choice: ModelChoice, *, any_base: bool = False) -> tuple[nn.Module, Attached]:
    """Open a base model in float32 with its adapters attached, and return the handle to use it without them.

    Raises:
        ValueError: as in `open_choice`.
    """
    from songgen.adapters.apply import AdapterUse, attach_adapters
    from songgen.adapters.folder import read_adapter
    from songgen.families.registry import family_of, in_own_names

    family = family_of(choice.base)
    uses = [
        AdapterUse(in_own_names(read_adapter(each.folder)), str(each.folder), each.strength) for each in choice.adapters
    ]
    # In float32: fingerprints are of these weights.
    model = _open_base(family, choice)
    attached = attach_adapters(model.get_submodule(family.adapter_root), uses, any_base=any_base)
    return model.eval(), attached


def open_choice(choice: ModelChoice, *, dtype: torch.dtype | None = None, any_base: bool = False) -> Any:
    """Open a base model with its adapters attached, in evaluation mode.

    Args:
        choice: what `choose_model` returned.
        dtype: precision of the weights (None: float32).
        any_base: whether adapters may have been trained on a base with other weights, with a warning.

    Returns:
        A model of its family's class.

    Raises:
        ValueError: if a folder is damaged, or an adapter does not belong to the base.
    """
    from songgen.families.registry import family_of

    if not choice.adapters:
        return _open_base(family_of(choice.base), choice, dtype)
    model, _ = open_attached(choice, any_base=any_base)
    return model if dtype is None else model.to(dtype)


def open_model(
    name: str | Path,
    adapters: Iterable[str | Path | AdapterChoice] = (),
    *,
    dtype: torch.dtype | None = None,
    any_base: bool = False,
) -> Any:
    """Open a model, or an adapter on its base, with further adapters; see `choose_model` and `open_choice`."""
    return open_choice(choose_model(name, adapters), dtype=dtype, any_base=any_base)


def base_folder(adapter: Path) -> Path:
    """Return the folder of the base model that an adapter names, downloading what is on a hub.

    Raises:
        ValueError: if it is not found.
    """
    try:
        return resolve_folder(base_of(adapter))
    except ValueError as error:
        raise ValueError(
            f"the base model of the adapter {adapter} cannot be opened: {error}. If it is elsewhere, "
            f"name it: --model BASE --adapter {adapter}"
        ) from error


def _open_base(family: Family[Any], choice: ModelChoice, dtype: torch.dtype | None = None) -> nn.Module:
    """Open a base in the form that the adapters were trained with.

    Raises:
        ValueError: if it cannot be opened, or not in this form.
    """
    if family.open_base is None:
        raise ValueError(f"{choice.base} is a model of the family {family.name}, which can be trained, and not used")
    recipes: list[UsedRecipe] = []
    for each in choice.adapters:
        recipe = read_recipe(each.folder)
        if recipe is not None and each.strength != 0:
            recipes.append((each.folder, recipe))
    model: nn.Module = family.open_base(choice.base, recipes, dtype)
    return model
