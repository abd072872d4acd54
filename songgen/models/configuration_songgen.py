"""Sizes and choices of a SongGen model, as plain dataclasses that read and write the published `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from songgen.layout import TokenLayout, get_layout
from songgen.runtime.network_sizes import require_sane_sizes
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE
from songgen.tasks import Task, task_of_layout
from songgen.vocabulary import NUM_RESERVED_IDS, AudioVocabulary


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the keys that a dataclass has; published files also hold many of their framework's."""
    names = {entry.name for entry in fields(cls)}
    return {key: value for key, value in data.items() if key in names}


@dataclass(frozen=True)
class DecoderConfig:
    """The autoregressive transformer (defaults: the published 24-layer model)."""

    vocab_size: int = 1024 + NUM_RESERVED_IDS
    """V, rows of each embedding and head: codes, then special tokens."""

    num_codebooks: int = 8
    """K of the codec."""

    hidden_size: int = 1024
    """D, width."""

    num_hidden_layers: int = 24
    """Transformer blocks."""

    num_attention_heads: int = 16
    """Query heads of self- and cross-attention."""

    num_key_value_heads: int | None = None
    """Key and value heads of self-attention (None: as many as query heads); fewer means grouped-query attention."""

    num_cross_attention_key_value_heads: int | None = None
    """The same for cross-attention (None: as in self-attention)."""

    ffn_dim: int = 4096
    """Width of the feed-forward layer."""

    activation_function: str = "gelu"
    """Feed-forward activation: gelu, relu or silu."""

    dropout: float = 0.1
    """Dropout after embeddings and at the end of each sub-layer."""

    attention_dropout: float = 0.0
    """Dropout of attention weights."""

    activation_dropout: float = 0.0
    """Dropout after the feed-forward activation."""

    rope_embeddings: bool = False
    """Rotary instead of sinusoidal positions."""

    rope_theta: float = 10000.0
    """Base of the rotary angles."""

    max_position_embeddings: int = 4096
    """Kept as published files have it; nothing reads it, since positions are computed on demand."""

    initializer_factor: float = 0.02
    """Standard deviation of new weights."""

    scale_embedding: bool = False
    """Multiply input embeddings by the square root of the width."""

    def __post_init__(self) -> None:
        """Check the sizes against each other, all problems at once."""
        problems = []
        if self.vocab_size <= NUM_RESERVED_IDS:
            problems.append(f"vocab_size {self.vocab_size} must exceed the {NUM_RESERVED_IDS} special ids")
        if self.hidden_size % (2 * self.num_attention_heads):
            problems.append(
                f"hidden_size {self.hidden_size} must be a multiple of 2 x {self.num_attention_heads} attention heads"
            )
        for name, value in (("self", self.key_value_heads), ("cross", self.cross_key_value_heads)):
            if value < 1 or self.num_attention_heads % value:
                problems.append(f"{value} key-value heads of {name}-attention do not divide {self.num_attention_heads}")
        if self.activation_function not in ("gelu", "relu", "silu"):
            problems.append(f"activation_function {self.activation_function!r} is not one of gelu, relu, silu")
        if problems:
            raise ValueError("decoder: " + "; ".join(problems))

    @property
    def key_value_heads(self) -> int:
        """Key and value heads of self-attention."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def cross_key_value_heads(self) -> int:
        """Key and value heads of cross-attention."""
        return self.num_cross_attention_key_value_heads or self.key_value_heads


@dataclass(frozen=True)
class LyricsEncoderConfig:
    """The encoder of lyrics, trained with the decoder (defaults: published sizes)."""

    output_size: int = 1024
    """Width."""

    attention_heads: int = 16
    """Attention heads."""

    linear_units: int = 4096
    """Width of the feed-forward layer."""

    num_blocks: int = 6
    """Transformer blocks."""

    dropout: float = 0.1
    """Dropout after the input layer and at the end of each sub-layer."""


@dataclass(frozen=True)
class SongGenConfig:
    """A whole model: decoder, lyrics encoder, what conditions it and which frozen networks serve it."""

    track_pattern: str = "mixed_pro"
    """Name of the token layout."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The autoregressive transformer."""

    lyrics_encoder: LyricsEncoderConfig = field(default_factory=LyricsEncoderConfig)
    """The encoder of lyrics."""

    lyrics_vocab_size: int = 7000
    """Rows of the lyrics embedding (at least the tokenizer's entries)."""

    prompt_cross_attention: bool = True
    """Lyrics in the cross-attention memory; False puts them in front of the decoder's sequence."""

    add_prenet: bool = True
    """Encode and project lyrics wherever they are put, as published.

    False only in models with prepended lyrics that an earlier version of this package trained: it prepended the bare
    embeddings. Such a `config.json` has `prompt_cross_attention` false and lacks this key.
    """

    add_vocal_loss: bool = True
    """Whether there are auxiliary heads that predict the vocal track (only in the layout mixed_pro)."""

    train_every_eos: bool = True
    """Train the end of every track; the published interleaving models train only the first track's."""

    text_hidden_size: int = 1024
    """Width of the frozen text encoder's states."""

    voice_num_layers: int = 25
    """Number of hidden states that the frozen voice encoder returns."""

    voice_hidden_size: int = 1024
    """Width of each hidden state of the voice encoder."""

    text_encoder: dict[str, Any] = field(default_factory=lambda: {"path": "google/flan-t5-large"})
    """Spec of the frozen text encoder, or the configuration of one whose weights are in the model's own file."""

    voice_encoder: dict[str, Any] = field(
        default_factory=lambda: {"path": "m-a-p/MERT-v1-330M", "allow_pickle_weights": True}
    )
    """Spec of the frozen voice encoder, or the configuration of one whose weights are in the model's own file.

    The default repository holds no safetensors: a `.bin` is read, as tensors only.
    """

    audio_codec: dict[str, Any] = field(
        default_factory=lambda: {"type": "xcodec", "path": "hf-audio/xcodec-hubert-general-balanced", "bandwidth": 4.0}
    )
    """Spec of the codec whose tokens the model writes."""

    audio_codec_fingerprint: str | None = None
    """Fingerprint of that codec, known once the model was trained on data made with it."""

    condition_dropout: float | None = None
    """Probability with which training removed all conditions of a song, the highest of all stages; None: not known.

    Guidance compares with songs without conditions, which only such a training shows.
    """

    caption_tokenizer: str = "google/flan-t5-large"
    """Folder (next to the model's file) or hub id of the caption tokenizer."""

    sampling_rate: int = 16000
    """Sample rate of the codec's audio, in Hz."""

    def __post_init__(self) -> None:
        """Check that the layout exists, that the vocal heads have a track to predict, and how lyrics are read."""
        task_of_layout(self.track_pattern)
        if self.prompt_cross_attention and not self.add_prenet:
            raise ValueError(
                "add_prenet false (lyrics without their encoder) needs prompt_cross_attention false; published models "
                "set add_prenet to true"
            )
        if self.add_vocal_loss and self.track_pattern != "mixed_pro":
            raise ValueError(
                f"add_vocal_loss needs track_pattern 'mixed_pro', not {self.track_pattern!r}: set it to false"
            )

    @property
    def layout(self) -> TokenLayout:
        """The token layout."""
        return get_layout(self.track_pattern, self.decoder.num_codebooks)

    @property
    def task(self) -> Task:
        """The task that the layout serves."""
        return task_of_layout(self.track_pattern)

    @property
    def vocabulary(self) -> AudioVocabulary:
        """Ids of codes and special tokens."""
        return AudioVocabulary(self.decoder.vocab_size - NUM_RESERVED_IDS)

    def with_layout(self, track_pattern: str) -> SongGenConfig:
        """Return the same model in another layout; only mixed_pro has vocal heads."""
        return replace(self, track_pattern=track_pattern, add_vocal_loss=track_pattern == "mixed_pro")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of `config.json`."""
        return {"model_type": "songgen", "architectures": [architecture_of(self.task)], **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read our own or a published `config.json`.

        A published file keeps the layout and the vocal loss under `decoder`, calls the lyrics vocabulary `vocab_size`,
        and was trained with the EOS of the first track only. One with prepended lyrics is encoded like any other; our
        own of before `add_prenet` was a key has bare embeddings there.
        """
        require_sane_sizes(data, MODEL_CONFIG_FILE)
        try:
            return cls._from_dict(data)
        except (TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"{MODEL_CONFIG_FILE} has values of a wrong form ({error})") from error

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Self:
        if data.get("model_type") != "songgen":
            raise ValueError(f"config.json has model_type {data.get('model_type')!r}, expected 'songgen'")
        values = _known(cls, data)
        decoder = dict(data.get("decoder", {}))
        is_published = "track_pattern" in decoder
        if is_published and data.get("add_prenet") is False:
            raise ValueError("add_prenet false (no lyrics encoder) is not supported; published models set it to true")
        values.setdefault("add_prenet", is_published or data.get("prompt_cross_attention", True))
        values["decoder"] = DecoderConfig(**_known(DecoderConfig, decoder))
        values["lyrics_encoder"] = LyricsEncoderConfig(**_known(LyricsEncoderConfig, data.get("lyrics_encoder", {})))
        if is_published:
            values |= {
                "track_pattern": decoder["track_pattern"],
                "add_vocal_loss": decoder.get("add_vocal_loss", False),
                "lyrics_vocab_size": data["vocab_size"],
                "train_every_eos": False,
            }
        return cls(**values)

    def save(self, folder: Path) -> None:
        """Write `config.json` into a folder."""
        (folder / MODEL_CONFIG_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


def architecture_of(task: Task) -> str:
    """Return the published class name of a task's model."""
    return {
        "mixed": "SongGenMixedForConditionalGeneration",
        "dual_track": "SongGenDualTrackForConditionalGeneration",
    }[task.name]
