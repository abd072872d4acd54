"""Encoders of a data set: what turns the audio of clips into targets, and their texts into ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


class TargetEncoder(ABC):
    """What turns audio into targets: a codec with codebooks, or a continuous autoencoder."""

    name: str
    """What it is called in messages."""
    target_kind: str
    """Kind of its targets: one of `songgen.data.schema.TARGET_KINDS`."""
    spec: dict[str, Any]
    """Spec that opens it again; stored with the data set."""
    fingerprint: str
    """Hash of its weights and of the settings that change targets."""
    sample_rate: int
    """Sample rate of the audio in Hz."""
    hop_length: int
    """Number of samples of a frame."""
    num_codebooks: int = 0
    """Number of codes of a frame; 0 for latents."""
    codebook_size: int = 0
    """Number of codes of a codebook; 0 for latents."""
    num_channels: int = 0
    """Number of values of a latent frame; 0 for codes."""
    audio_channels: int = 1
    """Number of channels of the audio: 1, or 2 for left and right."""
    tracks: tuple[str, ...] | None = None
    """Tracks that are encoded; None for all that the manifests name."""
    is_batched: bool = True
    """Whether clips are encoded together; otherwise one after the other, since each may be a whole song."""

    @abstractmethod
    def encode(self, ids: Sequence[str], clips: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Encode clips, each as it would be encoded alone.

        Args:
            ids: ids of the clips; what is random in encoding follows from them.
            clips: float32 samples, N each, or 2 x N for two channels.

        Returns:
            Targets of each clip in the type of their kind: K x T codes, or C x T latents.

        Raises:
            ValueError, RuntimeError: if it fails.
        """

    def save(self, folder: Path) -> None:
        """Write a copy into a data set, if its `spec` names one there."""
        raise NotImplementedError(f"{self.name} is not copied into data sets")


@dataclass(frozen=True)
class TextTokens:
    """Ids of a text."""

    ids: list[int]
    """Ids as they are stored."""
    length: int
    """Number of ids of the whole text; more than there are `ids` if it was truncated."""


@dataclass(frozen=True)
class MusicFacts:
    """What a row states about the music, as far as it can be used."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Name -> value, in the form that the encoder of texts takes."""
    left_out: tuple[str, ...] = ()
    """Names of facts that were stated and cannot be used."""


class TextEncoder(ABC):
    """What turns captions and lyrics into ids."""

    caption_fingerprint: str
    """Hash of what the tokenizer of captions does."""
    lyrics_fingerprint: str
    """Hash of what the tokenizer of lyrics does."""
    unknown_lyrics_id: int | None = None
    """Id of a piece of lyrics without a token; None if every text has tokens."""
    uses_seconds: bool = False
    """Whether the ids of a caption depend on the length of the clip."""
    form: str = ""
    """Form in which texts are put before they are tokenized; empty if ids depend on the tokenizers alone."""

    @abstractmethod
    def language(self, stated: str) -> str:
        """Return the code of a language as a row states it.

        Raises:
            ValueError: if lyrics in it cannot be encoded.
        """

    def facts(self, values: Mapping[str, Any]) -> MusicFacts:
        """Read what further columns of a row state about the music; nothing unless captions contain it."""
        return MusicFacts()

    @abstractmethod
    def caption(self, text: str, facts: MusicFacts, seconds: float) -> TextTokens:
        """Encode the description of a clip of some length."""

    @abstractmethod
    def lyrics(self, text: str, language: str) -> TextTokens:
        """Encode lyrics; an empty text is that of an instrumental.

        Raises:
            ValueError: if the language is not supported; its cause is an `ImportError` or `RuntimeError` if a package
                that the language needs is missing.
        """


@dataclass(frozen=True)
class Encoders:
    """Encoders of one run of tokenizing."""

    targets: TargetEncoder
    """Encoder of audio."""
    texts: TextEncoder
    """Encoder of captions and lyrics."""
    voice_sample_rate: int = 0
    """Sample rate of the reference voices to store in Hz; 0 for none."""
    code: tuple[str, ...] = ()
    """Source files of `songgen` that the results depend on, besides those that tokenizing always counts."""
