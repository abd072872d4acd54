"""Sound of a song that is still being generated, in pieces that join without a click.

Shapes: B songs, N tracks, K codebooks, T frames.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from songgen.generation.decoding import CodeChunk
from songgen.generation.song_audio import SongAudio, decode_songs
from songgen.layout import TokenLayout

if TYPE_CHECKING:
    from songgen.codecs import AudioCodec

DEFAULT_CHUNK_SECONDS = 1.0
"""Sound in one piece, except the first and the last."""

CONTEXT_FRAMES = 16
"""Frames decoded on both sides of a piece in addition: what a codec's convolutions see around a frame."""

FADE_FRAMES = 4
"""Frames over which one piece fades into the next, for codecs that look further than the context."""


class ChunkDecoder:
    """Turns a stream of codes into a stream of sound.

    A piece is decoded together with the frames around it, so it lags `CONTEXT_FRAMES` behind the codes. If the codec
    sees no further than that, the joined pieces equal the decoded song; for other codecs, each piece is cross-faded
    with the one before it. Only codes that have been sampled are used.
    """

    def __init__(
        self,
        codec: "AudioCodec",
        layout: TokenLayout,
        context_frames: int = CONTEXT_FRAMES,
        fade_frames: int = FADE_FRAMES,
    ) -> None:
        """Start a stream.

        Args:
            codec: decodes the codes.
            layout: names the tracks.
            context_frames: frames decoded on both sides of a piece in addition.
            fade_frames: frames of the cross-fade, `context_frames` at most.

        Raises:
            ValueError: if the fade is longer than the context.
        """
        if not 0 <= fade_frames <= context_frames:
            raise ValueError(f"fade_frames {fade_frames} must be between 0 and context_frames {context_frames}")
        self.codec = codec
        self.layout = layout
        self.context_frames = context_frames
        self.fade_frames = fade_frames
        self._codes: Tensor | None = None
        self._first_kept = 0
        self._frames: Tensor | None = None
        self._emitted = 0
        self._tail: Tensor | None = None

    def feed(self, chunk: CodeChunk) -> SongAudio | None:
        """Take the next frames and return the sound that is certain now, or None if there is none yet."""
        if self._codes is None or self._frames is None:
            self._codes, self._frames = chunk.codes, chunk.frames
        else:
            self._codes = torch.cat([self._codes, chunk.codes], dim=-1)
            self._frames = self._frames + chunk.frames
        available = self._first_kept + self._codes.shape[-1]
        end = available if chunk.is_last else available - self.context_frames
        if end <= self._emitted:
            return None
        audio = self._decode(self._codes, self._frames, self._emitted, end)
        self._emitted = end
        keep_from = max(self._first_kept, end - self.context_frames)
        self._codes = self._codes[..., keep_from - self._first_kept :]
        self._first_kept = keep_from
        return audio

    def _decode(self, codes: Tensor, frames: Tensor, start: int, end: int) -> SongAudio:
        """Decode all kept codes and cut the frames from `start` to `end` out of the sound."""
        window = codes.shape[-1]
        valid = (frames - self._first_kept).clamp(0, window).tolist()
        songs = [song[..., :length] for song, length in zip(codes, valid, strict=True)]
        decoded = decode_songs(self.codec, self.layout, songs)
        hop = self.codec.hop_length
        sound = torch.stack(list(decoded.tracks.values()), dim=1)
        # All songs may have ended inside the window.
        sound = torch.nn.functional.pad(sound, (0, window * hop - sound.shape[-1]))
        begin, stop = (start - self._first_kept) * hop, (end - self._first_kept) * hop
        piece = sound[..., begin:stop].clone()
        self._fade_in(piece)
        self._tail = sound[..., stop : stop + self.fade_frames * hop]
        first_sample, lengths = start * hop, (frames * hop).clamp_max(end * hop)
        return SongAudio(
            {name: piece[:, index] for index, name in enumerate(self.layout.tracks)},
            (lengths - first_sample).clamp_min(0),
            decoded.sampling_rate,
            [song[..., start - self._first_kept : end - self._first_kept] for song in songs],
        )

    def _fade_in(self, piece: Tensor) -> None:
        """Blend the beginning of a piece (B x N x samples) with the continuation of the piece before it."""
        if self._tail is None:
            return
        length = min(self._tail.shape[-1], piece.shape[-1])
        weight = torch.arange(1, length + 1, device=piece.device) / (length + 1)
        piece[..., :length] = torch.lerp(self._tail[..., :length], piece[..., :length], weight)


def frames_of_chunk(codec: "AudioCodec", chunk_seconds: float) -> int:
    """Return the whole frames of a chunk, at least one.

    Raises:
        ValueError: if `chunk_seconds` is not above 0.
    """
    if not chunk_seconds > 0:
        raise ValueError(f"chunk_seconds must be above 0, got {chunk_seconds!r}")
    return max(1, round(chunk_seconds * codec.frame_rate))


def stream_audio(codec: "AudioCodec", layout: TokenLayout, chunks: Iterator[CodeChunk]) -> Iterator[SongAudio]:
    """Turn chunks of codes into pieces of sound, as they come."""
    decoder = ChunkDecoder(codec, layout)
    for chunk in chunks:
        audio = decoder.feed(chunk)
        if audio is not None:
            yield audio
