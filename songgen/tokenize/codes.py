"""Encoders of models of tokens: a codec with codebooks, a caption tokenizer and a lyrics tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from songgen.data.schema import CODES
from songgen.families.encoding import MusicFacts, TargetEncoder, TextEncoder, TextTokens
from songgen.lyrics import language_code

if TYPE_CHECKING:
    from songgen.codecs import AudioCodec
    from songgen.lyrics import VoiceBpeTokenizer


class CodecTargets(TargetEncoder):
    """Codes of a codec, of mono audio."""

    name = "codec"
    target_kind = CODES

    def __init__(self, codec: AudioCodec, spec: dict[str, Any]) -> None:
        """Use an open codec; `spec` opens it again.

        Raises:
            ValueError: if its codes cannot be stored.
        """
        if codec.codebook_size > 1 << 15:
            raise ValueError(
                f"a codebook of {codec.codebook_size} codes does not fit the 16 bits that codes are stored in"
            )
        self.codec = codec
        self.spec = spec
        self.fingerprint = codec.fingerprint
        self.sample_rate, self.hop_length = codec.sample_rate, codec.hop_length
        self.num_codebooks, self.codebook_size = codec.num_codebooks, codec.codebook_size

    def encode(self, ids: Sequence[str], clips: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the codes of each clip: K x T int16."""
        codec = self.codec
        # B x 1 x samples, padded with zeros to the longest clip of the batch; the codec masks by `lengths`.
        lengths = torch.tensor([len(clip) for clip in clips])
        waveforms = np.zeros((len(clips), 1, int(lengths.max())), dtype=np.float32)
        for row, clip in zip(waveforms, clips, strict=True):
            row[0, : len(clip)] = clip
        with torch.inference_mode():
            codes, frames = codec.encode(torch.from_numpy(waveforms).to(codec.device), lengths.to(codec.device))
        codes = codes.cpu()
        assert codes.shape[:2] == (len(clips), codec.num_codebooks), "the codec returns codes B x K x T"
        assert 0 <= int(codes.min()) and int(codes.max()) < codec.codebook_size, "codes outside of the codebook"
        return [row[:, : int(count)].to(torch.int16).numpy() for row, count in zip(codes, frames.tolist(), strict=True)]

    def save(self, folder: Path) -> None:
        """Write a copy of the codec."""
        self.codec.save(folder)


class TokenTexts(TextEncoder):
    """Ids of a caption tokenizer and of a lyrics tokenizer, which knows some languages."""

    def __init__(self, lyrics: VoiceBpeTokenizer, caption: Any, caption_fingerprint: str) -> None:
        """Use open tokenizers; that of captions is one of `transformers`."""
        self.lyrics_tokenizer = lyrics
        self.caption_tokenizer = caption
        self.caption_fingerprint = caption_fingerprint
        self.lyrics_fingerprint = lyrics.fingerprint
        self.unknown_lyrics_id = lyrics.unknown_token_id

    def language(self, stated: str) -> str:
        """Return the two-letter code."""
        return language_code(stated)

    def caption(self, text: str, facts: MusicFacts, seconds: float) -> TextTokens:
        """Encode the caption alone."""
        ids = list(self.caption_tokenizer(text).input_ids)
        return TextTokens(ids, len(ids))

    def lyrics(self, text: str, language: str) -> TextTokens:
        """Encode lyrics, with start and stop."""
        ids = self.lyrics_tokenizer.encode_lyrics(text, language)
        return TextTokens(ids, len(ids))
