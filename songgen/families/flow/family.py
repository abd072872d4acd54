"""Model family of flow-matching models over the latents of an autoencoder: ACE-Step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from songgen.adapters.folder import weights_fingerprint
from songgen.config import RunConfig
from songgen.data.dataset import SongDataset, check_against_model
from songgen.data.schema import LATENTS
from songgen.families.caption_features import feature_folder
from songgen.families.family import Family, UsedRecipe
from songgen.families.flow.autoencoder import open_encoders
from songgen.families.flow.costs import flow_costs
from songgen.families.flow.final_model import stored_precisions, write_merged, write_model
from songgen.families.flow.keys import check_keys
from songgen.families.flow.model import FlowModel
from songgen.families.flow.model_folder import MODEL_FILES, model_facts, require_own_files
from songgen.families.flow.parameter_groups import choose_trained
from songgen.families.flow.pipeline import TOKENIZER, TRANSFORMER
from songgen.families.flow.prompts import PipelinePrompts
from songgen.families.flow.songs.command import FLOW_SONGS
from songgen.families.flow.training.objective import flow_objective
from songgen.families.objective import DataNeeds
from songgen.families.songs import Processes, TrainingData
from songgen.families.trainable import Trainable
from songgen.tasks import Task

logger = logging.getLogger(__name__)


def open_model(config: RunConfig, task: Task | None) -> FlowModel:
    """Open the trained networks of `model_name_or_path`; the task means nothing to this family.

    Raises:
        ValueError: if the folder is not such a pipeline, or the configuration has keys or values that mean nothing for
            it.
    """
    core = FlowModel.open(config.model.model_name_or_path, revision=config.model.model_revision)
    require_own_files(core.folder)  # now, and not when the trained model is written
    check_keys(config, is_turbo=core.is_turbo)
    return core


def open_base(folder: Path, recipes: Sequence[UsedRecipe], dtype: torch.dtype | None) -> FlowModel:
    """Open a model to use it, which has one form only; see `songgen.families.family.Family.open_base`.

    Raises:
        ValueError: if it cannot be opened.
    """
    core = FlowModel.open(folder).eval()
    return core if dtype is None else core.to(dtype)


def check_clips(config: RunConfig, core: FlowModel, songs: SongDataset, needs: DataNeeds) -> None:
    """Compare clips with the model.

    Raises:
        ValueError: if they do not agree.
    """
    info = songs.info
    if info.num_channels != core.num_channels or info.frame_rate != core.frame_rate:
        raise ValueError(
            f"{songs.name} holds latents of {info.num_channels} channels, {info.frame_rate:g} frames a second, and "
            f"{config.model.model_name_or_path} is made for {core.num_channels} and {core.frame_rate:g}: tokenize the "
            "songs with the autoencoder of this model"
        )
    tokenizer = PipelinePrompts(core.part(TOKENIZER))
    check_against_model(
        songs,
        target_tracks=needs.target_tracks,
        codec_fingerprint=core.autoencoder_fingerprint,
        lyrics_tokenizer_fingerprint=tokenizer.lyrics_fingerprint,
        caption_tokenizer_fingerprint=tokenizer.caption_fingerprint,
    )


def prepare(config: RunConfig, core: FlowModel, data: TrainingData) -> None:
    """Set how the model computes; see `songgen.families.family.Family.prepare_model`."""
    if config.model.gradient_checkpointing:
        core.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
        core.condition_encoder.enable_gradient_checkpointing()  # type: ignore[operator]
    if config.training.torch_compile:
        for layer in core.blocks():
            layer.compile(dynamic=True)


def frozen_content(core: FlowModel, trainable: Trainable) -> dict[str, str]:
    """Return hashes of the weights that this run uses but does not train; checkpoints do not hold them."""
    known: Mapping[str, str] = {} if trainable.form is None else trainable.form.frozen_content
    # The base of an adapter is the transformer, which was hashed before it was quantized.
    used = core if trainable.form is None else core.condition_encoder
    return {
        **known,
        "frozen_parameters_sha256": weights_fingerprint(
            {**trainable.frozen_parameters(used), **dict(used.named_buffers())}
        ),
        "text_encoder_sha256": core.texts.encoder.fingerprint,
    }


def start(config: RunConfig, core: FlowModel, data: Sequence[TrainingData], processes: Processes) -> None:
    """Compute the features of all texts once, and free the text encoder; see `songgen.families.family.Family.start`."""
    samples, folder = [part.samples for part in data], feature_folder(config)
    core.texts.prepare(samples, processes, folder, core.device, round(config.data.feature_cache_gib * 1024**3))


def describe(config: RunConfig, core: FlowModel) -> str:
    """Return the model's source and kind as one line."""
    kind = "turbo" if core.is_turbo else "guided"
    return f"{config.model.model_name_or_path}, {kind}, {len(core.transformer.layers)} layers"  # type: ignore[arg-type]


FLOW = Family(
    name="flow matching",
    target_kind=LATENTS,
    open_model=open_model,
    objective=flow_objective,
    check_data=check_clips,
    prepare_model=prepare,
    choose_trained=choose_trained,
    frozen_content=frozen_content,
    start=start,
    describe=describe,
    write_model=write_model,
    model_files=MODEL_FILES,
    model_facts=model_facts,
    costs=flow_costs,
    open_encoders=open_encoders,
    open_base=open_base,
    adapter_root=TRANSFORMER,
    stored_precisions=stored_precisions,
    write_merged=write_merged,
    songs=FLOW_SONGS,
)
