"""Parameter groups of the flow-matching models, and which of them a run trains."""

from __future__ import annotations

from songgen.adapters.targets import TargetWords
from songgen.config import RunConfig
from songgen.families import adapters
from songgen.families.adapters import AdaptedLayers
from songgen.families.costs import AdapterPlan
from songgen.families.flow.adapter_formats import PUBLISHED_PARTS
from songgen.families.flow.model import FlowModel
from songgen.families.flow.pipeline import TRANSFORMER
from songgen.families.trainable import ParameterGroups, Trainable

FLOW_GROUPS = ParameterGroups(
    {
        "layers": ("transformer.layers.",),
        "time_embeddings": ("transformer.time_embed.", "transformer.time_embed_r."),
        "input": ("transformer.proj_in_conv.",),
        "output": ("transformer.proj_out_conv.", "transformer.norm_out.", "transformer.scale_shift_table"),
        "condition_projection": ("transformer.condition_embedder.",),
        "caption_projection": ("condition_encoder.text_projector.",),
        "lyrics_encoder": ("condition_encoder.lyric_encoder.",),
        "timbre_encoder": ("condition_encoder.timbre_encoder.",),
        "null_condition": ("condition_encoder.null_condition_emb",),
    },
    aliases={"conditions": ("caption_projection", "lyrics_encoder", "timbre_encoder", "null_condition")},
)
"""Group -> prefixes of parameter names; every parameter is in exactly one."""

_LAYERS = r"layers\.\d+\."
_OF_ENCODER = "it belongs to the encoder of the conditions, and adapters are attached to the transformer"

FLOW_LAYERS = AdaptedLayers(
    TargetWords(
        {
            "attention": _LAYERS + r"self_attn\..*",
            "cross_attention": _LAYERS + r"cross_attn\..*",
            "feed_forward": _LAYERS + r"mlp\..*",
            "projections": r"condition_embedder|time_embed(_r)?\..*",
            "all-linear": r".*",
        },
        # The published trainers' names: those of ACE-Step 1.5, and of the blocks of the first model.
        renamed={**PUBLISHED_PARTS, "transformer_blocks": "layers", "attn": "self_attn"},
        left_out={
            **dict.fromkeys(("linear_q", "linear_k", "linear_v", "linear_out", "lyrics_encoder"), _OF_ENCODER),
            **dict.fromkeys(("lyric_encoder", "lyric_proj", "lyric_embs", "genre_embedder"), _OF_ENCODER),
            "speaker_embedder": "since ACE-Step 1.5 a voice comes from the timbre encoder, to which no adapter is "
            "attached; its features reach the transformer through condition_embedder (in the word projections)",
        },
    ),
    # The blocks, which hold nearly all weights. The time embeddings are computed once a step, and all blocks depend on
    # their precision.
    quantized=_LAYERS + r".*",
    root=TRANSFORMER,
)
"""Layers of the flow models, for adapters."""


def choose_trained(config: RunConfig, core: FlowModel) -> Trainable:
    """Attach an adapter, and freeze what the configuration says and what is never used.

    Raises:
        ValueError: if the configuration names groups that do not exist, or sets a factor for one that is not trained.
    """
    return adapters.choose_trained(config, core, FLOW_GROUPS, FLOW_LAYERS, untrained_groups(config), {})


def untrained_groups(config: RunConfig) -> list[str]:
    """Return the groups that the configuration freezes, and the null condition where nothing is trained without one."""
    return [*config.training.frozen_groups(), *([] if config.model.condition_dropout else ["null_condition"])]


def planned_training(config: RunConfig, core: FlowModel) -> tuple[frozenset[str], AdapterPlan | None]:
    """Return what a run will train; see `songgen.families.adapters.planned_training`."""
    return adapters.planned_training(config, core, FLOW_GROUPS, FLOW_LAYERS, untrained_groups(config))
