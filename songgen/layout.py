"""Where each codebook of each track stands among the decoder's heads and steps.

Codebook `k` of track `n` puts frame `t` on head `heads[n][k]` at step `stride * t + offsets[n][k]`. The one object
lays out labels, says which positions are targets, which frame of which stream each head fills at a step, and leads
back from laid-out tokens to codes; training, evaluation and generation share it.

Shapes: B batch, N tracks, K codebooks, T frames, H heads, S decoder steps.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from songgen.tasks import task_of_layout
from songgen.vocabulary import IGNORE_INDEX, AudioVocabulary

IndexTable = tuple[int, ...] | tuple[tuple[int, ...], ...]


@lru_cache
def index_table(values: IndexTable, device: torch.device) -> Tensor:
    """Return a small table of indices on a device: the same tensor each time, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):  # whoever asks first, gradients may need it later
        return torch.tensor(values, device=device)


@dataclass(frozen=True)
class TokenLayout:
    """An affine arrangement of all tracks and codebooks, checked when it is made.

    Raises:
        ValueError: if two streams would meet on one head and step, or if a head would have steps without a stream.
    """

    name: str
    """Published name (`track_pattern`)."""

    tracks: tuple[str, ...]
    """Names of the N tracks."""

    num_codebooks: int
    """K, codebooks of each track."""

    stride: int
    """Decoder steps between two frames of a stream."""

    offsets: tuple[tuple[int, ...], ...]
    """N x K: step of a stream's first frame."""

    heads: tuple[tuple[int, ...], ...]
    """N x K: head that carries the stream."""

    def __post_init__(self) -> None:
        """Check the table: shapes, non-negative offsets, exactly one stream for each head and step."""
        expected_shape = [self.num_codebooks] * len(self.tracks)
        for field in ("offsets", "heads"):
            rows = getattr(self, field)
            if [len(row) for row in rows] != expected_shape:
                raise ValueError(
                    f"layout {self.name!r}: {field} must be {len(self.tracks)} tracks x {self.num_codebooks} codebooks"
                )
        if self.stride < 1 or min(min(row) for row in self.offsets) < 0:
            raise ValueError(f"layout {self.name!r}: stride must be at least 1 and no offset negative")
        residues: list[list[int]] = [[] for _ in range(self.num_heads)]
        for track, codebook in self._streams:
            residues[self.heads[track][codebook]].append(self.offsets[track][codebook] % self.stride)
        for head, found in enumerate(residues):
            if sorted(found) != list(range(self.stride)):
                raise ValueError(
                    f"layout {self.name!r}: head {head} carries streams on steps {sorted(found)} modulo {self.stride}; "
                    f"each of {list(range(self.stride))} must be taken exactly once"
                )

    @property
    def _streams(self) -> list[tuple[int, int]]:
        """All (track, codebook) pairs, tracks first."""
        return [(track, codebook) for track in range(len(self.tracks)) for codebook in range(self.num_codebooks)]

    @cached_property
    def num_heads(self) -> int:
        """H, output heads (and input embeddings) of the decoder."""
        return max(max(row) for row in self.heads) + 1

    @cached_property
    def max_offset(self) -> int:
        """Steps by which the last stream trails the first."""
        return max(max(row) for row in self.offsets)

    @cached_property
    def head_codebook(self) -> tuple[int, ...]:
        """Codebook that each head carries."""
        return tuple(
            next(codebook for track, codebook in self._streams if self.heads[track][codebook] == head)
            for head in range(self.num_heads)
        )

    @cached_property
    def first_track(self) -> int:
        """Track whose first codebook comes earliest: its end decides the length of all tracks."""
        return min(range(len(self.tracks)), key=lambda track: self.offsets[track][0])

    @cached_property
    def _owner(self) -> tuple[tuple[int, ...], ...]:
        """H x stride: the stream (track * K + codebook) that holds steps of each residue."""
        owner = [[IGNORE_INDEX] * self.stride for _ in range(self.num_heads)]
        for track, codebook in self._streams:
            residue = self.offsets[track][codebook] % self.stride
            owner[self.heads[track][codebook]][residue] = track * self.num_codebooks + codebook
        return tuple(map(tuple, owner))

    @cached_property
    def _starts(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each residue and head: the stream that holds these steps, and its (never positive) first frame there."""
        stream, frame = self.stream_table(self.stride)
        pairs = torch.stack([stream, frame], dim=-1).transpose(0, 1).tolist()
        return tuple(tuple((owner, first) for owner, first in heads) for heads in pairs)

    def num_steps(self, frames: int) -> int:
        """Steps of a clip's block: all frames of all streams and one EOS behind the last of them."""
        return self.stride * frames + self.max_offset + 1

    def stream_table(self, num_steps: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return (stream, frame), each H x S: who stands where; a negative frame means "before the stream begins"."""
        steps = torch.arange(num_steps, device=device)
        stream = index_table(self._owner, steps.device)[:, steps % self.stride]
        offset = index_table(self.offsets, steps.device).flatten()[stream]
        frame = torch.div(steps - offset, self.stride, rounding_mode="floor")
        return stream, frame

    def labels(self, codes: Tensor, frames: Tensor, vocabulary: AudioVocabulary) -> Tensor:
        """Lay codes out.

        Args:
            codes: B x N x K x T; what stands past a clip's frames is never read.
            frames: B, frames of each clip.
            vocabulary: gives BOS and EOS.

        Returns:
            B x H x S int64: BOS before a stream's first frame, its codes, EOS to the end of the clip's block,
            `IGNORE_INDEX` after it. S is the block of the longest clip.
        """
        batch, num_tracks, num_codebooks, max_frames = codes.shape
        assert (num_tracks, num_codebooks) == (len(self.tracks), self.num_codebooks), codes.shape
        num_steps, length = self.num_steps(max_frames), frames.to(codes.device)[:, None, None]
        # Streams with BOS before and EOS behind them; a head is then one slice per stream, much cheaper than a gather.
        waiting = self.max_offset // self.stride + 1
        shape = (batch, num_tracks, num_codebooks, max_frames + 2 * waiting)
        bordered = torch.full(shape, vocabulary.eos_token_id, dtype=torch.long, device=codes.device)
        bordered[..., :waiting] = vocabulary.bos_token_id
        sung = torch.arange(max_frames, device=codes.device) < length[..., None]
        bordered[..., waiting : waiting + max_frames] = torch.where(sung, codes, vocabulary.eos_token_id)
        streams = bordered.flatten(1, 2).unbind(1)
        labels = bordered.new_empty((batch, self.num_heads, num_steps))
        for residue, starts in enumerate(self._starts):
            place = labels[..., residue :: self.stride]
            slices = [streams[stream].narrow(-1, waiting + frame, place.shape[-1]) for stream, frame in starts]
            place.copy_(torch.stack(slices, dim=1))
        block = self.stride * length + self.max_offset + 1
        return labels.masked_fill_(torch.arange(num_steps, device=codes.device) >= block, IGNORE_INDEX)

    def inputs(self, labels: Tensor, vocabulary: AudioVocabulary) -> Tensor:
        """Shift labels (B x H x S) right by one step: first column BOS, padding in place of `IGNORE_INDEX`."""
        shifted = labels.roll(1, dims=-1)
        shifted[..., 0] = vocabulary.bos_token_id
        return torch.where(shifted == IGNORE_INDEX, vocabulary.pad_token_id, shifted)

    def target_mask(self, frames: Tensor, num_steps: int, *, train_every_eos: bool = True) -> Tensor:
        """Return which positions count in the loss: each stream's frames and the EOS right behind them.

        Args:
            frames: B, frames of each clip; a clip of 0 frames has no target at all.
            num_steps: S.
            train_every_eos: False trains, where tracks share a head, only the EOS of the track that ends first,
                as the published model does.

        Returns:
            B x H x S bool.
        """
        stream, frame = self.stream_table(num_steps, frames.device)
        length = frames[:, None, None]
        mask = (frame >= 0) & (frame < length)
        ends_here = (frame == length) & (length > 0)
        if not train_every_eos:
            ends_here = ends_here & index_table(self._ends_first, frames.device)[stream].bool()
        return mask | ends_here

    @cached_property
    def _ends_first(self) -> tuple[int, ...]:
        """N*K, 1 where the stream begins, and so ends, before the others on its head."""
        begins = [(self.heads[track][codebook], self.offsets[track][codebook]) for track, codebook in self._streams]
        return tuple(int(offset == min(other for on, other in begins if on == head)) for head, offset in begins)

    def target_counts(self, frames: Tensor, *, train_every_eos: bool = True) -> Tensor:
        """Return the number of targets of each head over a batch (H, int64), from the lengths (B) alone."""
        clips = (frames > 0).sum()
        ends = self.stride if train_every_eos else 1
        return (frames.sum() * self.stride + clips * ends).expand(self.num_heads).long()

    def revert(self, labels: Tensor, max_frames: int) -> Tensor:
        """Read codes back from laid-out tokens.

        Args:
            labels: B x H x S.
            max_frames: T, frames to read; all of their steps must be there.

        Returns:
            B x N x K x T; past a clip's own frames stands whatever the layout holds there (EOS or `IGNORE_INDEX`).
        """
        time = torch.arange(max_frames, device=labels.device) * self.stride
        step = index_table(self.offsets, labels.device)[..., None] + time
        head = index_table(self.heads, labels.device)[..., None].expand_as(step)
        return labels[:, head, step]


_PRESETS: dict[str, tuple[int, tuple[int, ...], bool]] = {
    "mixed": (1, (0,), False),
    "mixed_pro": (1, (0,), False),
    "parallel_std": (1, (0, 0), True),
    "parallel_A_V": (1, (0, 1), True),
    "parallel_V_A": (1, (1, 0), True),
    "interleaving_A_V": (2, (0, 1), False),
    "interleaving_V_A": (2, (1, 0), False),
}
"""Published layouts: stride, offset of (acc, vocal), whether each track has heads of its own."""

LAYOUT_NAMES = tuple(_PRESETS)


def get_layout(name: str, num_codebooks: int) -> TokenLayout:
    """Return a published layout for a codec's number of codebooks: codebook k waits k frames (the delay pattern).

    Raises:
        ValueError: if the name is unknown.
    """
    tracks = task_of_layout(name).target_tracks
    stride, track_offsets, own_heads = _PRESETS[name]
    codebooks = range(num_codebooks)
    return TokenLayout(
        name=name,
        tracks=tracks,
        num_codebooks=num_codebooks,
        stride=stride,
        offsets=tuple(tuple(stride * k + track_offset for k in codebooks) for track_offset in track_offsets),
        heads=tuple(tuple(n * num_codebooks * own_heads + k for k in codebooks) for n in range(len(tracks))),
    )
