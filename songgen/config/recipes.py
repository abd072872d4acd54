"""Recipes: the configuration files shipped with songgen, found by a short name from any folder."""

from pathlib import Path

TRAINING, PREPARING, LAUNCHING = "training_configs", "prepare_configs", "accelerate_configs"
ADAPTING = "lora_configs"
"""Kinds of recipes: the folders of `helpers/` that setup.py puts into a wheel."""

_PACKAGE = Path(__file__).resolve().parents[1]


def recipe_folder() -> Path:
    """Return the folder that holds one folder for each kind of recipe."""
    installed = _PACKAGE / "recipes"
    # In the repository they are outside the package; an editable install reads them there.
    return installed if installed.is_dir() else _PACKAGE.parent / "helpers"


def find_recipe(name: str, kind: str) -> Path:
    """Return the file for a name on the command line.

    Args:
        name: a path, the name of a recipe below the folder of its kind (`mixed_pro/step3.json`), or its place in the
            repository (`helpers/training_configs/mixed_pro/step3.json`).
        kind: `TRAINING`, `PREPARING`, `LAUNCHING` or `ADAPTING`.

    Returns:
        The recipe; the given path if that is a file, or if there is no such recipe (the reader's message then names
        what was asked for).
    """
    given = Path(name)
    if given.is_file() or given.is_absolute():
        return given
    below_helpers = given.parts[1:] if given.parts[:1] == ("helpers",) else (kind, *given.parts)
    recipe = recipe_folder().joinpath(*below_helpers)
    return recipe if recipe.is_file() else given
