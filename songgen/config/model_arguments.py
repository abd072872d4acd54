"""Configuration keys of the model: its source, its conditions, and sampling in evaluation."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from songgen.config.types import PositiveInt, Probability, Range

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
    """The model: its source, its frozen encoders, dropout of conditions, and sampling in evaluation."""

    model_name_or_path: str = ""
    """Model to start from: a folder or a hub id. Required for training. The output folder of one stage is the model of
    the next. Preprocessing uses its codec and tokenizers unless others are given."""

    model_revision: str = "main"
    """Branch, tag or commit of `model_name_or_path` on the hub."""

    track_pattern: TrackPattern | None = None
    """Token layout to train; for a layout other than the model's, heads and embeddings are mapped. null: the layout of
    the model."""

    prompt_cross_attention: bool | None = None
    """Whether lyrics are read by cross-attention (true) or precede the audio tokens (false). null: as in the model."""

    rope_embeddings: bool | None = None
    """Whether positions are rotary (true) or sinusoidal (false). null: as in the model."""

    audio_codec: str | dict[str, Any] | None = None
    """Codec: a hub id, a folder, a weight file of descript-audio-codec, or a table {"type": "xcodec", "dac", "encodec"
    or "spectral", "path": id, folder or file, "revision": ..., "bandwidth": ...}. null: the codec of the model."""

    text_encoder: str | dict[str, Any] | None = None
    """Frozen encoder of the caption: a hub id, a folder, or a table. null: the encoder of the model."""

    voice_encoder: str | dict[str, Any] | None = None
    """Frozen encoder of the reference voice: a hub id, a folder, or a table. null: the encoder of the model."""

    description_tokenizer_name: str | None = None
    """Tokenizer of the caption: a hub id or a folder. null: the tokenizer of the model."""

    lyrics_tokenizer: str | None = None
    """Tokenizer of the lyrics: a vocabulary file, a folder or a hub id. null: the tokenizer of the model."""

    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel: PyTorch's fused one (`sdpa`), or plain matrix products (`eager`)."""

    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass, which takes less memory and more time."""

    dropout: Probability | None = None
    """Dropout rate of the decoder. null: as in the model."""

    train_every_eos: bool = True
    """Whether to train the end token of every track. false, as published: in interleaving layouts, only that of the
    first track."""

    caption_variants: Probability = 0.0
    """Probability that a sample has one of the further descriptions of its clip (`variants` of the manifest, as
    written by `songgen prepare`) in place of the caption."""

    caption_dropout: Probability = 0.0
    """Probability that a sample has no caption."""

    lyrics_dropout: Probability = 0.0
    """Probability that a sample has no lyrics."""

    condition_dropout: Probability = 0.0
    """Probability that a sample has no conditions at all, which classifier-free guidance requires."""

    input_masking: Probability = 0.0
    """Probability that the beginning of a clip is hidden from the decoder, up to a random step; with twice this
    probability, single tokens are hidden at a random rate. The model then has to rely on caption, lyrics and voice.
    Needed for small data sets; not part of the published recipe."""

    do_sample: bool = True
    """Whether evaluation generates songs by sampling (true) or greedily (false)."""

    temperature: Annotated[float, Range(at_least=1e-4, at_most=1e4)] = 1.0
    """Sampling temperature in evaluation."""

    top_k: PositiveInt | None = None
    """Number of most likely codes to sample from in evaluation. null: all."""

    top_p: Annotated[float, Range(above=0, at_most=1)] | None = None
    """Total probability of the most likely codes to sample from in evaluation. null: all codes."""

    guidance_scale: Annotated[float, Range(at_least=0, at_most=100)] = 1.0
    """Scale of classifier-free guidance in evaluation; 1 means no guidance."""

    max_length: PositiveInt = 2580
    """Maximum length of songs generated in evaluation, in decoder steps including the start column."""
