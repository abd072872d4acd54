"""Micro-batches of latents: noise, timesteps and timbre references, all functions of the seeds of the samples.

Shapes: B clips, T frames, C channels, L caption tokens, Y lyrics tokens, U different timbre references, R frames of
one, S strata of the distribution of timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from songgen.data.collate import pad_ids
from songgen.data.samples import Sample
from songgen.families.flow.training.timesteps import Timesteps, band_of
from songgen.tasks import MIX

REFERENCE_PIECES = 3
"""Number of pieces of a song that are its timbre reference: from its beginning, middle and end."""


@dataclass(frozen=True)
class FlowBatch:
    """Micro-batch of latents."""

    ids: list[str]
    """Names of the clips; empty for an empty micro-batch."""
    latents: Tensor
    """B x T x C float32; zero after a clip's frames."""
    noise: Tensor
    """B x T x C float32; zero after a clip's frames."""
    timesteps: Tensor
    """B float32, times from 0 (data) to 1 (noise)."""
    bands: Tensor
    """B int64, number of the band of each timestep."""
    strata: Tensor
    """B x S float32, times at which a clip is evaluated, ascending."""
    frames: Tensor
    """B int64, number of frames of each clip; 0 for the placeholder in an empty micro-batch."""
    caption_ids: Tensor
    """B x L int64, token ids of the captions."""
    caption_mask: Tensor
    """B x L bool, whether a token belongs to the caption."""
    lyrics_ids: Tensor
    """B x Y int64, token ids of the lyrics."""
    lyrics_mask: Tensor
    """B x Y bool, whether a token belongs to the lyrics."""
    references: Tensor
    """U x R x C float32, latents of the timbre references; the first one is silence."""
    reference_of: Tensor
    """B int64, number of each clip's timbre reference."""
    is_unconditional: Tensor
    """B bool, whether all conditions were dropped."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the batch on a device. Ids stay on the CPU, where features of texts are looked up."""
        kept = ("caption_ids", "lyrics_ids")
        return self._map(lambda name, entry: entry if name in kept else entry.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: Any = None) -> Self:
        """Return the batch in page-locked memory, for asynchronous copies to a GPU; the loader calls this."""
        return self._map(lambda name, entry: entry.pin_memory())

    def _map(self, change: Any) -> Self:
        """Apply a function of name and tensor to every tensor."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: change(name, it) for name, it in named.items() if isinstance(it, Tensor)})


@dataclass(frozen=True)
class FlowCollator:
    """Collates samples of latents. What it makes of a sample depends on nothing else: not on the rest of the batch."""

    timesteps: Timesteps
    """Distribution of the timesteps."""
    silence: Tensor
    """R x C, timbre reference of songs without one."""
    reference_probability: float
    """Probability that parts of the clip itself are its timbre reference."""

    def __call__(self, samples: Sequence[Sample]) -> FlowBatch:
        """Pad samples to one batch of at least one frame."""
        assert samples
        channels, longest = self.silence.shape[1], max(1, *(sample.num_frames for sample in samples))
        latents = torch.zeros(len(samples), longest, channels)
        noise, quantiles = torch.zeros_like(latents), []
        references, reference_of = [self.silence], []
        for row, sample in enumerate(samples):
            # numpy's generators take all bits of a seed; torch's on the CPU only the lower half of them.
            generator = np.random.Generator(np.random.Philox(key=sample.random_seed))
            quantile, choice = generator.random(2)
            quantiles.append(quantile)
            shape = (sample.num_frames, channels)
            noise[row, : shape[0]] = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
            clip = torch.from_numpy(_float32(sample.targets[MIX])).T
            latents[row, : shape[0]] = clip
            has_own = choice < self.reference_probability and not sample.is_unconditional and len(clip) > 0
            reference_of.append(len(references) if has_own else 0)
            if has_own:
                references.append(timbre_pieces(clip, len(self.silence)))
        places = torch.tensor(quantiles, dtype=torch.float64)
        caption_ids, caption_mask = pad_ids([sample.caption_ids for sample in samples])
        lyrics_ids, lyrics_mask = pad_ids([sample.lyrics_ids for sample in samples])
        return FlowBatch(
            ids=[sample.id for sample in samples if sample.num_frames],
            latents=latents,
            noise=noise,
            timesteps=self.timesteps.at(places),
            bands=band_of(places),
            strata=self.timesteps.strata(places),
            frames=torch.tensor([sample.num_frames for sample in samples]),
            caption_ids=caption_ids,
            caption_mask=caption_mask.bool(),
            lyrics_ids=lyrics_ids,
            lyrics_mask=lyrics_mask.bool(),
            references=torch.stack(references),
            reference_of=torch.tensor(reference_of),
            is_unconditional=torch.tensor([sample.is_unconditional for sample in samples]),
        )


def timbre_pieces(latents: Tensor, frames: int) -> Tensor:
    """Return pieces from the beginning, the middle and the end of a clip (T x C), `frames` frames together.

    They are at the places at which diffusers' pipeline cuts the audio of a reference; a shorter clip is repeated first.
    """
    repeated = latents.repeat(-(-frames // len(latents)), 1)
    piece, total = frames // REFERENCE_PIECES, len(repeated)
    starts = (0, total // REFERENCE_PIECES, total - piece)
    joined = torch.cat([repeated[start : start + piece] for start in starts])
    # Only sizes that three does not divide lack a frame or two.
    return torch.cat([joined, repeated[: frames - len(joined)]])


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return a copy of stored latents, which are float16 or float32 and read-only."""
    return values.astype(np.float32)
