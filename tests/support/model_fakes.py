"""Tiny models in every configuration, and batches for them."""

from typing import Any

import torch

from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration

CODEBOOKS, WIDTH, VOICE_LAYERS = 3, 16, 2
VARIANTS: dict[str, dict[str, Any]] = {
    "sinusoidal": {},
    "rotary": {"decoder": {"rope_embeddings": True}},
    "grouped": {"decoder": {"num_key_value_heads": 2, "num_cross_attention_key_value_heads": 1}},
    "prefix": {"prompt_cross_attention": False},
    "bare_prefix": {"prompt_cross_attention": False, "add_prenet": False},
    "rotary_grouped_prefix": {
        "prompt_cross_attention": False,
        "decoder": {"rope_embeddings": True, "num_key_value_heads": 1},
    },
}


def tiny(
    track_pattern: str = "mixed_pro", variant: str = "sinusoidal", seed: int = 0
) -> SongGenForConditionalGeneration:
    """A model that trains in milliseconds, with weights large enough that every part matters."""
    options = dict(VARIANTS[variant])
    decoder = DecoderConfig(
        vocab_size=64 + 20, num_codebooks=CODEBOOKS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        ffn_dim=32, dropout=0.0, initializer_factor=0.3, **options.pop("decoder", {}),
    )  # fmt: skip
    config = SongGenConfig(
        track_pattern=track_pattern,
        decoder=decoder,
        lyrics_encoder=LyricsEncoderConfig(
            output_size=12, attention_heads=2, linear_units=20, num_blocks=1, dropout=0.0
        ),
        lyrics_vocab_size=30,
        add_vocal_loss=track_pattern == "mixed_pro",
        text_hidden_size=8,
        voice_num_layers=VOICE_LAYERS,
        voice_hidden_size=6,
        **options,
    )
    torch.manual_seed(seed)
    return SongGenForConditionalGeneration(config).eval()


def batch(model: SongGenForConditionalGeneration, frames: tuple[int, ...] = (6, 4)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    size, longest = len(frames), max(frames)

    def codes(tracks: int) -> torch.Tensor:
        return torch.randint(0, 20, (size, tracks, CODEBOOKS, longest), generator=generator)

    mask = torch.ones(size, 5, dtype=torch.long)
    mask[-1, 3:] = 0
    return {
        "codes": codes(len(model.layout.tracks)),
        "auxiliary_codes": codes(1),
        "frames": torch.tensor(frames),
        "text_hidden_states": torch.randn(size, 4, 8, generator=generator),
        "prompt_input_ids": torch.randint(0, 30, (size, 5), generator=generator),
        "prompt_attention_mask": mask,
        "voice_hidden_states": torch.randn(size, VOICE_LAYERS, 3, 6, generator=generator),
        "voice_mask": torch.tensor([[True] * 3] * (size - 1) + [[False] * 3]),
    }
