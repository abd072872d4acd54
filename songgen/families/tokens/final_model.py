"""Writing the final model of a run: a folder that generates songs, and from which the next stage starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from songgen.config import RunConfig
from songgen.lyrics import VoiceBpeTokenizer
from songgen.models.folder import copy_vocabularies
from songgen.models.loading import save_model
from songgen.models.modeling_songgen import SongGenForConditionalGeneration


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
    copy_vocabularies(core.folder, folder)
    if config.model.lyrics_tokenizer is not None:
        VoiceBpeTokenizer.from_pretrained(config.model.lyrics_tokenizer).save_pretrained(folder)


def write_merged(
    core: SongGenForConditionalGeneration, weights: Mapping[str, Tensor], folder: Path, metadata: Mapping[str, str]
) -> None:
    """Write a model that was opened with other weights; see `songgen.families.family.Family.write_merged`."""
    save_model(core, folder, weights, metadata=metadata)
    copy_vocabularies(core.folder, folder)
