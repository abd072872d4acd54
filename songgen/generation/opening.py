"""Opening a model to generate with: a model folder, or an adapter with its base, and further adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.adapters.choice import AdapterChoice, base_of, find_adapter, has_adapter, parse_choice
from songgen.adapters.folder import AdapterRecipe, read_recipe
from songgen.runtime.model_folders import DOWNLOADED, model_config_file, resolve_folder
from songgen.runtime.pretrained import find_folder

if TYPE_CHECKING:
    import torch

    from songgen.adapters.apply import Attached
    from songgen.models import SongGenForConditionalGeneration

_REPLACEABLE = frozenset({"prompt_cross_attention", "decoder.rope_embeddings", "train_every_eos"})
"""Fields of a base's configuration that a recipe may replace. It may come from anyone, so nothing that names a path."""


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
        ValueError: if something is not found, or is neither a model nor an adapter.
    """
    chosen = [each if isinstance(each, AdapterChoice) else parse_choice(each) for each in adapters]
    folder = find_folder(name, patterns=DOWNLOADED)
    if model_config_file(folder) is not None or not has_adapter(folder):
        return ModelChoice(resolve_folder(folder), tuple(chosen))
    own = find_adapter(folder)
    return ModelChoice(base_folder(own), (AdapterChoice(own), *chosen))


def open_attached(choice: ModelChoice, *, any_base: bool = False) -> tuple[SongGenForConditionalGeneration, Attached]:
    """Open a base model in float32 with its adapters attached, and return the handle to use it without them.

    Raises:
        ValueError: as in `open_choice`.
    """
    from songgen.adapters.apply import AdapterUse, attach_adapters
    from songgen.adapters.folder import read_adapter
    from songgen.models import SongGenForConditionalGeneration

    options = _options_of(choice)
    uses = [AdapterUse(read_adapter(each.folder), str(each.folder), each.strength) for each in choice.adapters]
    # In float32: fingerprints are of these weights.
    model = SongGenForConditionalGeneration.from_pretrained(choice.base, **options)
    attached = attach_adapters(model, uses, any_base=any_base)
    return model.eval(), attached


def open_choice(
    choice: ModelChoice, *, dtype: torch.dtype | None = None, any_base: bool = False
) -> SongGenForConditionalGeneration:
    """Open a base model with its adapters attached, in evaluation mode.

    Args:
        choice: what `choose_model` returned.
        dtype: precision of the weights (None: float32).
        any_base: whether adapters may have been trained on a base with other weights, with a warning.

    Raises:
        ValueError: if a folder is damaged, or an adapter does not belong to the base.
    """
    from songgen.models import SongGenForConditionalGeneration

    if not choice.adapters:
        return SongGenForConditionalGeneration.from_pretrained(choice.base, dtype=dtype)
    model, _ = open_attached(choice, any_base=any_base)
    return model if dtype is None else model.to(dtype)


def open_model(
    name: str | Path,
    adapters: Iterable[str | Path | AdapterChoice] = (),
    *,
    dtype: torch.dtype | None = None,
    any_base: bool = False,
) -> SongGenForConditionalGeneration:
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


def _options_of(choice: ModelChoice) -> dict[str, Any]:
    """Return how the base is opened: in the layout and with the fields that the adapters were trained with.

    Raises:
        ValueError: if the adapters do not agree, or replace other fields than those known.
    """
    recipes: list[tuple[Path, AdapterRecipe]] = []
    for each in choice.adapters:
        recipe = read_recipe(each.folder)
        if recipe is not None and each.strength != 0:
            recipes.append((each.folder, recipe))
    wanted: dict[str, Any] = {}
    for folder, recipe in recipes:
        if unknown := sorted(set(recipe.config_overrides) - _REPLACEABLE):
            raise ValueError(
                f"{folder} replaces {', '.join(unknown)} in the base's configuration, which is not allowed"
            )
        values = {"track_pattern": recipe.track_pattern, "config_overrides": recipe.config_overrides}
        if wanted and values != wanted:
            raise ValueError(
                f"the adapters {recipes[0][0]} and {folder} were trained on different forms of the base ({wanted} and "
                f"{values}), and cannot be used together"
            )
        wanted = values
    return wanted
