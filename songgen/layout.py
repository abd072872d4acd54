"""Token layouts: the head and the decoder step of each codebook of each track.

Codebook `k` of track `n` has frame `t` on head `heads[n][k]` at step `stride * t + offsets[n][k]`. One object arranges
labels, marks the positions that are targets, says which frame of which stream each head generates at a step, and reads
codes back from labels. Training, evaluation and generation share it.

Example: two codebooks and clips of three frames; `a0` is frame 0 of the accompaniment in codebook 0, `b0` in codebook
1, `v` and `w` the same of the vocal, `<` BOS, `>` EOS. Rows are the labels of a head; its inputs are BOS and then the
labels of the step before.

    interleaving_A_V: stride 2, offsets ((0, 2), (1, 3)), heads ((0, 1), (0, 1)): the tracks share both heads

        step      0   1   2   3   4   5   6   7   8   9
        head 0    a0  v0  a1  v1  a2  v2  >   >   >   >
        head 1    <   <   b0  w0  b1  w1  b2  w2  >   >

    parallel_A_V: stride 1, offsets ((0, 1), (1, 2)), heads ((0, 1), (2, 3)): the vocal waits one step

        step      0   1   2   3   4   5
        head 0    a0  a1  a2  >   >   >
        head 1    <   b0  b1  b2  >   >
        head 2    <   v0  v1  v2  >   >
        head 3    <   <   w0  w1  w2  >

Every codebook waits one frame for the one before it (the delay pattern of MusicGen, https://arxiv.org/abs/2306.05284).

Shapes: B batch, N tracks, K codebooks, T frames, H heads, S decoder steps. A stream is one codebook of one track; its
number is `track * K + codebook`.
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
    """Return a small table of indices on a device, cached because a copy to a GPU makes the host wait."""
    with torch.inference_mode(False):  # the first caller may be generation, and training may need gradients later
        return torch.tensor(values, device=device)


@dataclass(frozen=True)
class TokenLayout:
    """An affine arrangement of all tracks and codebooks, validated on construction.

    Raises:
        ValueError: if two streams share a head and step, or if a head has steps without a stream.
    """

    name: str
    """Published name (`track_pattern`)."""

    tracks: tuple[str, ...]
    """Names of the N tracks."""

    num_codebooks: int
    """K, the number of codebooks of each track."""

    stride: int
    """Decoder steps between two frames of a stream."""

    offsets: tuple[tuple[int, ...], ...]
    """N x K: step of the first frame of each stream."""

    heads: tuple[tuple[int, ...], ...]
    """N x K: head of each stream."""

    def __post_init__(self) -> None:
        """Validate shapes and offsets, and that each head has exactly one stream at every step."""
        expected_shape = [self.num_codebooks] * len(self.tracks)
        for field in ("offsets", "heads"):
            rows = getattr(self, field)
            if [len(row) for row in rows] != expected_shape:
                raise ValueError(
                    f"layout {self.name!r}: {field} must be {len(self.tracks)} tracks x {self.num_codebooks} codebooks"
                )
        if self.stride < 1 or min(min(row) for row in self.offsets) < 0:
            raise ValueError(f"layout {self.name!r}: stride must be at least 1 and no offset negative")
        # A stream occupies the steps congruent to its offset modulo the stride. So a head is filled exactly once at
        # every step if the residues of its streams are 0 .. stride - 1, each one once.
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
        """All (track, codebook) pairs, in the order of stream numbers."""
        return [(track, codebook) for track in range(len(self.tracks)) for codebook in range(self.num_codebooks)]

    @cached_property
    def num_heads(self) -> int:
        """H, the number of output heads (and input embeddings) of the decoder."""
        return max(max(row) for row in self.heads) + 1

    @cached_property
    def max_offset(self) -> int:
        """Steps from the first frame of the first stream to that of the last."""
        return max(max(row) for row in self.offsets)

    @cached_property
    def head_codebook(self) -> tuple[int, ...]:
        """Codebook of each head."""
        return tuple(
            next(codebook for track, codebook in self._streams if self.heads[track][codebook] == head)
            for head in range(self.num_heads)
        )

    @cached_property
    def first_track(self) -> int:
        """Track whose first codebook starts first; its EOS decides the length of all tracks."""
        return min(range(len(self.tracks)), key=lambda track: self.offsets[track][0])

    @cached_property
    def _owner(self) -> tuple[tuple[int, ...], ...]:
        """H x stride: stream at the steps of each residue modulo the stride."""
        owner = [[IGNORE_INDEX] * self.stride for _ in range(self.num_heads)]
        for track, codebook in self._streams:
            residue = self.offsets[track][codebook] % self.stride
            owner[self.heads[track][codebook]][residue] = track * self.num_codebooks + codebook
        return tuple(map(tuple, owner))

    @cached_property
    def _starts(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each residue and head: the stream at these steps, and its frame at the first of them (0 or negative)."""
        stream, frame = self.stream_table(self.stride)
        pairs = torch.stack([stream, frame], dim=-1).transpose(0, 1).tolist()
        return tuple(tuple((owner, first) for owner, first in heads) for heads in pairs)

    def num_steps(self, frames: int) -> int:
        """Return the steps of a clip's block: all frames of all streams, and one EOS after the last of them."""
        return self.stride * frames + self.max_offset + 1

    def stream_table(self, num_steps: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return stream and frame at each position, both H x S; a frame is negative before the stream begins."""
        steps = torch.arange(num_steps, device=device)
        # Solve step = stride * frame + offset for the frame; floor division keeps it negative before the stream.
        stream = index_table(self._owner, steps.device)[:, steps % self.stride]
        offset = index_table(self.offsets, steps.device).flatten()[stream]
        frame = torch.div(steps - offset, self.stride, rounding_mode="floor")
        return stream, frame

    def labels(self, codes: Tensor, frames: Tensor, vocabulary: AudioVocabulary) -> Tensor:
        """Arrange codes as labels.

        Args:
            codes: B x N x K x T; values past a clip's frames are never read.
            frames: B, number of frames of each clip.
            vocabulary: Vocabulary with the ids of BOS and EOS.

        Returns:
            B x H x S int64: BOS before a stream's first frame, its codes, EOS up to the end of the clip's block, and
            `IGNORE_INDEX` after it. S is the number of steps of T frames.
        """
        batch, num_tracks, num_codebooks, max_frames = codes.shape
        assert (num_tracks, num_codebooks) == (len(self.tracks), self.num_codebooks), codes.shape
        num_steps, length = self.num_steps(max_frames), frames.to(codes.device)[:, None, None]
        # Border every stream with `waiting` BOS and EOS. In the first example above, waiting is 2 and T is 3:
        #     <  <  a0 a1 a2 >  >
        # Every head then takes one slice of each of its streams, written to every stride-th step. This is much faster
        # than gathering all H x S positions by `stream_table`.
        waiting = self.max_offset // self.stride + 1
        shape = (batch, num_tracks, num_codebooks, max_frames + 2 * waiting)
        bordered = torch.full(shape, vocabulary.eos_token_id, dtype=torch.long, device=codes.device)
        bordered[..., :waiting] = vocabulary.bos_token_id
        sung = torch.arange(max_frames, device=codes.device) < length[..., None]
        bordered[..., waiting : waiting + max_frames] = torch.where(sung, codes, vocabulary.eos_token_id)
        streams = bordered.flatten(1, 2).unbind(1)
        labels = bordered.new_empty((batch, self.num_heads, num_steps))
        for residue, starts in enumerate(self._starts):
            # Steps residue, residue + stride, ... of all heads: frames first, first + 1, ... of each head's stream.
            place = labels[..., residue :: self.stride]
            slices = [streams[stream].narrow(-1, waiting + frame, place.shape[-1]) for stream, frame in starts]
            place.copy_(torch.stack(slices, dim=1))
        block = self.stride * length + self.max_offset + 1
        return labels.masked_fill_(torch.arange(num_steps, device=codes.device) >= block, IGNORE_INDEX)

    def inputs(self, labels: Tensor, vocabulary: AudioVocabulary) -> Tensor:
        """Shift labels (B x H x S) right by one step: BOS in the first column, padding in place of `IGNORE_INDEX`."""
        shifted = labels.roll(1, dims=-1)
        shifted[..., 0] = vocabulary.bos_token_id
        return torch.where(shifted == IGNORE_INDEX, vocabulary.pad_token_id, shifted)

    def target_mask(self, frames: Tensor, num_steps: int, *, train_every_eos: bool = True) -> Tensor:
        """Return the positions that count in the loss: each stream's frames and the EOS right after them.

        Args:
            frames: B, number of frames of each clip; a clip of 0 frames has no targets.
            num_steps: S.
            train_every_eos: If False and tracks share a head, only the EOS of the track that ends first is a target,
                as in the published model.

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
        """N * K: 1 for a stream that begins, and therefore ends, before the others on its head."""
        begins = [(self.heads[track][codebook], self.offsets[track][codebook]) for track, codebook in self._streams]
        return tuple(int(offset == min(other for on, other in begins if on == head)) for head, offset in begins)

    def target_counts(self, frames: Tensor, *, train_every_eos: bool = True) -> Tensor:
        """Return the number of targets of each head in a batch (H, int64), from the numbers of frames (B)."""
        # Each head has `stride` streams, and each stream all frames of a clip plus one EOS.
        clips = (frames > 0).sum()
        ends = self.stride if train_every_eos else 1
        return (frames.sum() * self.stride + clips * ends).expand(self.num_heads).long()

    def revert(self, labels: Tensor, max_frames: int) -> Tensor:
        """Read codes back from labels, the inverse of `labels`.

        Args:
            labels: B x H x S.
            max_frames: T, frames to read; S must include all of their steps.

        Returns:
            B x N x K x T; past a clip's own frames these are EOS or `IGNORE_INDEX`.
        """
        time = torch.arange(max_frames, device=labels.device) * self.stride
        step = index_table(self.offsets, labels.device)[..., None] + time  # N x K x T
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
"""Published layouts: stride, offset of each track (mix, or acc and vocal), whether each track has its own heads."""

LAYOUT_NAMES = tuple(_PRESETS)


def get_layout(name: str, num_codebooks: int) -> TokenLayout:
    """Return a published layout for a number of codebooks; codebook k waits k frames (the delay pattern).

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
