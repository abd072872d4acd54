"""The model that a run leaves: a folder that generates songs, and that the next stage starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from songgen.config import RunConfig
from songgen.families.trainable import Trainable
from songgen.lyrics import VoiceBpeTokenizer
from songgen.models.loading import save_model
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.train.checkpoints.files import CONFIG_FILE as RESOLVED_CONFIG_FILE
from songgen.train.optimization.named_tensors import gather_tensors

TOKENIZER_ENTRIES = ("caption_tokenizer", "lyrics_tokenizer.json", "vocab.json")
"""Files and folders beside a model's weights that make it complete."""


def write_model(
    accelerator: Accelerator,
    core: SongGenForConditionalGeneration,
    trainable: Trainable,
    config: RunConfig,
    folder: Path,
) -> None:
    """Write weights, configuration, tokenizers and local frozen networks. Every process must call this.

    Args:
        accelerator: the processes; the main one writes.
        core: the trained model, plain or sharded.
        trainable: what of it was trained, and what of it is exported.
        config: resolved configuration of the run.
        folder: where to write; other files in it stay.
    """
    main = accelerator.is_main_process
    tensors = trainable.exported(core)
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        tensors = gather_tensors(tensors, keep=main)
    if not main:
        return
    save_model(core, folder, tensors)
    copy_tokenizers(core.folder, folder)
    if config.model.lyrics_tokenizer is not None:
        VoiceBpeTokenizer.from_pretrained(config.model.lyrics_tokenizer).save_pretrained(folder)
    config.save(folder / RESOLVED_CONFIG_FILE)


def copy_tokenizers(source: Path | None, target: Path) -> None:
    """Copy the tokenizers that lie beside a model's weights."""
    if source is None or source.resolve() == target.resolve():
        return
    for name in TOKENIZER_ENTRIES:
        entry = source / name
        if entry.is_dir():
            shutil.copytree(entry, target / name, dirs_exist_ok=True)
        elif entry.is_file():
            shutil.copyfile(entry, target / name)
