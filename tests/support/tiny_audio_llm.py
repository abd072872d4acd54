"""A Qwen2-Audio of a few thousand parameters, made on the spot, saved as a folder; it can learn one answer by heart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from songgen.prepare.describing.conversation import Conversation

RATE = 16_000
AUDIO_FRAMES = 100
"""Frames of the audio encoder: 2 s of audio, instead of 30."""


PROMPT = "Describe the song."
"""What a model that has learned an answer is asked."""


def save_tiny_audio_llm(folder: Path, *, learned: str = "", seed: int = 0) -> Path:
    """Save a model that answers `PROMPT` with `learned`, whatever it hears, or with random bytes when that is empty.

    Args:
        folder: where it goes.
        learned: the answer.
        seed: of the weights.
    """
    pieces = [learned[start : start + 40] for start in range(0, len(learned), 40)]
    processor = _processor(pieces)
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    network = Qwen2AudioForConditionalGeneration(_config(tokenizer))
    network.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    network.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    if pieces:
        _learn(network, processor, pieces)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _processor(pieces: Sequence[str]) -> Qwen2AudioProcessor:
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    tokenizer.add_tokens(list(dict.fromkeys(pieces)))
    tokenizer.pad_token = "<|endoftext|>"
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2 * AUDIO_FRAMES // 100)
    return Qwen2AudioProcessor(extractor, tokenizer)


def _config(tokenizer: Qwen2Tokenizer) -> Qwen2AudioConfig:
    audio = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": 16,
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "max_source_positions": AUDIO_FRAMES,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16_384,
        "initializer_range": 0.2,
    }
    audio_token = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    return Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=audio_token)


def _learn(network: Qwen2AudioForConditionalGeneration, processor: Qwen2AudioProcessor, pieces: Sequence[str]) -> None:
    """Train until each piece of the answer follows the one before it, after any audio."""
    generator = np.random.default_rng(0)
    answer = processor.tokenizer([*pieces, "<|im_end|>"], add_special_tokens=False).input_ids
    ids = torch.tensor([[token for piece in answer for token in piece]])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    learned_steps = 0
    for _ in range(400):
        samples = generator.normal(0, 0.1, size=generator.integers(RATE // 4, 2 * RATE)).astype(np.float32)
        messages = Conversation(samples, PROMPT).messages({"type": "audio"})
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[text], audio=[samples], sampling_rate=RATE, return_tensors="pt")
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = network(**inputs).logits[0, -ids.shape[1] - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0])
        learned_steps = learned_steps + 1 if loss < 0.02 else 0
        if learned_steps == 10:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the tiny model has not learned its answer, the loss is {float(loss):.3f}")
