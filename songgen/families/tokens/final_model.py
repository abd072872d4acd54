"""Writing the final model of a run: a folder that generates songs, and from which the next stage starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from songgen.config import RunConfig
from songgen.lyrics import VOCABULARY_FILES, VoiceBpeTokenizer
from songgen.models.initialize import CAPTION_TOKENIZER_FOLDER
from songgen.models.loading import save_model
from songgen.models.modeling_songgen import SongGenForConditionalGeneration

TOKENIZER_ENTRIES = (CAPTION_TOKENIZER_FOLDER, *VOCABULARY_FILES)
"""Files and folders next to a model's weights that make it complete."""


def write_model(
    core: SongGenForConditionalGeneration, weights: Mapping[str, Tensor], config: RunConfig, folder: Path
) -> None:
    """Write weights, configuration, tokenizers and local frozen networks.

    Args:
        core: the trained model.
        weights: whole weights by name.
        config: resolved configuration of the run.
        folder: folder to write to; other files in it are kept.
    """
    save_model(core, folder, weights)
    copy_tokenizers(core.folder, folder)
    if config.model.lyrics_tokenizer is not None:
        VoiceBpeTokenizer.from_pretrained(config.model.lyrics_tokenizer).save_pretrained(folder)


def copy_tokenizers(source: Path | None, target: Path) -> None:
    """Copy the tokenizers in a model's folder."""
    if source is None or source.resolve() == target.resolve():
        return
    for name in TOKENIZER_ENTRIES:
        entry = source / name
        if entry.is_dir():
            shutil.copytree(entry, target / name, dirs_exist_ok=True)
        elif entry.is_file():
            shutil.copyfile(entry, target / name)
