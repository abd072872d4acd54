"""The model that a run leaves: a folder that generates songs, and that the next stage starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from songgen.config import RunConfig
from songgen.lyrics import VoiceBpeTokenizer
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.train.checkpoints.files import CONFIG_FILE as RESOLVED_CONFIG_FILE
from songgen.train.optimization.named_tensors import gather_tensors

TOKENIZER_ENTRIES = ("caption_tokenizer", "lyrics_tokenizer.json", "vocab.json")
"""Files and folders beside a model's weights that make it complete."""


def write_model(
    accelerator: Accelerator, core: SongGenForConditionalGeneration, config: RunConfig, folder: Path
) -> None:
    """Write weights, configuration, tokenizers and local frozen networks. Every process must call this.

    Args:
        accelerator: the processes; the main one writes.
        core: the trained model, plain or sharded.
        config: resolved configuration of the run.
        folder: where to write; other files in it stay.
    """
    main = accelerator.is_main_process
    sharded = any(isinstance(entry, DTensor) for entry in core.parameters())
    tensors = gather_tensors(dict(core.state_dict()), keep=main) if sharded else {}
    if not main:
        return
    whole = core
    if sharded:
        whole = SongGenForConditionalGeneration(core.config, folder=core.folder)
        if (table := core.decoder.model.decoder.embed_positions.weights) is not None:
            whole.decoder.model.decoder.embed_positions.adopt(table.cpu())  # a new model has none to load into
        whole.load_state_dict(tensors)
        for name, part in core.attached().items():
            whole.attach(name, part)
    whole.save_pretrained(folder)
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
