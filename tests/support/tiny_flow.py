"""A diffusers folder of an ACE-Step pipeline with random weights: all real classes, a few hundred kilobytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AutoencoderOobleck,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.pipelines.ace_step import AceStepAudioTokenDetokenizer, AceStepAudioTokenizer, AceStepConditionEncoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from songgen.data.schema import DATASET_FILE, LATENTS, DatasetInfo, ShardInfo, arrow_schema
from songgen.data.writer import ShardWriter
from songgen.families.encoding import MusicFacts
from songgen.families.flow.autoencoder import open_encoders

SAMPLE_RATE, HOP_LENGTH, CHANNELS = 3200, 128, 4
"""Sample rate in Hz, samples of one latent frame (25 frames a second), and values of one frame."""

WIDTH, TEXT_WIDTH = 32, 16
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
_LAYERS = {"hidden_size": WIDTH, "intermediate_size": 64, "sliding_window": 8, **_ATTENTION}
END_OF_TEXT = "<|endoftext|>"


def tiny_pipeline(*, is_turbo: bool = False, seed: int = 0) -> AceStepPipeline:
    """Return a pipeline of random weights on the CPU.

    Args:
        is_turbo: whether the transformer says that guidance is distilled into it.
        seed: seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer()
        text_encoder = Qwen3Model(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=32,
                num_hidden_layers=2,
                max_position_embeddings=4096,
                **{**_ATTENTION, "head_dim": 4},
            )
        )
        autoencoder = AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[4, 4, 8],
            channel_multiples=[1, 1, 2],
            decoder_channels=8,
            decoder_input_channels=CHANNELS,
            audio_channels=2,
            sampling_rate=SAMPLE_RATE,
        )
        transformer = AceStepTransformer1DModel(
            num_hidden_layers=2,
            in_channels=3 * CHANNELS,
            audio_acoustic_hidden_dim=CHANNELS,
            is_turbo=is_turbo,
            model_version="turbo" if is_turbo else None,
            **_LAYERS,
        )
        conditions = AceStepConditionEncoder(
            text_hidden_dim=TEXT_WIDTH,
            timbre_hidden_dim=CHANNELS,
            num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=2,
            **_LAYERS,
        )
        conditions.silence_latent.copy_(0.1 * torch.randn_like(conditions.silence_latent))
        pooling = {"audio_acoustic_hidden_dim": CHANNELS, "num_attention_pooler_hidden_layers": 1, **_LAYERS}
        return AceStepPipeline(
            vae=autoencoder.eval(),
            text_encoder=text_encoder.eval(),
            tokenizer=tokenizer,
            transformer=transformer.eval(),
            condition_encoder=conditions.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
            audio_tokenizer=AceStepAudioTokenizer(fsq_dim=WIDTH, **pooling).eval(),
            audio_token_detokenizer=AceStepAudioTokenDetokenizer(**pooling).eval(),
        )


def write_tiny_pipeline(folder: Path, *, is_turbo: bool = False, seed: int = 0) -> Path:
    """Write such a pipeline as a diffusers folder, and return the folder."""
    tiny_pipeline(is_turbo=is_turbo, seed=seed).save_pretrained(folder)
    return folder


CLIPS = {"train": 7, "eval": 3}
"""Split -> number of clips that `write_latents` writes."""


def write_latents(folder: Path, pipeline: Path, *, frames: tuple[int, int] = (4, 14), **clips: int) -> Path:
    """Write a data set of latents with the package's writer, and return the folder: slow waves with simple texts.

    Args:
        folder: new folder.
        pipeline: folder of the pipeline.
        frames: shortest clip, and the first length that is too long.
        clips: split -> number of clips, for others than `CLIPS`.
    """
    encoders = open_encoders(str(pipeline), "main", "cpu")
    prompts, autoencoder = encoders.texts, encoders.targets
    generator = np.random.default_rng(0)
    splits = {}
    for split, count in (CLIPS | clips).items():
        (folder / split).mkdir(parents=True)
        path = folder / split / "data-00000.arrow"
        with ShardWriter(path, arrow_schema(("mix",), LATENTS)) as writer:
            for number in range(count):
                length = int(generator.integers(*frames))
                seconds = length * HOP_LENGTH / SAMPLE_RATE
                waves = np.sin(np.arange(length) / 3 + np.arange(CHANNELS)[:, None]) + generator.normal(0, 0.1)
                caption, lyrics = f"a wave {number}", " ".join(["la"] * (number + 1))
                writer.add(number, {
                    "id": f"{split}{number}", "caption": caption, "lyrics": lyrics, "language": "en",
                    "caption_ids": prompts.caption(caption, MusicFacts(), seconds).ids,
                    "lyrics_ids": prompts.lyrics(lyrics, "en").ids,
                    "duration": seconds, "num_frames": length,
                    "latents_mix": waves.astype(np.float16).reshape(-1), "energy_mix": None, "voice_samples": [],
                    "caption_variant_ids": [], "caption_variant_lengths": [],
                })  # fmt: skip
            splits[split] = (ShardInfo(f"{split}/{path.name}", count, writer.finish()),)
    info = DatasetInfo(
        autoencoder.spec, autoencoder.fingerprint, SAMPLE_RATE, HOP_LENGTH, 0, 0, prompts.lyrics_fingerprint,
        prompts.caption_fingerprint, 0, ("mix",), splits, target_kind=LATENTS, num_channels=CHANNELS,
    )  # fmt: skip
    (folder / DATASET_FILE).write_text(info.to_json())
    return folder


def make_flow_world(folder: Path, *, is_turbo: bool = False, **clips: int) -> Path:
    """Write a pipeline (`model`) and a data set to train it on (`data`); returns their folder."""
    write_latents(folder / "data", write_tiny_pipeline(folder / "model", is_turbo=is_turbo), **clips)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes, which needs no training and knows every text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=END_OF_TEXT, eos_token=END_OF_TEXT)
