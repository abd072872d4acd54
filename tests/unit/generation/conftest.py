"""A tiny model with a toy codec whose frames are heard by their neighbours, as a convolutional codec's are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from songgen.conditioning import TextEncoder
from songgen.models import DecoderConfig, LyricsEncoderConfig, SongGenConfig, SongGenForConditionalGeneration
from songgen.vocabulary import NUM_RESERVED_IDS

NUM_CODEBOOKS = 3
CODEBOOK_SIZE = 16
CAPTION_VOCABULARY = 40
LYRICS_VOCABULARY = 300


class ToyCodec:
    """Each code adds a value to its frame; a moving average over five frames smears it."""

    sample_rate, hop_length, num_codebooks, codebook_size = 40, 4, NUM_CODEBOOKS, CODEBOOK_SIZE
    frame_rate, fingerprint, device = 10.0, "toy", torch.device("cpu")
    radius = 2

    def to(self, device: torch.device | str) -> "ToyCodec":
        return self

    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        sound = torch.zeros(len(codes), 1, codes.shape[-1] * self.hop_length)
        counts = [codes.shape[-1]] * len(codes) if frames is None else frames.tolist()
        for row, song, count in zip(sound, codes, counts, strict=True):
            if count:
                row[:, : count * self.hop_length] = self._decode_song(song[:, :count])
        return sound

    def _decode_song(self, codes: Tensor) -> Tensor:
        assert codes.min() >= 0 and codes.max() < CODEBOOK_SIZE
        level = (codes.float() * torch.tensor([1.0, 0.1, 0.01])[:, None]).sum(dim=0)
        kernel = torch.tensor([[[1.0, 2.0, 4.0, 2.0, 1.0]]])
        smeared = torch.nn.functional.conv1d(level[None, None], kernel, padding=self.radius)
        return smeared[0].repeat_interleave(self.hop_length, dim=-1)


def build_model(
    layout: str = "mixed", dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any
) -> SongGenForConditionalGeneration:
    decoder = DecoderConfig(
        vocab_size=CODEBOOK_SIZE + NUM_RESERVED_IDS,
        num_codebooks=NUM_CODEBOOKS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        initializer_factor=0.3,
        **changes.pop("decoder", {}),
    )
    config = SongGenConfig(
        track_pattern=layout,
        decoder=decoder,
        lyrics_encoder=LyricsEncoderConfig(output_size=32, attention_heads=4, linear_units=32, num_blocks=1),
        add_vocal_loss=layout == "mixed_pro",
        text_hidden_size=16,
        **{"lyrics_vocab_size": LYRICS_VOCABULARY, **changes},
    )
    torch.manual_seed(seed)
    model = SongGenForConditionalGeneration(config)
    model.attach("text_encoder", TextEncoder.small(CAPTION_VOCABULARY, d_model=16, num_layers=1))
    model.attach("audio_codec", ToyCodec())
    return model.to(dtype).eval()


def build_inputs(num_songs: int = 3) -> dict[str, Tensor]:
    """Captions and lyrics of different lengths, padded."""
    generator = torch.Generator().manual_seed(1)
    caption = torch.randint(2, CAPTION_VOCABULARY, (num_songs, 6), generator=generator)
    lyrics = torch.randint(2, 250, (num_songs, 7), generator=generator)
    caption_mask = torch.arange(6) < torch.tensor([6, 2, 4, 5][:num_songs])[:, None]
    lyrics_mask = torch.arange(7) < torch.tensor([3, 7, 5, 7][:num_songs])[:, None]
    return {
        "input_ids": caption * caption_mask,
        "attention_mask": caption_mask.long(),
        "prompt_input_ids": lyrics * lyrics_mask,
        "prompt_attention_mask": lyrics_mask.long(),
    }


@pytest.fixture
def make_model() -> Callable[..., SongGenForConditionalGeneration]:
    return build_model


@pytest.fixture
def make_inputs() -> Callable[..., dict[str, Tensor]]:
    return build_inputs


@pytest.fixture
def toy_codec() -> ToyCodec:
    return ToyCodec()
