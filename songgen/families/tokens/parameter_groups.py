"""Parameter groups of the token models, and which of them a run trains."""

from __future__ import annotations

import logging

from songgen.config import RunConfig
from songgen.families.trainable import ParameterGroups, Trainable
from songgen.models.modeling_songgen import SongGenForConditionalGeneration

TOKEN_GROUPS = ParameterGroups(
    {
        "text_projection": ("enc_to_dec_proj.",),
        "voice_aggregation": ("mert_layer_agg.",),
        "voice_projection": ("audio_mert_to_dec_proj.",),
        "lyrics_embedding": ("embed_prompts.",),
        "lyrics_encoder": ("lyrics_encoder.",),
        "lyrics_projection": ("lyrics_to_dec_proj.",),
        "audio_embeddings": ("decoder.model.decoder.embed_tokens.",),
        "decoder": ("decoder.model.decoder.layers.", "decoder.model.decoder.layer_norm."),
        "heads": ("decoder.lm_heads.",),
        "vocal_heads": ("decoder.vocal_lm_heads.",),
    },
    # What the published recipe's `freeze_cross` freezes: everything between the conditions and the decoder.
    aliases={
        "cross": (
            "text_projection",
            "voice_aggregation",
            "voice_projection",
            "lyrics_embedding",
            "lyrics_encoder",
            "lyrics_projection",
        )
    },
)
"""Group -> prefixes of parameter names; every parameter is in exactly one."""

logger = logging.getLogger(__name__)


def choose_trained(config: RunConfig, core: SongGenForConditionalGeneration) -> Trainable:
    """Freeze what the configuration says and what no training target reaches; return the trained parameters.

    Raises:
        ValueError: if the configuration names groups that do not exist, or sets a factor for one that is not trained.
    """
    trainable = trained_parameters(config, core)
    logger.info("frozen: %s", ", ".join(trainable.frozen_groups) or "nothing")
    return trainable


def trained_parameters(config: RunConfig, core: SongGenForConditionalGeneration) -> Trainable:
    """Do what `choose_trained` does without a message, also for a model without content (on the meta device).

    Raises:
        ValueError: as `choose_trained` does.
    """
    frozen = [*config.training.frozen_groups(), *_unreached_groups(config, core)]
    factors: dict[str, float] = dict(config.training.learning_rate_factors.items())
    return Trainable.choose(core, TOKEN_GROUPS, frozen=frozen, learning_rate_factors=factors)


def _unreached_groups(config: RunConfig, core: SongGenForConditionalGeneration) -> list[str]:
    """Return the groups that no training target reaches with this configuration, and that never get a gradient."""
    groups = [] if config.training.add_vocal_loss else ["vocal_heads"]
    if not core.config.add_prenet:
        groups += ["lyrics_encoder", "lyrics_projection"]
    return groups
