"""The decoding loop: decoder steps in any token layout, until every song has ended.

Shapes: B songs, R sequences a song, N tracks, K codebooks, T frames, H heads, S decoder steps, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from songgen.generation.guidance import (
    concatenate_conditions,
    guided_logits,
    unconditional_conditions,
)
from songgen.generation.options import GenerationOptions
from songgen.generation.sampling import TokenSampler
from songgen.layout import TokenLayout

if TYPE_CHECKING:
    from songgen.models import Conditions, SongGenForConditionalGeneration

CHECK_EVERY_STEPS = 16
"""Steps between two waits for the device: has every song ended, and are the logits finite?"""

ProgressCallback = Callable[[int, int], None]
"""Called after each step with the steps done and the steps that the longest song allowed would take."""


@dataclass(frozen=True)
class CodeChunk:
    """Frames of which every codebook of every track has been sampled."""

    first_frame: int
    """Index of the chunk's first frame in the songs."""

    codes: Tensor
    """B*R x N x K x F; 0 past a song's end."""

    frames: Tensor
    """B*R int64 on the CPU: how many of the F frames belong to each song."""

    is_last: bool
    """Whether every song ends here."""


def generate_codes(
    model: "SongGenForConditionalGeneration",
    conditions: "Conditions",
    *,
    options: GenerationOptions,
    on_step: ProgressCallback | None = None,
) -> list[Tensor]:
    """Sample the codes of songs.

    A song depends only on its conditions and its seed, not on the others in the batch. Models that read the lyrics
    before the song are an exception: padding counts in the positions, as in training, and a song begins after the
    longest lyrics of the batch. Generated one at a time, such songs do not depend on each other either.

    A song ends on all heads when the first codebook of the first track samples the end; in the published code each head
    ends by itself.

    Args:
        model: gives the decoder, the layout and the vocabulary; put into eval mode meanwhile.
        conditions: conditions of B songs (`model.encode_conditions`).
        options: how to sample.
        on_step: called with the progress.

    Returns:
        B * R tensors (N x K x T int64, T >= 1), one a sequence, song by song; the tracks of a song have the same T.

    Raises:
        ValueError: if the length limit leaves no room for a frame, seeds and songs differ in number, or the model
            computes logits that are not finite.
    """
    return _songs_of(list(stream_codes(model, conditions, options=options, on_step=on_step)))


def stream_codes(
    model: "SongGenForConditionalGeneration",
    conditions: "Conditions",
    *,
    options: GenerationOptions,
    chunk_frames: int | None = None,
    on_step: ProgressCallback | None = None,
) -> Iterator[CodeChunk]:
    """Sample codes as `generate_codes` does, and yield every `chunk_frames` frames (None: all at the end).

    Raises:
        ValueError: as `generate_codes`.
    """
    with evaluating(model):
        loop = _DecodingLoop(model, conditions, options)
        yield from loop.run(chunk_frames or loop.max_frames, on_step)


def _songs_of(chunks: list[CodeChunk]) -> list[Tensor]:
    """Join the chunks of a batch and cut each song to its length."""
    codes = torch.cat([chunk.codes for chunk in chunks], dim=-1)
    lengths = torch.stack([chunk.frames for chunk in chunks]).sum(dim=0).tolist()
    return [song[..., :length].clone() for song, length in zip(codes, lengths, strict=True)]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off and restore the mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _DecodingLoop:
    """State of one batch of songs that is being sampled."""

    def __init__(
        self, model: "SongGenForConditionalGeneration", conditions: "Conditions", options: GenerationOptions
    ) -> None:
        """Compute what all steps share: the cache, the slots, one random generator a sequence."""
        self.layout: TokenLayout = model.layout
        self.vocabulary = model.vocabulary
        self.decoder = model.decoder
        self.options = options
        seeds = options.sequence_seeds(len(conditions.memory))
        self.num_sequences = len(seeds)
        self.max_frames = _max_frames(model, options)
        self.num_steps = self._steps_for(self.max_frames)
        self.device = conditions.memory.device
        self.guided = options.guidance_scale != 1
        with torch.no_grad():
            self.cache = self.decoder.new_cache(self._rows(model, conditions), self.num_steps)
        self.sampler = TokenSampler(options, self.vocabulary.codebook_size, self.layout.num_heads, seeds, self.device)
        self.frame_of_step = self.layout.stream_table(self.num_steps, self.device)[1]
        shape = (self.num_sequences, self.layout.num_heads, self.num_steps)
        self.tokens = torch.full(shape, self.vocabulary.bos_token_id, device=self.device)
        # Songs end here if they have not ended by themselves; only `max_frames` of their frames are returned.
        last_frame = max(self.max_frames, options.forced_end(self.layout) or 0)
        self.lengths = torch.full((self.num_sequences,), last_frame, device=self.device)
        self.finite = torch.ones((), dtype=torch.bool, device=self.device)
        first = self.layout.first_track
        self.leading_head = self.layout.heads[first][0]
        self.leading_offset = self.layout.offsets[first][0]
        self.is_leading_head = torch.arange(self.layout.num_heads, device=self.device) == self.leading_head

    def _rows(self, model: "SongGenForConditionalGeneration", conditions: "Conditions") -> "Conditions":
        """Return the conditions of every sequence, followed, for guidance, by as many empty ones."""
        sequences = torch.arange(len(conditions.memory), device=self.device)
        sequences = sequences.repeat_interleave(self.options.num_return_sequences)
        if not self.guided:
            return conditions.select(sequences)
        nothing = torch.full_like(sequences, len(conditions.memory))
        # A prefix of lyrics on only one of the two would shift their positions against each other.
        with_lyrics = model.config.prompt_cross_attention or conditions.prefix is not None
        both = concatenate_conditions(conditions, unconditional_conditions(model, with_lyrics=with_lyrics))
        return both.select(torch.cat([sequences, nothing]))

    def _steps_for(self, frames: int) -> int:
        """Return the steps until the last stream has sampled its last frame."""
        return self.layout.num_steps(frames) - self.layout.stride

    @torch.no_grad()
    def run(self, chunk_frames: int, on_step: ProgressCallback | None) -> Iterator[CodeChunk]:
        """Take all steps and yield frames as they are complete."""
        emitted = 0
        step = 0
        needed_steps = self.num_steps
        column = self.tokens.new_full((self.num_sequences, self.layout.num_heads, 1), self.vocabulary.bos_token_id)
        while step < needed_steps:
            column = self._step(step, column)
            step += 1
            complete = self._complete_frames(step)
            chunk_due = complete - emitted >= chunk_frames
            if chunk_due or step % CHECK_EVERY_STEPS == 0:
                needed_steps = self._steps_for(self._longest())
                self._check_finite()
            if on_step is not None:
                on_step(step, needed_steps)
            if chunk_due and step < needed_steps:
                yield self._chunk(emitted, complete, is_last=False)
                emitted = complete
        self._check_finite()
        yield self._chunk(emitted, self._longest(), is_last=True)

    def _longest(self) -> int:
        """Return the frames of the longest song, as far as it is known; waits for the device."""
        return min(int(self.lengths.max()), self.max_frames)

    def _step(self, step: int, column: Tensor) -> Tensor:
        """Feed one column (B*R x H x 1), sample the next one and record the songs that end."""
        if self.guided:
            conditional, unconditional = self.decoder.step(column.repeat(2, 1, 1), self.cache).chunk(2)
            logits = guided_logits(conditional, unconditional, self.options.guidance_scale)
        else:
            logits = self.decoder.step(column, self.cache)
        self.finite &= logits[..., : self.vocabulary.codebook_size + 1].isfinite().all()
        leading_frame = self._leading_frame(step)
        sampled = self.sampler(logits, self.is_leading_head if leading_frame is not None else None)
        if leading_frame is not None:
            ends = sampled[:, self.leading_head] == self.vocabulary.eos_token_id
            self.lengths = torch.where(ends, self.lengths.clamp_max(leading_frame), self.lengths)
        # Streams past their song's end repeat the end token; those that have not begun yet repeat the start token.
        frame = self.frame_of_step[:, step]
        tokens = torch.where(frame >= self.lengths[:, None], self.vocabulary.eos_token_id, sampled)
        tokens = torch.where(frame < 0, self.vocabulary.bos_token_id, tokens)
        self.tokens[:, :, step] = tokens
        return tokens[:, :, None]

    def _leading_frame(self, step: int) -> int | None:
        """Return the frame before which songs may end at this step, or None if they may not end here.

        Only the first codebook of the track that comes first decides, never before the first frame.
        """
        distance = step - self.leading_offset
        may_end = step >= self.options.first_ending_step(self.layout) and distance % self.layout.stride == 0
        frame = distance // self.layout.stride
        return frame if may_end and frame >= 1 else None

    def _complete_frames(self, step: int) -> int:
        """Return how many frames have all codebooks of all tracks after `step` steps."""
        return max(0, (step - 1 - self.layout.max_offset) // self.layout.stride + 1)

    def _chunk(self, first: int, end: int, *, is_last: bool) -> CodeChunk:
        """Return the frames from `first` to `end` of the sampled tokens."""
        window = self.tokens[:, :, self.layout.stride * first :]
        codes = self.layout.revert(window, end - first)
        frames = (self.lengths - first).clamp(0, end - first)
        valid = torch.arange(end - first, device=self.device) < frames[:, None]
        return CodeChunk(first, torch.where(valid[:, None, None], codes, 0), frames.cpu(), is_last)

    def _check_finite(self) -> None:
        """Stop if the logits are not finite."""
        if not bool(self.finite):
            raise ValueError(
                "the model's logits are not finite (NaN or infinity); float16 may overflow where bfloat16 and float32 "
                "do not, and weights of a diverged training cannot be used: try another dtype or an earlier checkpoint"
            )


def _max_frames(model: "SongGenForConditionalGeneration", options: GenerationOptions) -> int:
    """Return the length limit in frames; only a limit in seconds needs the codec's frame rate."""
    if options.max_frames is not None or options.max_length is not None:
        return options.num_frames(model.layout, frame_rate=1.0)
    return options.num_frames(model.layout, model.audio_codec.frame_rate)
