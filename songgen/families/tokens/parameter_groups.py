"""Parameter groups of the token models, and which of them a run trains."""

from __future__ import annotations

import logging
from functools import partial

from songgen.adapters.targets import TargetWords
from songgen.config import RunConfig
from songgen.families.adapters import AdaptedLayers, adapter_rate_factor, attach_adapter, plan_adapters
from songgen.families.costs import AdapterPlan
from songgen.families.tokens.model import config_overrides
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

_LAYERS, _ENCODER = r"decoder\.model\.decoder\.layers\.\d+\.", r"lyrics_encoder\."

TOKEN_LAYERS = AdaptedLayers(
    TargetWords(
        {
            "attention": _LAYERS + r"self_attn\..*",
            "cross_attention": _LAYERS + r"encoder_attn\..*",
            "feed_forward": _LAYERS + r"fc[12]",
            "lyrics_encoder": _ENCODER + r".*",
            "projections": r"(enc|audio_mert|lyrics)_to_dec_proj",
            "heads": r"decoder\.(vocal_)?lm_heads\.\d+",
            # As in peft, the output layers are left out: adapters on them cost much, and rule out the fused loss.
            "all-linear": r"(?!decoder\.(vocal_)?lm_heads\.).*",
        },
        elsewhere={
            "to_q": "q_proj",
            "to_k": "k_proj",
            "to_v": "v_proj",
            "to_out": "out_proj",
            "to_out.0": "out_proj",
            "speaker_embedder": "audio_mert_to_dec_proj",
            "genre_embedder": "enc_to_dec_proj",
            "lyric_embs": "embed_prompts",
        },
    ),
    # The blocks, which hold most of the weights. Heads stay as they are, since plain ones have a fused loss that needs
    # less memory than quantizing them saves, and since the logits are read directly; so do the embeddings, which are
    # looked up, and the three projections of the conditions, which are small.
    quantized=f"{_LAYERS}.*|{_ENCODER}encoders\\..*",
)
"""Layers of the token models, for adapters."""

logger = logging.getLogger(__name__)


def choose_trained(config: RunConfig, core: SongGenForConditionalGeneration) -> Trainable:
    """Attach an adapter, and freeze what the configuration says and what no training target reaches.

    Returns:
        The trained parameters.

    Raises:
        ValueError: if the configuration names groups that do not exist, or sets a factor for one that is not trained.
    """
    frozen = untrained_groups(config, core)
    form = attach_adapter(config, core, TOKEN_GROUPS, TOKEN_LAYERS, frozen, config_overrides(config))
    factors: dict[str, float] = dict(config.training.learning_rate_factors.items())
    trainable = Trainable.choose(
        core,
        TOKEN_GROUPS,
        frozen=frozen,
        learning_rate_factors=factors,
        own_factor=partial(adapter_rate_factor, config),
        form=form,
    )
    what = "frozen" if form is None else "the base is frozen, without an adapter"
    logger.info("%s: %s", what, ", ".join(trainable.frozen_groups) or "nothing")
    return trainable


def untrained_groups(config: RunConfig, core: SongGenForConditionalGeneration) -> list[str]:
    """Return the groups that the configuration freezes, and those that no training target reaches."""
    return [*config.training.frozen_groups(), *_unreached_groups(config, core)]


def planned_training(
    config: RunConfig, core: SongGenForConditionalGeneration
) -> tuple[frozenset[str], AdapterPlan | None]:
    """Return what a run will train, from a model without content (on the meta device), which gets no adapter.

    Returns:
        Names of the trained parameters of the model itself, and the adapters.

    Raises:
        ValueError: as `choose_trained` does.
    """
    frozen = untrained_groups(config, core)
    plan = plan_adapters(config, core, TOKEN_GROUPS, TOKEN_LAYERS, frozen)
    if plan is not None:
        return plan.saved, plan
    return frozenset(entry.name for entry in Trainable.choose(core, TOKEN_GROUPS, frozen=frozen).entries), None


def _unreached_groups(config: RunConfig, core: SongGenForConditionalGeneration) -> list[str]:
    """Return the groups that no training target reaches with this configuration, and that never get a gradient."""
    groups = [] if config.training.add_vocal_loss else ["vocal_heads"]
    if not core.config.add_prenet:
        groups += ["lyrics_encoder", "lyrics_projection"]
    return groups
