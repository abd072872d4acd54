"""Configuration keys that only one family of models has, and that are refused with a model of another one."""

from __future__ import annotations

from collections.abc import Collection

from songgen.config import RunConfig
from songgen.config.keys import all_keys

FLOW_KEYS = frozenset(name for name, key in all_keys().items() if key.group == "flow")
"""Keys of flow-matching models."""

TOKEN_KEYS = frozenset(
    {
        "track_pattern",
        "prompt_cross_attention",
        "rope_embeddings",
        "audio_codec",
        "text_encoder",
        "voice_encoder",
        "description_tokenizer_name",
        "lyrics_tokenizer",
        "attn_implementation",
        "train_every_eos",
        "max_length",
        "dropout",
        "input_masking",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "codebook_weighting",
        "codebook_weights_start",
        "codebook_weights_end",
        "add_vocal_loss",
        "voice_choices",
        "voice_feature_crops",
        "freeze_cross",
        "freeze_embed_prompts",
    }
)
"""Keys of models of codec tokens that would change what a run computes."""


def refuse_keys(config: RunConfig, names: Collection[str], model: str) -> None:
    """Check that keys of another family have their defaults.

    Args:
        config: configuration of the run.
        names: keys that the model does not have.
        model: kind of model, for the message.

    Raises:
        ValueError: if any of them was given another value.
    """
    values = config.to_dict()
    given = [name for name in sorted(names) if values[name] != all_keys()[name].default]
    if given:
        raise ValueError(f"{', '.join(given)}: without meaning for {model} ({config.model.model_name_or_path}); remove")
