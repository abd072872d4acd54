"""Contents of a token model's folder: its files, its configuration, and the parts that are copied with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.lyrics import VOCABULARY_FILES
from songgen.models.configuration_songgen import SongGenConfig
from songgen.runtime.model_folders import ModelFiles, copy_part, part_files, read_model_config
from songgen.runtime.pretrained import local_folder, require_inside
from songgen.runtime.tensor_files import INDEX_FILE, WEIGHTS_FILE, weight_files

CAPTION_TOKENIZER_FOLDER = "caption_tokenizer"

FROZEN_PARTS = ("audio_codec", "text_encoder", "voice_encoder")
"""Keys of the frozen networks in `config.json`, and names of their folders."""

PATH_KEYS = (*FROZEN_PARTS, "caption_tokenizer")
"""Keys of `config.json` that name a folder in the model's folder, or a hub id."""

MODEL_FILES = ModelFiles(
    weights=lambda folder: weight_files(folder) or [WEIGHTS_FILE],
    files=(WEIGHTS_FILE, INDEX_FILE, *VOCABULARY_FILES),
    folders=(CAPTION_TOKENIZER_FOLDER, *FROZEN_PARTS),
)
"""Files of a model folder."""


@dataclass(frozen=True)
class LocalPart:
    """Frozen network or caption tokenizer of a model in a local folder."""

    source: Path
    """Folder of the part."""
    root: Path
    """Folder that links in it must not leave: the model's folder, or, if the user named the part, its own folder."""

    def copy(self, target: Path) -> None:
        """Copy the part.

        Raises:
            ValueError: if a link leads out of `root`.
        """
        copy_part(self.source, target, self.root)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a model folder.

    Raises:
        ValueError: if it cannot be read, has changed since it was written, or names places outside of the folder.
    """
    return read_model_config(folder, PATH_KEYS)


def local_parts(config: SongGenConfig, folder: Path | None) -> dict[str, LocalPart]:
    """Return the parts of a model that are in local folders, and not on the hub or in the model's own file.

    Args:
        config: configuration of the model.
        folder: folder of the model; None for a new one, whose parts were named by the user.
    """
    paths = {name: getattr(config, name).get("path") for name in FROZEN_PARTS}
    if folder is not None:  # a new model has a caption tokenizer only once its folder is complete
        paths["caption_tokenizer"] = config.caption_tokenizer
    parts = {}
    for name, path in paths.items():
        if path and (source := local_folder(path, folder)) is not None:
            by_user = folder is None or Path(path).is_absolute()
            parts[name] = LocalPart(source, source if by_user or folder is None else folder)
    return parts


def require_own_files(config: SongGenConfig, folder: Path) -> None:
    """Check that all files of a model that a copy would contain are in its folder, or in folders that the user named.

    Raises:
        ValueError: if a link leads out of them.
    """
    for name in VOCABULARY_FILES:
        require_inside(folder / name, folder)
    for part in local_parts(config, folder).values():
        part_files(part.source, part.root)


def copy_vocabularies(source: Path | None, target: Path) -> None:
    """Copy the lyrics vocabularies in a model's folder.

    Raises:
        ValueError: if one is a link out of the folder.
    """
    for name in VOCABULARY_FILES:
        if source is not None and (source / name).is_file():
            copy_part(source / name, target / name, source)
