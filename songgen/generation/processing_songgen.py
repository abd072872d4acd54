"""From caption, lyrics and a reference voice to the model's inputs.

Shapes: B songs, L text length.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from songgen.conditioning import load_caption_tokenizer, read_voice_sample_rate
from songgen.generation.reference_voice import read_reference_voice
from songgen.generation.separation import VocalSeparator, load_separator
from songgen.lyrics import VoiceBpeTokenizer
from songgen.models.folder import read_config
from songgen.runtime.model_folders import resolve_folder

PUBLISHED_CAPTION_TOKENIZER = "google/flan-t5-large"
"""Caption tokenizer of models whose folder does not name one."""

DEFAULT_LANGUAGE = "en"

_NEEDED_FILES = ("*.json", "caption_tokenizer/*", "voice_encoder/*.json")
"""What the processor reads of a hub repository."""

Texts = str | Sequence[str] | None
Voices = str | Path | Sequence[str | Path | None] | None

logger = logging.getLogger(__name__)


class SongGenProcessor:
    """Makes the inputs of `model.generate`.

    Works with a model folder of this package and with published ones; the latter bring no lyrics vocabulary, which is
    then given as `lyrics_vocab`.
    """

    def __init__(
        self,
        path: str | Path,
        device: torch.device | str = "cpu",
        *,
        revision: str | None = None,
        lyrics_vocab: str | Path | None = None,
        caption_tokenizer: str | Path | None = None,
        separator: VocalSeparator | None = None,
    ) -> None:
        """Open the tokenizers.

        Args:
            path: model folder or hub id.
            device: device of the inputs.
            revision: branch, tag or commit of a hub repository.
            lyrics_vocab: lyrics vocabulary (a `tokenizers` JSON file), where the folder holds none.
            caption_tokenizer: folder or hub id to use instead of the model's.
            separator: removes the accompaniment of voices; None loads Demucs when it is first needed.

        Raises:
            ValueError: if a part is found neither in the folder nor on the hub, or has changed since it was written.
        """
        folder = resolve_folder(path, revision=revision, patterns=_NEEDED_FILES)
        config = read_config(folder)
        self.device = torch.device(device)
        self.lyrics_tokenizer = _open_lyrics_tokenizer(folder, lyrics_vocab)
        self.caption_tokenizer = load_caption_tokenizer(caption_tokenizer or _caption_tokenizer_of(folder, config))
        self._folder = folder
        self._voice_encoder_spec: dict[str, Any] = config.get("voice_encoder") or {}
        self._separator = separator

    @cached_property
    def voice_sample_rate(self) -> int:
        """Rate in Hz at which the model's voice encoder listens.

        Read when a voice is first given: for an encoder on a hub, its configuration may have to be downloaded.

        Raises:
            ValueError: if the voice encoder's configuration cannot be found.
        """
        return read_voice_sample_rate(self._voice_encoder_spec, base_folder=self._folder)

    def __call__(
        self,
        text: Texts = None,
        lyrics: Texts = None,
        ref_voice_path: Voices = None,
        start: float = 0,
        separate: bool = False,
        language: str | Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Prepare one song or a batch.

        Args:
            text: caption: genre, mood, instruments, singer; None or empty for a song without one.
            lyrics: text to sing, with section tags such as [verse] where the vocabulary has them; None or empty for an
                instrumental. A list of captions, lyrics, voices or languages makes a batch, in which single values hold
                for every song.
            ref_voice_path: audio file of the voice to imitate; None for any voice.
            start: seconds into that file at which the 3 s that are used begin.
            separate: take the accompaniment out of the reference voice first.
            language: of the lyrics, "en" by default.

        Returns:
            The keywords of `model.generate`, on the processor's device: `input_ids`, `attention_mask`,
            `prompt_input_ids`, `prompt_attention_mask` (B x L int64), `ref_voice_values` (B x samples float32, no
            samples if no song has a voice) and `ref_voice_lengths` (B int64, 0 for none).

        Raises:
            ValueError: if there is neither a caption nor lyrics, if lists differ in length, or if a file or language
                cannot be used.
        """
        if text is None and lyrics is None:
            raise ValueError("give a caption (text), lyrics, or both")
        columns: dict[str, Any] = {
            "text": text,
            "lyrics": lyrics,
            "ref_voice_path": ref_voice_path,
            "language": DEFAULT_LANGUAGE if language is None else language,
        }
        batch = _batch_size(columns)
        rows = {name: _column(value, batch) for name, value in columns.items()}
        input_ids, attention_mask = _pad([self._caption_ids(caption) for caption in rows["text"]])
        prompt_input_ids, prompt_attention_mask = _pad(
            [self._lyrics_ids(song, code) for song, code in zip(rows["lyrics"], rows["language"], strict=True)]
        )
        voices = [self._voice(path, start, separate=separate) for path in rows["ref_voice_path"]]
        values = np.zeros((batch, max(len(voice) for voice in voices)), dtype=np.float32)
        for row, voice in zip(values, voices, strict=True):
            row[: len(voice)] = voice
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "prompt_input_ids": prompt_input_ids,
            "prompt_attention_mask": prompt_attention_mask,
            "ref_voice_values": torch.from_numpy(values),
            "ref_voice_lengths": torch.tensor([len(voice) for voice in voices]),
        }
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _caption_ids(self, caption: str | None) -> list[int]:
        """Return the ids of a caption; an empty one is just the end token, as in training."""
        return list(self.caption_tokenizer((caption or "").strip()).input_ids)

    def _lyrics_ids(self, lyrics: str | None, language: str) -> list[int]:
        """Return the ids of lyrics and warn of pieces that the vocabulary lacks."""
        song = (lyrics or "").strip()
        if song and (unknown := self.lyrics_tokenizer.unknown_pieces(song, language)):
            logger.warning("not in the lyrics vocabulary, ignored: %s", ", ".join(sorted(set(unknown))))
        return self.lyrics_tokenizer.encode_lyrics(song, language)

    def _voice(self, path: str | Path | None, start: float, *, separate: bool) -> np.ndarray:
        """Return the samples of a reference voice; none for no voice."""
        if path is None:
            return np.zeros(0, dtype=np.float32)
        separator = None
        if separate:
            separator = self._separator = self._separator or load_separator(device=str(self.device))
        return read_reference_voice(path, sample_rate=self.voice_sample_rate, start=start, separator=separator)


def _open_lyrics_tokenizer(folder: Path, lyrics_vocab: str | Path | None) -> VoiceBpeTokenizer:
    """Open the vocabulary that was given, or the folder's."""
    if lyrics_vocab is not None:
        return VoiceBpeTokenizer.from_pretrained(lyrics_vocab)
    try:
        return VoiceBpeTokenizer.from_pretrained(folder)
    except ValueError as error:
        raise ValueError(
            f"{error}; put the lyrics vocabulary that the model was trained with into that folder, or pass "
            "SongGenProcessor(..., lyrics_vocab='vocab.json')"
        ) from error


def _caption_tokenizer_of(folder: Path, config: dict[str, Any]) -> str | Path:
    """Return the folder's own caption tokenizer, else the one that its configuration names, else the published."""
    named = config.get("caption_tokenizer")
    for candidate in (named, "caption_tokenizer"):
        if candidate and (folder / candidate).is_dir():
            return folder / candidate
    return named or PUBLISHED_CAPTION_TOKENIZER


def _batch_size(columns: dict[str, Any]) -> int:
    """Return the length that all lists share; 1 without a list.

    Raises:
        ValueError: if lists differ in length or are empty.
    """
    lengths = {name: len(value) for name, value in columns.items() if _is_list(value)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"lists of a batch must have the same length, at least 1: {found}")
    return next(iter(lengths.values()), 1)


def _column(value: Any, batch: int) -> list[Any]:
    """Return one value for each song."""
    return list(value) if _is_list(value) else [value] * batch


def _is_list(value: Any) -> bool:
    """Tell whether a value holds one entry for each song."""
    return value is not None and not isinstance(value, str | Path)


def _pad(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Stack ids: (ids, mask), each B x L int64; padding is 0 and masked."""
    ids = torch.zeros(len(sequences), max(len(sequence) for sequence in sequences), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, row_mask, sequence in zip(ids, mask, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        row_mask[: len(sequence)] = 1
    return ids, mask
