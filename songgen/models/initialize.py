"""New models: a folder with untrained weights, both tokenizers and the frozen networks that need no download."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from songgen.codecs import load_codec
from songgen.conditioning import (
    TextEncoder,
    VoiceEncoder,
    load_caption_tokenizer,
    load_text_encoder,
    load_voice_encoder,
)
from songgen.lyrics import LANGUAGES, VoiceBpeTokenizer
from songgen.models.configuration_songgen import DecoderConfig, LyricsEncoderConfig, SongGenConfig
from songgen.models.folder import CAPTION_TOKENIZER_FOLDER, MODEL_FILES
from songgen.models.loading import save_model
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.file_hashes import record_hashes
from songgen.vocabulary import NUM_RESERVED_IDS

_ROUND_VOCABULARY_TO = 8


@dataclass(frozen=True)
class Preset:
    """Sizes of a new model's trained part."""

    decoder: DecoderConfig
    """The decoder; codebooks and vocabulary follow the codec."""

    lyrics_encoder: LyricsEncoderConfig
    """The lyrics encoder."""


PRESETS = {
    "published": Preset(DecoderConfig(), LyricsEncoderConfig()),
    "small": Preset(
        DecoderConfig(
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            ffn_dim=1024,
            dropout=0.0,
            initializer_factor=0.06,
        ),
        LyricsEncoderConfig(output_size=256, attention_heads=4, linear_units=512, num_blocks=2, dropout=0.0),
    ),
}
"""`published`: the 24-layer model (0.52 B trained). `small`: learns a handful of songs on a laptop."""

_SMALL_WIDTH = 64

GENERAL_TOKENIZERS = Path(__file__).parent / "general_tokenizers"
"""Folder of the tokenizers for models that are given none, made by `helpers/general_tokenizers`: lyrics of 17 languages
with section tags, and captions. Like every folder that `songgen tokenizer` writes."""


@dataclass(frozen=True)
class ModelParts:
    """Where a new model takes its fixed parts from; specs are hub ids, folders or tables."""

    audio_codec: str | dict[str, Any]
    """The codec."""

    lyrics_tokenizer: str | Path
    """Vocabulary file, folder or hub id."""

    caption_tokenizer: str
    """Folder or hub id."""

    text_encoder: str | dict[str, Any] | None
    """None: a small encoder with seeded random weights, saved with the model."""

    voice_encoder: str | dict[str, Any] | None
    """None: a small encoder with seeded random weights, saved with the model."""


def choose_parts(
    preset: str,
    *,
    audio_codec: str,
    tokenizers: Path | None = None,
    lyrics_tokenizer: str | None = None,
    caption_tokenizer: str | None = None,
    text_encoder: str | None = None,
    voice_encoder: str | None = None,
) -> ModelParts:
    """Return the parts of a new model; what is not named is the published part, or a small one in the small preset.

    Tokenizers that are neither named nor published are the general ones of the package.

    Args:
        preset: a name out of `PRESETS`.
        audio_codec: the codec.
        tokenizers: folder that `songgen tokenizer` wrote: gives the tokenizers that are not named.
        lyrics_tokenizer: vocabulary of the lyrics.
        caption_tokenizer: tokenizer of captions; otherwise that of a text encoder that is named or published.
        text_encoder: frozen text encoder.
        voice_encoder: frozen voice encoder.
    """
    published = SongGenConfig()
    text = text_encoder or (None if preset == "small" else published.text_encoder["path"])
    trained = tokenizers / CAPTION_TOKENIZER_FOLDER if tokenizers else None
    if trained is None or not trained.is_dir():
        trained = GENERAL_TOKENIZERS / CAPTION_TOKENIZER_FOLDER
    return ModelParts(
        audio_codec=audio_codec,
        lyrics_tokenizer=lyrics_tokenizer or tokenizers or GENERAL_TOKENIZERS,
        caption_tokenizer=str(caption_tokenizer or text or trained),
        text_encoder=text,
        voice_encoder=voice_encoder or (None if preset == "small" else published.voice_encoder),
    )


def general_notice(parts: ModelParts) -> str:
    """Return one line that says which tokenizers are the general ones of the package; empty if none is."""
    chosen = {"lyrics": parts.lyrics_tokenizer, "captions": parts.caption_tokenizer}
    general = [name for name, source in chosen.items() if Path(source).is_relative_to(GENERAL_TOKENIZERS)]
    if not general:
        return ""
    return (
        f"no vocabulary of {' and '.join(general)} was given: the general one of songgen is used (lyrics in "
        f"{len(LANGUAGES)} languages, section tags); one that `songgen tokenizer` trains on your texts needs fewer "
        "tokens for them"
    )


def create_model_folder(
    folder: Path,
    parts: ModelParts,
    *,
    track_pattern: str,
    preset: str = "published",
    prompt_cross_attention: bool = True,
    rope_embeddings: bool = False,
    seed: int = 0,
) -> SongGenForConditionalGeneration:
    """Write a new model into a folder that then opens on its own.

    Args:
        folder: where to write; may exist, files of the same names are replaced.
        parts: codec, tokenizers and frozen encoders.
        track_pattern: the token layout; `mixed_pro` gets the auxiliary vocal heads.
        preset: a name out of `PRESETS`.
        prompt_cross_attention: lyrics in the cross-attention memory, or in front of the decoder's sequence.
        rope_embeddings: rotary positions instead of sinusoidal ones.
        seed: of the new weights.

    Raises:
        ValueError: for an unknown preset or layout, or a part that cannot be opened.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known presets: {', '.join(PRESETS)}")
    codec = load_codec(parts.audio_codec)
    lyrics_tokenizer = _open_lyrics_tokenizer(parts.lyrics_tokenizer)
    caption_tokenizer = load_caption_tokenizer(parts.caption_tokenizer)
    text_encoder, voice_encoder = _open_encoders(parts, len(caption_tokenizer), seed)
    caption_is_local = Path(parts.caption_tokenizer).is_dir()
    sizes = PRESETS[preset]
    config = SongGenConfig(
        track_pattern=track_pattern,
        decoder=replace(
            sizes.decoder,
            num_codebooks=codec.num_codebooks,
            vocab_size=codec.codebook_size + NUM_RESERVED_IDS,
            rope_embeddings=rope_embeddings,
        ),
        lyrics_encoder=sizes.lyrics_encoder,
        lyrics_vocab_size=-(-len(lyrics_tokenizer) // _ROUND_VOCABULARY_TO) * _ROUND_VOCABULARY_TO,
        prompt_cross_attention=prompt_cross_attention,
        add_vocal_loss=track_pattern == "mixed_pro",
        text_hidden_size=text_encoder.hidden_size,
        voice_num_layers=voice_encoder.num_layers,
        voice_hidden_size=voice_encoder.hidden_size,
        text_encoder=_spec(parts.text_encoder),
        voice_encoder=_spec(parts.voice_encoder),
        audio_codec=dict(codec.spec),
        audio_codec_fingerprint=codec.fingerprint,
        caption_tokenizer=CAPTION_TOKENIZER_FOLDER if caption_is_local else parts.caption_tokenizer,
        sampling_rate=codec.sample_rate,
    )
    torch.manual_seed(seed)
    model = SongGenForConditionalGeneration(config)
    for name, part in (("text_encoder", text_encoder), ("voice_encoder", voice_encoder), ("audio_codec", codec)):
        model.attach(name, part)
    save_model(model, folder)
    lyrics_tokenizer.save_pretrained(folder)
    if caption_is_local:
        caption_tokenizer.save_pretrained(folder / CAPTION_TOKENIZER_FOLDER)
    record_hashes(folder, MODEL_FILES.names(folder))
    return model


def _open_lyrics_tokenizer(source: str | Path) -> VoiceBpeTokenizer:
    return VoiceBpeTokenizer(source) if Path(source).is_file() else VoiceBpeTokenizer.from_pretrained(source)


def _open_encoders(parts: ModelParts, caption_vocabulary: int, seed: int) -> tuple[TextEncoder, VoiceEncoder]:
    """Open both frozen encoders, or make small ones."""
    text = (
        TextEncoder.small(caption_vocabulary, d_model=_SMALL_WIDTH, seed=seed)
        if parts.text_encoder is None
        else load_text_encoder(parts.text_encoder)
    )
    voice = (
        VoiceEncoder.small(hidden_size=_SMALL_WIDTH, seed=seed)
        if parts.voice_encoder is None
        else load_voice_encoder(parts.voice_encoder)
    )
    return text, voice


def _spec(given: str | dict[str, Any] | None) -> dict[str, Any]:
    """Return a spec for the model's configuration; an encoder made here has none until it is saved."""
    if given is None:
        return {}
    return {"path": given} if isinstance(given, str) else dict(given)


def describe(model: SongGenForConditionalGeneration) -> str:
    """Return one line that says what a new model is."""
    trained = sum(parameter.numel() for parameter in model.parameters())
    config = model.config
    return json.dumps(
        {
            "track_pattern": config.track_pattern,
            "trained_parameters": trained,
            "codec": config.audio_codec.get("path", config.audio_codec.get("type")),
            "codebooks": config.decoder.num_codebooks,
            "lyrics_entries": config.lyrics_vocab_size,
        }
    )
