"""Codes of songs as sound: one waveform a track, their sum, and their lengths.

Shapes: B songs, N tracks, K codebooks, T frames.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from songgen.layout import TokenLayout

if TYPE_CHECKING:
    from songgen.codecs import AudioCodec


class DualTrackAudio(NamedTuple):
    """Output of a dual-track model: two waveforms of the same length, whose sum is the mix."""

    acc: Tensor
    """Accompaniment: songs x samples, or just samples for a single song."""

    vocal: Tensor
    """Vocal, of the same shape."""


@dataclass(frozen=True)
class SongAudio:
    """Sound of a batch of songs, or of a piece of each of them while streaming."""

    tracks: dict[str, Tensor]
    """Track name -> B x samples float32, silence past a song's end."""

    lengths: Tensor
    """B int64 on the CPU: samples that belong to each song."""

    sampling_rate: int
    """Samples a second."""

    codes: list[Tensor]
    """B tensors N x K x T: the codes that were decoded."""

    @property
    def mix(self) -> Tensor:
        """B x samples: the sum of the tracks (a mixed model's only track)."""
        return torch.stack(list(self.tracks.values())).sum(dim=0)

    def published(self) -> Tensor | DualTrackAudio:
        """Return the audio in the shape that users of the published model expect.

        Mixed: B x samples. Dual-track: a pair, accompaniment then vocal, each B x samples, or 1-D for a single song.
        """
        if len(self.tracks) == 1:
            return next(iter(self.tracks.values()))
        acc, vocal = self.tracks["acc"], self.tracks["vocal"]
        return DualTrackAudio(acc[0], vocal[0]) if len(acc) == 1 else DualTrackAudio(acc, vocal)


def decode_songs(codec: "AudioCodec", layout: TokenLayout, codes: list[Tensor]) -> SongAudio:
    """Decode songs of any lengths; what a song sounds like does not depend on the others.

    Args:
        codec: turns codes into sound.
        layout: names the tracks.
        codes: B tensors N x K x T; a T of 0 is silence of no length.
    """
    num_tracks = len(layout.tracks)
    frames = torch.tensor([song.shape[-1] for song in codes], dtype=torch.long)
    # B x T x N x K while padding, which works on the first dimension, then one row for each track.
    padded = pad_sequence([song.permute(2, 0, 1) for song in codes], batch_first=True).permute(0, 2, 3, 1)
    sound = codec.decode(padded.flatten(0, 1), frames.repeat_interleave(num_tracks))
    sound = sound.squeeze(1).unflatten(0, (len(codes), num_tracks))
    tracks = {name: sound[:, track] for track, name in enumerate(layout.tracks)}
    return SongAudio(tracks, frames * codec.hop_length, codec.sample_rate, codes)
