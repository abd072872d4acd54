"""Named groups that partition the trained parameters, and freezing by group."""

from collections.abc import Iterable

from torch import nn

PARAMETER_GROUPS: dict[str, tuple[str, ...]] = {
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
}
"""Group -> prefixes of parameter names; every parameter is in exactly one."""

CROSS_GROUPS = (
    "text_projection",
    "voice_aggregation",
    "voice_projection",
    "lyrics_embedding",
    "lyrics_encoder",
    "lyrics_projection",
)
"""What the published recipe's `freeze_cross` freezes: everything between the conditions and the decoder."""


def group_of(parameter_name: str) -> str:
    """Return the group of a parameter.

    Raises:
        ValueError: if no group or more than one claims the name.
    """
    found = [group for group, prefixes in PARAMETER_GROUPS.items() if parameter_name.startswith(prefixes)]
    if len(found) != 1:
        raise ValueError(f"parameter {parameter_name!r} belongs to {found or 'no group'}; expected exactly one group")
    return found[0]


def freeze(model: nn.Module, groups: Iterable[str]) -> list[str]:
    """Stop training the parameters of some groups and train all others.

    Args:
        model: a SongGen model.
        groups: names out of `PARAMETER_GROUPS`, or `cross` for all of `CROSS_GROUPS`.

    Returns:
        The frozen groups, in the order of `PARAMETER_GROUPS`.

    Raises:
        ValueError: for an unknown group.
    """
    wanted = {name for group in groups for name in (CROSS_GROUPS if group == "cross" else (group,))}
    if unknown := wanted - set(PARAMETER_GROUPS):
        known = ", ".join(["cross", *PARAMETER_GROUPS])
        raise ValueError(f"unknown parameter groups {sorted(unknown)}; known groups: {known}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of(name) not in wanted)
    return [group for group in PARAMETER_GROUPS if group in wanted]
