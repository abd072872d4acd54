"""Parameter groups of the flow-matching models, and which of them a run trains."""

from __future__ import annotations

import logging

from songgen.config import RunConfig
from songgen.families.costs import AdapterPlan
from songgen.families.flow.model import FlowModel
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

logger = logging.getLogger(__name__)


def choose_trained(config: RunConfig, core: FlowModel) -> Trainable:
    """Freeze what the configuration says, and the null condition if nothing is ever trained without conditions.

    Raises:
        ValueError: if the configuration names groups that do not exist, or sets a factor for one that is not trained.
    """
    frozen = untrained_groups(config)
    factors: dict[str, float] = dict(config.training.learning_rate_factors.items())
    trainable = Trainable.choose(core, FLOW_GROUPS, frozen=frozen, learning_rate_factors=factors)
    logger.info("frozen: %s", ", ".join(trainable.frozen_groups) or "nothing")
    return trainable


def untrained_groups(config: RunConfig) -> list[str]:
    """Return the groups that the configuration freezes, and the null condition where nothing is trained without one."""
    return [*config.training.frozen_groups(), *([] if config.model.condition_dropout else ["null_condition"])]


def planned_training(config: RunConfig, core: FlowModel) -> tuple[frozenset[str], AdapterPlan | None]:
    """Return what a run will train, from a model without content (on the meta device), which gets no adapter.

    Returns:
        Names of the trained parameters of the model itself, and the adapters.

    Raises:
        ValueError: as `choose_trained` does.
    """
    frozen = untrained_groups(config)
    return frozenset(entry.name for entry in Trainable.choose(core, FLOW_GROUPS, frozen=frozen).entries), None
