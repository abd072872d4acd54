"""Small codecs of every kind, saved as folders."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, PreTrainedModel, XcodecConfig, XcodecModel

from songgen.codecs.spectral import SpectralSettings
from songgen.codecs.spectral_fit import FitOptions, fit_spectral_codec

SMALL_SPECTRAL = SpectralSettings(num_codebooks=4, codebook_size=32, num_mels=40, griffin_lim_iterations=8)


def song(seed: int, num_samples: int) -> Tensor:
    """Notes with harmonics over faint noise, at 16 kHz."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(num_samples) / 16_000
    pitches = 110 * 2 ** (torch.randint(0, 24, (num_samples // 1600 + 1,), generator=generator) / 12)
    pitch = pitches.repeat_interleave(1600)[:num_samples]
    notes = sum(torch.sin(2 * torch.pi * harmonic * pitch * time) / harmonic for harmonic in range(1, 8))
    return 0.1 * notes + 0.002 * torch.randn(num_samples, generator=generator)


def tiny_xcodec() -> XcodecModel:
    acoustic = {
        "model_type": "dac",
        "encoder_hidden_size": 4,
        "downsampling_ratios": [8, 5, 4, 2],
        "decoder_hidden_size": 32,
    }
    semantic = {
        "model_type": "hubert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    }
    acoustic = {**acoustic, "upsampling_ratios": [8, 5, 4, 2], "hidden_size": 16}
    config = XcodecConfig(
        acoustic_model_config=acoustic,
        semantic_model_config=semantic,
        target_bandwidths=[0.25, 0.5, 1],
        codebook_size=32,
    )
    model = XcodecModel(config)
    for quantizer in model.quantizer.quantizers:
        quantizer.codebook.embed.normal_(std=0.3)
    return model


def tiny_dac() -> DacModel:
    config = DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[2, 4, 5], decoder_hidden_size=16, n_codebooks=3, codebook_size=32
    )
    return DacModel(config)


def tiny_encodec(**changes: object) -> EncodecModel:
    settings = {
        "num_filters": 4,
        "hidden_size": 8,
        "upsampling_ratios": [5, 4, 2],
        "sampling_rate": 8000,
        "codebook_size": 32,
        "target_bandwidths": [1.0, 2.0, 4.0],
        "num_lstm_layers": 1,
    }
    model = EncodecModel(EncodecConfig(**{**settings, **changes}))
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(std=0.3)
    return model


NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {"xcodec": tiny_xcodec, "dac": tiny_dac, "encodec": tiny_encodec}


@pytest.fixture(scope="session")
def codec_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved codec of every kind, by kind."""
    root = tmp_path_factory.mktemp("codecs")
    folders = {kind: root / kind for kind in (*NETWORKS, "spectral")}
    for kind, make in NETWORKS.items():
        torch.manual_seed(0)
        make().save_pretrained(folders[kind])
    clips = [song(seed, 16_000) for seed in range(3)]
    fit_spectral_codec(clips, SMALL_SPECTRAL, FitOptions(iterations=3)).save(folders["spectral"])
    return folders


@pytest.fixture(params=[*NETWORKS, "spectral"])
def codec_folder(request: pytest.FixtureRequest, codec_folders: dict[str, Path]) -> Path:
    """Each kind's folder in turn."""
    return codec_folders[request.param]


@pytest.fixture
def make_song() -> Callable[[int, int], Tensor]:
    """(seed, samples) -> a short piece of music."""
    return song


@pytest.fixture
def make_encodec() -> Callable[..., EncodecModel]:
    """Settings of an EnCodec's configuration -> a small random one."""
    return tiny_encodec
