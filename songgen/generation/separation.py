"""Vocals out of a song, with Hybrid Transformer Demucs (an optional extra of the package)."""

from functools import lru_cache
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

DEFAULT_MODEL = "htdemucs"
"""Name of the pretrained separator; its safetensors weights come from the hub."""

VOCALS = "vocals"

INSTALL_HINT = (
    "separate=True needs demucs, which is not installed: pip install 'songgen[separate]' (or pip install demucs), "
    "or give a reference voice without accompaniment and separate=False"
)


class VocalSeparator:
    """Takes everything but the voice out of a recording."""

    def __init__(self, model: Any, device: torch.device | str = "cpu") -> None:
        """Use a Demucs model (or bag of models) that knows the source "vocals".

        Raises:
            ValueError: if it does not.
        """
        if VOCALS not in model.sources:
            raise ValueError(f"the separator knows the sources {', '.join(model.sources)}, but no {VOCALS!r}")
        self.model = model
        self.device = device

    @property
    def sample_rate(self) -> int:
        """Samples a second that the model works at."""
        return int(self.model.samplerate)

    def separate(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return the vocals of a recording.

        Args:
            samples: N x channels float32.
            sample_rate: samples a second, of the result too.

        Returns:
            M mono float32 samples; M differs from N by rounding at most.
        """
        from demucs.apply import apply_model

        mixture = self._at_model_rate(samples, sample_rate)
        # Demucs was trained on waveforms of this scale, and its own command line does the same.
        mono = mixture.mean(dim=0)
        mean, scale = mono.mean(), mono.std() + torch.finfo(torch.float32).eps
        with torch.no_grad():
            sources = apply_model(self.model, ((mixture - mean) / scale)[None], shifts=0, device=self.device)[0]
        vocals = sources[list(self.model.sources).index(VOCALS)] * scale + mean
        return _resample(vocals.mean(dim=0).cpu().numpy(), self.sample_rate, sample_rate)

    def _at_model_rate(self, samples: np.ndarray, sample_rate: int) -> Tensor:
        """Return channels x N at the model's rate and number of channels."""
        resampled = _resample(samples, sample_rate, self.sample_rate)
        channels = int(self.model.audio_channels)
        if resampled.shape[1] != channels:
            resampled = np.repeat(resampled.mean(axis=1, keepdims=True), channels, axis=1)
        return torch.from_numpy(np.ascontiguousarray(resampled.T, dtype=np.float32))


@lru_cache(maxsize=1)
def load_separator(name: str = DEFAULT_MODEL, device: str = "cpu") -> VocalSeparator:
    """Load a pretrained separator from the hub, once a process.

    Raises:
        ValueError: if demucs is not installed, or if the weights cannot be had; the message says what to do.
    """
    try:
        from demucs.hf import get_hf_model
    except ImportError as error:
        raise ValueError(INSTALL_HINT) from error
    try:
        model = get_hf_model(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the separator {name!r} cannot be loaded from the hub: {error}; go online once, or separate the voice "
            "beforehand and pass separate=False"
        ) from error
    model.eval()
    return VocalSeparator(model, device)


def _resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resample along the first axis; nothing happens between equal rates."""
    return samples if rate == target_rate else np.asarray(soxr.resample(samples, rate, target_rate, quality="HQ"))
