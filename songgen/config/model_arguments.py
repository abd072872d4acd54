"""Which model a run starts from, and how it is conditioned and sampled."""

from dataclasses import dataclass
from typing import Any, Literal

from songgen.config.types import NonNegativeFloat, PositiveFloat, PositiveInt, Probability

TrackPattern = Literal[
    "mixed",
    "mixed_pro",
    "parallel_std",
    "parallel_A_V",
    "parallel_V_A",
    "interleaving_A_V",
    "interleaving_V_A",
]


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """The model: where it comes from, its frozen encoders, and what evaluation draws from it."""

    model_name_or_path: str = ""
    """Model to start from: a folder or a hub id. Required for training. The output folder of one stage is the next
    stage's model. Preprocessing takes codec and tokenizers from it unless they are named here."""

    model_revision: str = "main"
    """Branch, tag or commit of `model_name_or_path` on the hub."""

    track_pattern: TrackPattern | None = None
    """Token layout to train. null: the layout of the model. Another layout than the model's maps its heads and
    embeddings."""

    prompt_cross_attention: bool | None = None
    """Lyrics are read by cross-attention (true) or stand before the audio (false). null: as the model was made."""

    rope_embeddings: bool | None = None
    """Rotary positions (true) or sinusoidal ones (false). null: as the model was made."""

    audio_codec: str | dict[str, Any] | None = None
    """Codec: a hub id, a folder, or a table {"type": "xcodec", "dac", "encodec" or "spectral", "path": id or folder,
    "revision": ..., "bandwidth": ...}. null: the codec of the model."""

    text_encoder: str | dict[str, Any] | None = None
    """Frozen encoder of the caption: a hub id, a folder, or a table. null: the one of the model."""

    voice_encoder: str | dict[str, Any] | None = None
    """Frozen encoder of the reference voice: a hub id, a folder, or a table. null: the one of the model."""

    description_tokenizer_name: str | None = None
    """Tokenizer of the caption: a hub id or a folder. null: the one of the model."""

    lyrics_tokenizer: str | None = None
    """Tokenizer of the lyrics: a vocabulary file, a folder or a hub id. null: the one of the model."""

    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel: PyTorch's fused one, or plain matrix products."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""

    dropout: Probability | None = None
    """Dropout of the decoder. null: as the model was made."""

    train_every_eos: bool = True
    """Train the end token of every track. false: as published, only the first track's in the interleaving layouts."""

    caption_variants: Probability = 0.0
    """Probability that a sample is trained with one of the further descriptions of its clip (`variants` of the
    manifest, as `songgen prepare` writes them) in place of the caption."""

    caption_dropout: Probability = 0.0
    """Probability that a sample is trained without its caption."""

    lyrics_dropout: Probability = 0.0
    """Probability that a sample is trained without its lyrics."""

    condition_dropout: Probability = 0.0
    """Probability that a sample is trained without any condition, which classifier-free guidance builds on."""

    input_masking: Probability = 0.0
    """Probability that a clip is trained with its beginning hidden, up to a step drawn at random; twice as often it
    loses single tokens, at a rate drawn at random. The model then has to find the song by caption, lyrics and voice.
    Small data needs it; the published recipe has none."""

    do_sample: bool = True
    """Songs generated at evaluation are drawn at random (true) or greedily (false)."""

    temperature: PositiveFloat = 1.0
    """Temperature of drawing at evaluation."""

    top_k: PositiveInt | None = None
    """Draw among the k most likely codes only. null: among all."""

    top_p: Probability | None = None
    """Draw among the most likely codes that together reach this probability. null: among all."""

    guidance_scale: NonNegativeFloat = 1.0
    """Strength of classifier-free guidance at evaluation; 1 is none."""

    max_length: PositiveInt = 2580
    """Longest song generated at evaluation, in decoder steps including the start column."""
