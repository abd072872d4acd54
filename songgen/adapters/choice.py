"""Adapters as a user names them: a folder, a weight file, a run, a checkpoint or a hub id, with a strength."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from songgen.adapters.folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILES,
    SHARED_FILES,
    is_adapter_folder,
    read_config_values,
    read_recipe,
    require_complete,
    require_unchanged,
)
from songgen.runtime.file_hashes import HASHES_FILE, unsealed
from songgen.runtime.model_folders import CHECKPOINT_NAME, model_config_file
from songgen.runtime.pretrained import find_folder

MAX_STRENGTH = 10.0
"""Largest strength; a song is noise long before."""

_DOWNLOADED = (*ADAPTER_FILES, HASHES_FILE)
_WEIGHT_FILE_ENDING = ".safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter and how strongly it is applied."""

    folder: Path
    """Its folder, complete or a checkpoint of a run; or its weight file, in the form of another program."""
    strength: float = 1.0
    """Factor of what it adds to the base model; 0 leaves the base as it is."""

    @property
    def place(self) -> Path:
        """Folder for what is written about it."""
        return self.folder.parent if self.folder.is_file() else self.folder

    def __post_init__(self) -> None:
        """Check the strength.

        Raises:
            ValueError: if it is out of range.
        """
        if not (math.isfinite(self.strength) and abs(self.strength) <= MAX_STRENGTH):
            raise ValueError(
                f"strength {self.strength:g} of {self.folder} is not from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}"
            )


def parse_choice(text: str | Path) -> AdapterChoice:
    """Return what `FOLDER[:strength]` names; a path that exists is taken as it is, with all its colons.

    Args:
        text: folder of an adapter, a checkpoint or a run, a weight file, or a hub id, with or without a strength.

    Raises:
        ValueError: if there is no adapter, or the strength is not a number in range.
    """
    name, colon, strength = str(text).rpartition(":")
    if not colon or Path(text).exists():
        return AdapterChoice(find_adapter(text))
    try:
        value = float(strength)
    except ValueError:
        raise ValueError(
            f"{text}: there is no such folder or file, and {strength!r} after the colon is not a strength"
        ) from None
    return AdapterChoice(find_adapter(name), value)


def find_adapter(name: str | Path) -> Path:
    """Return the folder of an adapter: itself, what a run has written, or the newest valid checkpoint of a run.

    A weight file in the form of another program is returned as it is, also if a folder is named that holds only this.

    Raises:
        ValueError: if there is none; the message says what the folder is instead.
    """
    if Path(name).is_file():
        return _weight_file(Path(name))
    folder = find_folder(name, patterns=_DOWNLOADED)
    if is_adapter_folder(folder):
        require_complete(folder)
        return folder
    if not Path(name).is_dir():  # of the hub, in the form of another program
        folder = find_folder(name, patterns=(*SHARED_FILES, HASHES_FILE))
    if (file := _weight_file_in(folder)) is not None:
        return file
    problems = []
    for checkpoint in _checkpoints(folder):
        try:
            require_unchanged(checkpoint)
        except ValueError as error:
            problems.append(f"- {error}")
            continue
        logger.warning("%s has not written its adapter yet; its newest checkpoint is used: %s", folder, checkpoint.name)
        return checkpoint
    reasons = "".join(f"\n{problem}" for problem in problems)
    raise ValueError(
        f"{folder} has no adapter: neither {ADAPTER_CONFIG_FILE} nor a complete checkpoint of an adapter run{reasons}"
    )


def has_adapter(folder: Path) -> bool:
    """Return whether `find_adapter` looks for an adapter here: its files, or checkpoints that are adapters."""
    return (
        is_adapter_folder(folder) or _weight_file_in(folder) is not None or next(_checkpoints(folder), None) is not None
    )


def _weight_file(path: Path) -> Path:
    """Return the path of a weight file.

    Raises:
        ValueError: if it is of another format.
    """
    if path.suffix == _WEIGHT_FILE_ENDING:
        return path
    raise ValueError(
        f"{path} is not an adapter: give its folder, or a weight file that ends in {_WEIGHT_FILE_ENDING}. Other "
        "formats are pickles, which can run any program, and are not read"
    )


def _weight_file_in(folder: Path) -> Path | None:
    """Return the adapter's weight file in a folder of another program; None if there is none, or more than one.

    The folder of a model is not searched: the names in its files tell nothing about an adapter.
    """
    if model_config_file(folder) is not None:
        return None
    for name in SHARED_FILES:
        if (folder / name).is_file():
            return folder / name
    files = [path for path in folder.glob(f"*{_WEIGHT_FILE_ENDING}") if path.is_file()]
    return files[0] if len(files) == 1 and _is_adapter_file(files[0]) else None


def _is_adapter_file(path: Path) -> bool:
    """Return whether a weight file holds matrices of an adapter."""
    from songgen.adapters.weight_file import is_adapter_name
    from songgen.runtime.tensor_files import opened_tensors

    try:
        with opened_tensors(path) as opened:
            return any(map(is_adapter_name, opened.keys()))
    except ValueError:
        return False


def _checkpoints(run: Path) -> Iterator[Path]:
    """Yield the checkpoints of an adapter run, the newest save first."""
    serials = {}
    for folder in run.glob("checkpoint-*"):
        if CHECKPOINT_NAME.fullmatch(folder.name) and is_adapter_folder(folder):
            try:
                manifest = unsealed((folder / "manifest.json").read_text(encoding="utf-8"), folder.name)
            except (OSError, ValueError):
                continue  # the save did not end
            serial = manifest.get("serial")
            serials[folder] = serial if isinstance(serial, int) else -1
    yield from sorted(serials, key=lambda folder: serials[folder], reverse=True)


def base_of(folder: Path) -> str:
    """Return the base model that an adapter names: a folder or a hub id.

    A run names its base as its user did, mostly by a path from the folder of a project. A relative path that leads
    nowhere from here is therefore tried from the folders above the adapter.

    Raises:
        ValueError: if it names none, or the folder is damaged.
    """
    recipe = read_recipe(folder)
    if recipe is not None:
        named: object = recipe.base_model
    else:
        named = None if folder.is_file() else read_config_values(folder).get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        raise ValueError(
            f"{folder} does not say which base model it needs: give it with --model BASE --adapter {folder}"
        )
    if not Path(named).is_absolute() and not Path(named).exists():
        places = (parent / named for parent in folder.resolve().parents)
        return str(next((place for place in places if model_config_file(place) is not None), named))
    return named
