"""Model family of SongGen's token models."""

from __future__ import annotations

from collections.abc import Sequence

from songgen.config import RunConfig
from songgen.data.schema import CODES
from songgen.families.caption_features import cache_captions, feature_folder
from songgen.families.family import Family
from songgen.families.songs import Processes, TrainingData
from songgen.families.tokens.clips import check_clips, warn_without_voices
from songgen.families.tokens.costs import token_costs
from songgen.families.tokens.final_model import write_merged, write_model
from songgen.families.tokens.generating import TOKEN_SONGS
from songgen.families.tokens.model import frozen_content, open_base, open_model, prepare_model, start_frozen
from songgen.families.tokens.model_folder import model_facts
from songgen.families.tokens.objective import token_objective
from songgen.families.tokens.parameter_groups import choose_trained
from songgen.families.tokens.voice_features import FeatureFolder, store_voices
from songgen.models.folder import MODEL_FILES
from songgen.models.loading import stored_precisions
from songgen.models.modeling_songgen import SongGenForConditionalGeneration


def prepare(config: RunConfig, core: SongGenForConditionalGeneration, data: TrainingData) -> None:
    """Prepare the model for training, and warn if the data lacks what is asked for."""
    prepare_model(config, core, data)
    warn_without_voices(data.samples)


def start(
    config: RunConfig, core: SongGenForConditionalGeneration, data: Sequence[TrainingData], processes: Processes
) -> None:
    """Move frozen networks to the device, encode captions and voices once, and free the encoders that this spares.

    See `songgen.families.family.Family.start`.
    """
    start_frozen(core)
    samples, folder = [part.samples for part in data], feature_folder(config)
    max_bytes = round(config.data.feature_cache_gib * 1024**3)
    if cache_captions(core.text_encoder, samples, processes, folder, max_bytes):
        core.unload("text_encoder")
    if config.data.voice_feature_crops:
        if folder is None:
            raise ValueError("voice_feature_crops needs a cache on disk: name a folder in feature_cache_dir")
        store_voices(core, samples, processes, FeatureFolder(folder, max_bytes), config.training.dtype)
        core.unload("voice_encoder")


def describe(config: RunConfig, core: SongGenForConditionalGeneration) -> str:
    """Return the model's source and layout as one line."""
    return f"{config.model.model_name_or_path}, layout {core.layout.name}"


TOKENS = Family(
    name="SongGen tokens",
    target_kind=CODES,
    open_model=open_model,
    objective=token_objective,
    check_data=check_clips,
    prepare_model=prepare,
    choose_trained=choose_trained,
    frozen_content=frozen_content,
    start=start,
    describe=describe,
    write_model=write_model,
    model_files=MODEL_FILES,
    model_facts=model_facts,
    costs=token_costs,
    open_base=open_base,
    songs=TOKEN_SONGS,
    stored_precisions=stored_precisions,
    write_merged=write_merged,
)
