"""Opening the model that a run starts from, with the configuration's changes, and the fingerprints of its parts."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from songgen.conditioning import caption_tokenizer_fingerprint, load_caption_tokenizer
from songgen.config import RunConfig
from songgen.families.family import UsedRecipe
from songgen.families.foreign_keys import FLOW_KEYS, refuse_keys
from songgen.families.songs import TrainingData
from songgen.families.trainable import Trainable
from songgen.lyrics import VOCABULARY_FILES, VoiceBpeTokenizer
from songgen.models.configuration_songgen import SongGenConfig
from songgen.models.folder import require_own_files
from songgen.models.loading import stored_config
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.pretrained import named_by_user
from songgen.tasks import VOCAL, Task

_REPLACEABLE = frozenset({"prompt_cross_attention", "decoder.rope_embeddings", "train_every_eos"})
"""Fields of a base's configuration that a recipe may replace. It may come from anyone, so nothing that names a path."""

logger = logging.getLogger(__name__)


def open_model(config: RunConfig, task: Task | None) -> SongGenForConditionalGeneration:
    """Load `model_name_or_path` in the layout to train; heads and embeddings of another layout are mapped.

    Args:
        config: configuration of the run.
        task: task of the launching script; None for the task of the layout.

    Raises:
        ValueError: if the folder is not a model, reaches other folders through links, or its layout is not one of the
            task's.
    """
    refuse_keys(config, FLOW_KEYS, "a model of codec tokens")
    arguments = config.model
    wanted = arguments.track_pattern
    if task is not None and wanted is not None and wanted not in task.layouts:
        raise ValueError(
            f"track_pattern {wanted!r} does not belong to the task {task.name}; choose one of {', '.join(task.layouts)}"
        )
    core = SongGenForConditionalGeneration.from_pretrained(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        attn_implementation=arguments.attn_implementation,
        track_pattern=wanted,
        config_overrides=config_overrides(config),
    )
    assert core.folder is not None
    require_own_files(core.config, core.folder)  # now: the final model gets copies of them
    if task is not None and core.task.name != task.name:
        raise ValueError(
            f"{arguments.model_name_or_path} has the layout {core.layout.name!r} of the task {core.task.name}, this "
            f"script trains {task.name}: set track_pattern to one of {', '.join(task.layouts)} to start from it"
        )
    if config.training.add_vocal_loss and not core.config.add_vocal_loss:
        raise ValueError(
            f"add_vocal_loss is true, but {arguments.model_name_or_path} (layout {core.layout.name!r}) has no vocal "
            "heads: set it to false, or start from a mixed_pro model"
        )
    logger.info("model %s: layout %s", arguments.model_name_or_path, core.layout.name)
    _load_frozen(core, config)
    return core


def open_base(
    folder: Path, recipes: Sequence[UsedRecipe], dtype: torch.dtype | None
) -> SongGenForConditionalGeneration:
    """Open a model in the layout and with the fields that adapters were trained with; see `Family.open_base`.

    Raises:
        ValueError: if it cannot be opened, or the adapters do not agree, or replace other fields than those known.
    """
    wanted: dict[str, Any] = {}
    for place, recipe in recipes:
        if unknown := sorted(set(recipe.config_overrides) - _REPLACEABLE):
            raise ValueError(f"{place} replaces {', '.join(unknown)} in the base's configuration, which is not allowed")
        values = {"track_pattern": recipe.track_pattern, "config_overrides": recipe.config_overrides}
        if wanted and values != wanted:
            raise ValueError(
                f"the adapters {recipes[0][0]} and {place} were trained on different forms of the base ({wanted} and "
                f"{values}), and cannot be used together"
            )
        wanted = values
    return SongGenForConditionalGeneration.from_pretrained(folder, dtype=dtype, **wanted)


def planned_config(config: RunConfig) -> tuple[SongGenConfig, Path]:
    """Return the configuration that `open_model` gives the model, and the model's folder; no weight is read.

    Raises:
        ValueError: if the configuration cannot be read, or the changes of the run do not fit it.
    """
    arguments = config.model
    return stored_config(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        track_pattern=arguments.track_pattern,
        config_overrides=config_overrides(config),
    )


def config_overrides(config: RunConfig) -> dict[str, Any]:
    """Return the fields of the model's configuration that the run replaces."""
    arguments, tokenizer = config.model, config.model.description_tokenizer_name
    given = {
        "prompt_cross_attention": arguments.prompt_cross_attention,
        "decoder.rope_embeddings": arguments.rope_embeddings,
        "decoder.dropout": arguments.dropout,
        "train_every_eos": arguments.train_every_eos,
        "audio_codec": arguments.audio_codec and named_by_user(arguments.audio_codec),
        "text_encoder": arguments.text_encoder and named_by_user(arguments.text_encoder),
        "voice_encoder": arguments.voice_encoder and named_by_user(arguments.voice_encoder),
        "caption_tokenizer": tokenizer and named_by_user(tokenizer)["path"],
    }
    return {name: value for name, value in given.items() if value is not None}


def _load_frozen(core: SongGenForConditionalGeneration, config: RunConfig) -> None:
    """Load the frozen networks that this run uses, so that a missing one is found before it starts."""
    core.load_frozen("text_encoder")
    if config.data.voice_probabilities().get(VOCAL, 0.0) > 0:
        core.load_frozen("voice_encoder")
    generates = config.training.do_eval and config.training.predict_with_generate
    if core.config.audio_codec_fingerprint is None or generates:
        core.load_frozen("audio_codec")


def prepare_model(config: RunConfig, core: SongGenForConditionalGeneration, data: TrainingData) -> None:
    """Prepare a model for training; see `songgen.families.family.Family.prepare_model`."""
    core.release("audio_codec")  # it loads, as was checked; it takes memory only while songs are sampled
    remember_codec(core, data.samples.dataset.info.codec_fingerprint)
    dropout = max(core.config.condition_dropout or 0.0, config.model.condition_dropout)
    core.config = dataclasses.replace(core.config, condition_dropout=dropout)
    core.set_gradient_checkpointing(config.model.gradient_checkpointing)
    core.set_input_masking(config.model.input_masking)
    if config.training.torch_compile:
        for layer in core.decoder.model.decoder.layers:
            layer.compile(dynamic=True)


def remember_codec(core: SongGenForConditionalGeneration, fingerprint: str) -> None:
    """Record in the model's configuration which codec made the codes that it is trained on."""
    core.config = dataclasses.replace(core.config, audio_codec_fingerprint=fingerprint)


def start_frozen(core: SongGenForConditionalGeneration) -> None:
    """Move the frozen networks to the model's device; sharding only moves the model's own weights."""
    for name, part in core.attached().items():
        core.attach(name, part)


def model_fingerprints(config: RunConfig, core: SongGenForConditionalGeneration) -> dict[str, str | None]:
    """Return the fingerprints that the data must match; None for parts that the model does not have."""
    codec = core.config.audio_codec_fingerprint or core.audio_codec.fingerprint
    return {
        "codec_fingerprint": codec,
        "lyrics_tokenizer_fingerprint": lyrics_fingerprint(config, core.folder),
        "caption_tokenizer_fingerprint": _caption_fingerprint(core),
    }


def frozen_content(core: SongGenForConditionalGeneration, trainable: Trainable) -> dict[str, str]:
    """Return hashes of the weights that this run uses but does not train, by part; checkpoints do not hold them."""
    encoders = {name: part for name, part in core.attached().items() if name in ("text_encoder", "voice_encoder")}
    parts = {f"{name}_sha256": part.fingerprint for name, part in encoders.items()}
    if trainable.form is not None:  # the base was hashed before it was quantized
        return {**trainable.form.frozen_content, **parts}
    digest = hashlib.sha256()
    for name, parameter in trainable.frozen_parameters(core).items():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {"frozen_parameters_sha256": digest.hexdigest()} | parts


def _caption_fingerprint(core: SongGenForConditionalGeneration) -> str | None:
    """Return the fingerprint of the caption tokenizer in the model's folder; one on a hub is not downloaded for it."""
    folder = None if core.folder is None else core.folder / core.config.caption_tokenizer
    if folder is None or not folder.is_dir():
        return None
    return caption_tokenizer_fingerprint(load_caption_tokenizer(folder))


def lyrics_fingerprint(config: RunConfig, folder: Path | None) -> str | None:
    """Return the fingerprint of the lyrics tokenizer in the configuration or the model's folder."""
    if config.model.lyrics_tokenizer is not None:
        return VoiceBpeTokenizer.from_pretrained(config.model.lyrics_tokenizer).fingerprint
    if folder is None or not any((folder / name).is_file() for name in VOCABULARY_FILES):
        return None
    return VoiceBpeTokenizer.from_pretrained(folder).fingerprint
