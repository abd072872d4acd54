"""Parameter groups of the token models, and which of them a run trains."""

from __future__ import annotations

from songgen.adapters.targets import TargetWords
from songgen.config import RunConfig
from songgen.families import adapters
from songgen.families.adapters import AdaptedLayers
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


def choose_trained(config: RunConfig, core: SongGenForConditionalGeneration) -> Trainable:
    """Attach an adapter, and freeze what the configuration says and what no training target reaches.

    Returns:
        The trained parameters.

    Raises:
        ValueError: if the configuration names groups that do not exist, or sets a factor for one that is not trained.
    """
    frozen, overrides = untrained_groups(config, core), config_overrides(config)
    return adapters.choose_trained(config, core, TOKEN_GROUPS, TOKEN_LAYERS, frozen, overrides)


def untrained_groups(config: RunConfig, core: SongGenForConditionalGeneration) -> list[str]:
    """Return the groups that the configuration freezes, and those that no training target reaches."""
    return [*config.training.frozen_groups(), *_unreached_groups(config, core)]


def planned_training(
    config: RunConfig, core: SongGenForConditionalGeneration
) -> tuple[frozenset[str], AdapterPlan | None]:
    """Return what a run will train; see `songgen.families.adapters.planned_training`."""
    return adapters.planned_training(config, core, TOKEN_GROUPS, TOKEN_LAYERS, untrained_groups(config, core))


def _unreached_groups(config: RunConfig, core: SongGenForConditionalGeneration) -> list[str]:
    """Return the groups that no training target reaches with this configuration, and that never get a gradient."""
    groups = [] if config.training.add_vocal_loss else ["vocal_heads"]
    if not core.config.add_prenet:
        groups += ["lyrics_encoder", "lyrics_projection"]
    return groups
