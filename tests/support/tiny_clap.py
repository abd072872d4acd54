"""A CLAP model of a few thousand parameters with random weights, made on the spot and saved as a folder."""

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    ClapTextConfig,
    RobertaTokenizer,
)


def save_tiny_clap(folder: Path, seed: int = 0, enable_fusion: bool = False) -> Path:
    """Save a model that hears 10 s at 48 kHz and reads 38 bytes.

    Args:
        folder: where it goes.
        seed: of the weights.
        enable_fusion: whether it is of the kind that looks at long sounds as a whole and at parts of them.
    """
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    tokenizer = RobertaTokenizer(vocab={name: index for index, name in enumerate(names)}, merges=[])
    text = ClapTextConfig(
        vocab_size=len(names),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=42,
        projection_dim=8,
        initializer_factor=20.0,
    )
    audio = ClapAudioConfig(
        hidden_size=32,
        projection_dim=8,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        patch_embeds_hidden_size=16,
        enable_fusion=enable_fusion,
        fusion_type="aff_2d" if enable_fusion else None,
    )
    torch.manual_seed(seed)
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).save_pretrained(folder)
    extractor = ClapFeatureExtractor(truncation="fusion" if enable_fusion else "rand_trunc")
    ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder
