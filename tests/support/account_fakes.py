"""Small models in a run, with their costs, for comparisons of estimates with real steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from songgen.config import RunConfig
from songgen.families.adapters import attach_adapter
from songgen.families.costs import BatchSize
from songgen.families.tokens.costs import TokenCosts
from songgen.families.tokens.parameter_groups import TOKEN_GROUPS, TOKEN_LAYERS, planned_training, untrained_groups
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration

CLIPS, FRAMES, CAPTION, LYRICS, VOICE = 3, 90, 12, 40, 20
SIZE = BatchSize(CLIPS, FRAMES, CAPTION, LYRICS, VOICE * 320)


def small_model(pattern: str, **fields: Any) -> SongGenForConditionalGeneration:
    """A model of three layers, large enough that tensors count more than their statistics."""
    torch.manual_seed(0)
    decoder = DecoderConfig(
        vocab_size=192, num_codebooks=4, hidden_size=96, num_hidden_layers=3, num_attention_heads=4, ffn_dim=256,
        **fields.pop("decoder", {}),
    )  # fmt: skip
    encoder = LyricsEncoderConfig(output_size=64, attention_heads=4, linear_units=128, num_blocks=2)
    config = SongGenConfig(
        track_pattern=pattern, decoder=decoder, lyrics_encoder=encoder, lyrics_vocab_size=300,
        add_vocal_loss=pattern == "mixed_pro", text_hidden_size=32, voice_num_layers=4, voice_hidden_size=48, **fields,
    )  # fmt: skip
    return SongGenForConditionalGeneration(config).train()


def forward_of(model: SongGenForConditionalGeneration, *, half: bool) -> Callable[[], Tensor]:
    """A forward pass on a batch of `SIZE`, as the trainer runs it."""
    tracks, vocal = len(model.layout.tracks), model.config.add_vocal_loss
    batch = {
        "codes": torch.randint(0, 128, (CLIPS, tracks, 4, FRAMES)),
        "frames": torch.full((CLIPS,), FRAMES),
        "auxiliary_codes": torch.randint(0, 128, (CLIPS, 1, 4, FRAMES)) if vocal else None,
        "text_hidden_states": torch.randn(CLIPS, CAPTION, 32),
        "attention_mask": torch.ones(CLIPS, CAPTION, dtype=torch.long),
        "prompt_input_ids": torch.randint(0, 300, (CLIPS, LYRICS)),
        "prompt_attention_mask": torch.ones(CLIPS, LYRICS, dtype=torch.long),
        "voice_hidden_states": torch.randn(CLIPS, 4, VOICE, 48),
        "voice_mask": torch.ones(CLIPS, VOICE, dtype=torch.bool),
    }

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = model(**batch, return_logits=False)
        return output.loss if output.vocal_loss is None else output.loss + 0.1 * output.vocal_loss

    return forward


def planned(model: SongGenForConditionalGeneration, **keys: Any) -> tuple[RunConfig, TokenCosts]:
    """The configuration of a run and the costs of a model in it, before an adapter is attached."""
    vocal = model.config.add_vocal_loss
    required = {"model_name_or_path": "m", "save_to_disk": "d", "output_dir": "o", "add_vocal_loss": vocal}
    config = RunConfig.from_dict(required | keys)
    trained, plan = planned_training(config, model)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    costs = TokenCosts(model.config, shapes, trained, encoders={}, lyrics_tokenizer=None, vocal_heads=vocal, plan=plan)
    return config, costs.with_settings(config)


def in_run(model: SongGenForConditionalGeneration, config: RunConfig) -> None:
    """Freeze, adapt and set a model as a run does."""
    frozen = untrained_groups(config, model)
    attach_adapter(config, model, TOKEN_GROUPS, TOKEN_LAYERS, frozen, {})
    model.train()
    model.set_gradient_checkpointing(config.model.gradient_checkpointing)
