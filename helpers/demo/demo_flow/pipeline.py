"""Untrained pipeline of the demo's flow model: all classes of the published one, with sizes for two CPU cores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from demo_flow.autoencoder import fit_transform, make_autoencoder

if TYPE_CHECKING:
    from diffusers import AceStepPipeline
    from transformers import PreTrainedTokenizerFast

CHANNELS = 96
"""Values of a frame of latents. The work of the autoencoder grows with the square."""
WIDTH, CONDITION_WIDTH, TEXT_WIDTH = 256, 128, 128
NUM_LAYERS = 3
HEAD_WIDTH = 64
VOCABULARY_SIZE = 600
END_OF_TEXT = "<|endoftext|>"
_LONGEST_TEXT = 2048
_SHORTEST_PERIOD, _LONGEST_PERIOD = 4.0, 400.0
"""Frames: 0.16 s and 16 s."""


def make_pipeline(
    songs: Sequence[NDArray[np.floating]], rows: Sequence[Mapping[str, Any]], sample_rate: int, seed: int
) -> AceStepPipeline:
    """Return a pipeline that can be trained on some songs.

    Args:
        songs: Mono samples, for the autoencoder.
        rows: Rows of the manifest, for the tokenizer.
        sample_rate: Sample rate of the songs in Hz.
        seed: Seed of the weights.
    """
    import songgen  # noqa: F401, I001, before these libraries: it sets what they read when they are imported
    from diffusers import AceStepPipeline, AceStepTransformer1DModel, FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.ace_step import AceStepConditionEncoder
    from transformers import Qwen3Config, Qwen3Model

    autoencoder = make_autoencoder(fit_transform(songs, CHANNELS), sample_rate)
    tokenizer = train_tokenizer(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = Qwen3Model(
            Qwen3Config(
                vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2, max_position_embeddings=_LONGEST_TEXT, **_attention(TEXT_WIDTH),
            )
        )  # fmt: skip
        # The lyrics are read from these embeddings, which are small in a new Qwen3.
        nn.init.normal_(text_encoder.get_input_embeddings().weight)
        transformer = AceStepTransformer1DModel(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=NUM_LAYERS, in_channels=3 * CHANNELS,
            audio_acoustic_hidden_dim=CHANNELS, patch_size=1, encoder_hidden_size=CONDITION_WIDTH, **_attention(WIDTH),
        )  # fmt: skip
        conditions = AceStepConditionEncoder(
            hidden_size=CONDITION_WIDTH, intermediate_size=2 * CONDITION_WIDTH, text_hidden_dim=TEXT_WIDTH,
            timbre_hidden_dim=CHANNELS, num_lyric_encoder_hidden_layers=2, num_timbre_encoder_hidden_layers=1,
            **_attention(CONDITION_WIDTH),
        )  # fmt: skip
        for model in (transformer, conditions):
            model.apply(_initialize)
    conditions.silence_latent.copy_(positions(conditions.silence_latent.shape[1], CHANNELS))
    return AceStepPipeline(
        vae=autoencoder,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        condition_encoder=conditions.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )


def positions(num_frames: int, channels: int) -> Tensor:
    """Return sines and cosines of the frame number, frames x channels, as the pipeline's latents of silence.

    The transformer knows distances between frames, but not where a frame is in a song. What it reads at each frame
    besides noise are the latents of silence, which are zero in every frame in the demo's autoencoder. With zeros, two
    of six songs were closest to their own original after 200 steps of training; with positions, five of six.
    """
    periods = torch.logspace(math.log10(_SHORTEST_PERIOD), math.log10(_LONGEST_PERIOD), channels // 2)
    angles = 2 * math.pi * torch.arange(num_frames)[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def train_tokenizer(rows: Sequence[Mapping[str, Any]]) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with the words of captions and lyrics."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([row[column] for row in rows for column in ("caption", "lyrics")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def _attention(width: int) -> dict[str, int]:
    """Return the sizes of the attention of a network."""
    heads = width // HEAD_WIDTH
    return {"num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": HEAD_WIDTH}


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
