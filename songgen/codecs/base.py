"""The interface of every audio codec: waveforms to tokens and back, batched, with lengths.

Convolutions and attention see past a clip's end into its padding, so a clip encoded inside a padded batch would get
other tokens than the same clip alone. `AudioCodec` therefore runs clips of equal frame counts together, each padded
with silence only to its own last whole frame, and never pads one clip to another's length.

Letters in shapes: `B` batch, `G` clips of one length, `K` codebooks, `T` frames, `N` samples.
"""

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


class AudioCodec(ABC):
    """An encoder of mono waveforms into `num_codebooks` streams of tokens, and a decoder of them.

    The tokens of a clip do not depend on the other clips of the batch, and `frames` depends only on the number of
    samples, so that tracks of equal length stay aligned.
    """

    kind: ClassVar[str]
    """Name of this kind of codec, the `type` of a spec."""

    sample_rate: int
    """Samples per second of the waveforms that `encode` takes and `decode` returns."""
    hop_length: int
    """Samples per frame."""
    num_codebooks: int
    """Tokens per frame, one from each codebook."""
    codebook_size: int
    """Entries in each codebook: tokens are 0 to `codebook_size - 1`."""

    _fingerprint: str | None = None

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the codec and of its results."""

    @property
    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON that `load_codec` takes to open the same codec again."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the kind, the settings that change tokens, and the weights; computed on first use."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.kind, self._token_settings(), self._weights())
        return self._fingerprint

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames of a clip of `num_samples` samples; an incomplete last frame counts."""
        return -(-num_samples // self.hop_length)

    @torch.no_grad()
    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch of clips.

        Args:
            waveforms: `B x 1 x N` samples between -1 and 1 at `sample_rate`; samples past a clip's length are ignored.
            lengths: `B` numbers of samples, from 0 to `N`.

        Returns:
            `codes` (`B x K x T` int64, 0 past a clip's frames) and `frames` (`B` int64), on the codec's device.

        Raises:
            ValueError: if the shapes do not fit or a length is out of range.
        """
        if waveforms.dim() != 3 or waveforms.shape[1] != 1:
            raise ValueError(f"waveforms must be mono, batch x 1 x samples; got the shape {tuple(waveforms.shape)}.")
        sample_counts = _checked_counts(lengths, waveforms.shape[0], waveforms.shape[2], "lengths", "samples")
        frame_counts = [self.num_frames(count) for count in sample_counts]
        codes = torch.zeros(
            len(frame_counts), self.num_codebooks, max(frame_counts, default=0), dtype=torch.int64, device=self.device
        )
        with exact_float32(self.device):
            # One forward pass for each distinct frame count. `clips` are G x 1 x (count * hop): every clip is padded
            # with silence to the end of its own last frame only, so that padding never reaches into another clip's
            # tokens. Batches sorted by length keep the groups large.
            for count, rows in _rows_by_count(frame_counts):
                clips = torch.zeros(len(rows), 1, count * self.hop_length, device=self.device)
                for clip, row in zip(clips, rows, strict=True):
                    clip[:, : sample_counts[row]] = waveforms[row, :, : sample_counts[row]]
                group_codes = self._encode_equal(clips)
                if group_codes.shape != (len(rows), self.num_codebooks, count):
                    raise ValueError(
                        f"The {self.kind} codec returned codes of the shape {tuple(group_codes.shape)} where "
                        f"{(len(rows), self.num_codebooks, count)} was expected: its config.json does not match its "
                        "network."
                    )
                codes[rows, :, :count] = group_codes
        return codes, torch.tensor(frame_counts, dtype=torch.int64, device=self.device)

    @torch.no_grad()
    def decode(self, codes: Tensor, frames: Tensor | None = None) -> Tensor:
        """Decode a batch of token sequences.

        Args:
            codes: `B x K x T` tokens; those past a clip's frames are ignored.
            frames: `B` numbers of frames; None means `T` for every clip.

        Returns:
            `B x 1 x (T * hop_length)` float32 samples on the codec's device, silent past a clip's frames.

        Raises:
            ValueError: if the shapes do not fit, or a token is not a code of this codec.
        """
        if codes.dim() != 3 or codes.shape[1] != self.num_codebooks:
            raise ValueError(
                f"codes must be batch x {self.num_codebooks} codebooks x frames; got the shape {tuple(codes.shape)}."
            )
        if frames is None:
            frames = torch.full((codes.shape[0],), codes.shape[2])
        frame_counts = _checked_counts(frames, codes.shape[0], codes.shape[2], "frames", "frames")
        waveforms = torch.zeros(codes.shape[0], 1, codes.shape[2] * self.hop_length, device=self.device)
        with exact_float32(self.device):
            for count, rows in _rows_by_count(frame_counts):
                group_codes = codes[rows, :, :count].to(self.device, torch.int64)
                lowest, highest = (int(value) for value in group_codes.aminmax())
                if lowest < 0 or highest >= self.codebook_size:
                    raise ValueError(
                        f"codes must be between 0 and {self.codebook_size - 1}, found {lowest} to {highest}: remove "
                        "special tokens (pad, begin, end) before decoding."
                    )
                clips = self._decode_equal(group_codes)[..., : count * self.hop_length]
                waveforms[rows, :, : clips.shape[-1]] = clips.float()
        return waveforms

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the codec to a device and return it."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a copy from which `load_codec` opens the same codec: same tokens, same fingerprint."""

    @abstractmethod
    def _encode_equal(self, clips: Tensor) -> Tensor:
        """Encode `G x 1 x (T * hop_length)` samples into `G x K x T` tokens, where `T >= 1`."""

    @abstractmethod
    def _decode_equal(self, codes: Tensor) -> Tensor:
        """Decode `G x K x T` tokens, `T >= 1`, into `G x 1 x samples`, where samples is about `T * hop_length`."""

    @abstractmethod
    def _token_settings(self) -> dict[str, Any]:
        """Return the settings (JSON values) that change tokens, apart from the weights."""

    @abstractmethod
    def _weights(self) -> Mapping[str, Tensor]:
        """Return all tensors that the tokens depend on, by name."""


def fingerprint(kind: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of a kind, JSON settings and named tensors; it does not depend on the device."""
    digest = hashlib.sha256(json.dumps({"kind": kind, "settings": settings}, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Switch off autocast and TF32, whatever training has set: rounding would change which code is nearest."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        cudnn: Any = torch.backends.cudnn
        backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision


def _checked_counts(counts: Tensor, batch_size: int, most: int, name: str, unit: str) -> list[int]:
    """Return the counts as integers; raise `ValueError` unless there are `batch_size` counts from 0 to `most`."""
    values = [int(value) for value in counts.flatten().tolist()]
    if counts.dim() != 1 or len(values) != batch_size or any(value < 0 or value > most for value in values):
        raise ValueError(f"{name} must be {batch_size} numbers of {unit} from 0 to {most}; got {values}.")
    return values


def _rows_by_count(counts: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield each count above 0 with the rows that have it."""
    for count in sorted(set(counts) - {0}):
        yield count, [row for row, value in enumerate(counts) if value == count]
