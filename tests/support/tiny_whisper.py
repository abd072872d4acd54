"""A Whisper model of a few thousand parameters with random weights, made on the spot and saved as a folder."""

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

LANGUAGES = ("en", "de", "ja", "zh")
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzĠ")
NUM_TIMESTAMPS = 1501


def save_tiny_whisper(folder: Path, seed: int = 0, languages: tuple[str, ...] = LANGUAGES) -> Path:
    """Save a model that writes letters; its vocabulary is bytes and Whisper's special tokens, in Whisper's order.

    Args:
        folder: where it goes.
        seed: of the weights; another one hears other words.
        languages: those that it knows; none for a model of English alone.
    """
    tokenizer = _tokenizer(languages)
    ids = tokenizer.get_vocab()
    config = WhisperConfig(
        vocab_size=len(ids),
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_target_positions=64,
        max_source_positions=1500,
        init_std=0.4,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    torch.manual_seed(seed)
    network = WhisperForConditionalGeneration(config)
    network.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        # Letters and blanks alone, so that random weights write words.
        suppress_tokens=[index for name, index in ids.items() if len(name) == 1 and name not in LETTERS],
        begin_suppress_tokens=[ids["Ġ"], ids["<|endoftext|>"]],
        no_timestamps_token_id=ids["<|notimestamps|>"],
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in languages},
        is_multilingual=bool(languages),
        alignment_heads=[[0, 1], [1, 0]],
    )
    network.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder


def _tokenizer(languages: tuple[str, ...]) -> WhisperTokenizer:
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    names = ["<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    names += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    names += [f"<|{index * 0.02:.2f}|>" for index in range(NUM_TIMESTAMPS)]
    tokenizer.add_special_tokens({"extra_special_tokens": names})
    return tokenizer
