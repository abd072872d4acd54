"""Collation of samples of codes with different lengths into one batch of tensors.

Shapes: B batch, N target tracks, A auxiliary tracks, K codebooks, T frames, L text length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from songgen.data.samples import Sample
from songgen.vocabulary import IGNORE_INDEX

_INT16_SCALE = np.float32(1 / 32768)


@dataclass(frozen=True)
class Batch:
    """Micro-batch, with fields named like the model's keyword arguments."""

    ids: list[str]
    """Names of the clips; empty for an empty micro-batch."""
    codes: Tensor
    """B x N x K x T int64, codes; `IGNORE_INDEX` after a clip's frames."""
    frames: Tensor
    """B int64, number of frames of each clip."""
    auxiliary_codes: Tensor | None
    """B x A x K x T int64, codes of the auxiliary tracks; None without auxiliary tracks."""
    input_ids: Tensor
    """B x L int64, token ids of the captions."""
    attention_mask: Tensor
    """B x L int64, 1 for token ids of the captions and 0 for padding."""
    prompt_input_ids: Tensor
    """B x L int64, token ids of the lyrics."""
    prompt_attention_mask: Tensor
    """B x L int64, 1 for token ids of the lyrics and 0 for padding."""
    ref_voice_values: Tensor
    """B x samples float32 in -1..1, reference voices; zero after a voice's end."""
    ref_voice_lengths: Tensor
    """B int64, number of samples of each voice; 0 for none."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: Any = None) -> "Batch":
        """Return the batch in page-locked memory, for asynchronous copies to a GPU; the loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def model_inputs(self) -> dict[str, Tensor | None]:
        """Return the model's keyword arguments: all fields except the names of clips."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "ids"}

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to every tensor."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in self.model_inputs().items() if value is not None
        }
        return replace(self, **changed)


def collate(samples: Sequence[Sample], target_tracks: Sequence[str], auxiliary_tracks: Sequence[str] = ()) -> Batch:
    """Pad samples to one batch.

    Args:
        samples: at least one sample; each has the codes of all tracks.
        target_tracks: names of the N tracks, in the order of the layout.
        auxiliary_tracks: names of the A tracks of an auxiliary loss.
    """
    assert samples
    input_ids, attention_mask = pad_ids([sample.caption_ids for sample in samples])
    prompt_input_ids, prompt_attention_mask = pad_ids([sample.lyrics_ids for sample in samples])
    voice_lengths = [len(sample.voice) for sample in samples]
    voices = np.zeros((len(samples), max(voice_lengths)), dtype=np.float32)
    for voice, sample in zip(voices, samples, strict=True):
        voice[: len(sample.voice)] = voice_samples(sample.voice)
    return Batch(
        ids=[sample.id for sample in samples if sample.num_frames],
        codes=_pad_codes(samples, target_tracks),
        frames=torch.tensor([sample.num_frames for sample in samples]),
        auxiliary_codes=_pad_codes(samples, auxiliary_tracks) if auxiliary_tracks else None,
        input_ids=input_ids,
        attention_mask=attention_mask,
        prompt_input_ids=prompt_input_ids,
        prompt_attention_mask=prompt_attention_mask,
        ref_voice_values=torch.from_numpy(voices),
        ref_voice_lengths=torch.tensor(voice_lengths),
    )


def voice_samples(voice: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the samples of a stored voice in -1..1, as the voice encoder gets them."""
    return np.multiply(voice, _INT16_SCALE, dtype=np.float32)


def _pad_codes(samples: Sequence[Sample], tracks: Sequence[str]) -> Tensor:
    """Stack the codes of tracks to B x tracks x K x T, padded with `IGNORE_INDEX` to at least one frame."""
    num_codebooks = len(samples[0].targets[tracks[0]])
    max_frames = max(1, *(sample.num_frames for sample in samples))
    codes = np.full((len(samples), len(tracks), num_codebooks, max_frames), IGNORE_INDEX, dtype=np.int64)
    for row, sample in zip(codes, samples, strict=True):
        for place, track in zip(row, tracks, strict=True):
            place[:, : sample.num_frames] = sample.targets[track]
    return torch.from_numpy(codes)


def pad_ids(texts: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """Stack token ids to (ids, mask), each B x L int64; padding is 0 and masked."""
    ids = np.zeros((len(texts), max(len(text) for text in texts)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, row_mask, text in zip(ids, mask, texts, strict=True):
        row[: len(text)] = text
        row_mask[: len(text)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
