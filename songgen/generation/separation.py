"""Vocals out of a song, with Hybrid Transformer Demucs (an optional extra of the package)."""

from functools import lru_cache
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from songgen.generation.demucs_weights import load_demucs

DEFAULT_MODEL = "htdemucs"
"""Name of the pretrained separator; its safetensors weights come from the hub."""

VOCALS = "vocals"

INSTALL_HINT = (
    'separating a voice needs demucs, which is not installed: pip install -c constraints.txt -e ".[separate]", '
    "or give a reference voice without accompaniment and do not ask for separation"
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
        self.model = _only_for_vocals(model)
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
        mono = samples.mean(axis=1)
        return self.vocals(samples, sample_rate, float(mono.mean()), float(mono.std())).mean(axis=1)

    def vocals(self, samples: np.ndarray, sample_rate: int, mean: float, deviation: float) -> np.ndarray:
        """Return the vocals of a passage of a recording.

        Demucs was trained on waveforms of mean 0 and deviation 1, both of the whole song.

        Args:
            samples: N x channels float32.
            sample_rate: samples a second, of the result too.
            mean: of the whole recording's mono samples.
            deviation: of the same.

        Returns:
            M x channels of the model, float32; M differs from N by rounding at most.
        """
        from demucs.apply import apply_model

        mixture = self._at_model_rate(samples, sample_rate)
        scale = deviation + torch.finfo(torch.float32).eps
        with torch.no_grad():
            sources = apply_model(self.model, ((mixture - mean) / scale)[None], shifts=0, device=self.device)[0]
        vocals = sources[list(self.model.sources).index(VOCALS)] * scale + mean
        return _resample(vocals.cpu().numpy().T, self.sample_rate, sample_rate)

    def _at_model_rate(self, samples: np.ndarray, sample_rate: int) -> Tensor:
        """Return channels x N at the model's rate and number of channels."""
        resampled = _resample(samples, sample_rate, self.sample_rate)
        channels = int(self.model.audio_channels)
        if resampled.shape[1] != channels:
            resampled = np.repeat(resampled.mean(axis=1, keepdims=True), channels, axis=1)
        return torch.from_numpy(np.ascontiguousarray(resampled.T, dtype=np.float32))


def _only_for_vocals(model: Any) -> Any:
    """Leave out the networks of a bag whose weight for the vocals is 0: three of the four of `htdemucs_ft`."""
    if not hasattr(model, "weights"):
        return model
    index = list(model.sources).index(VOCALS)
    kept = [(network, row[index]) for network, row in zip(model.models, model.weights, strict=True) if row[index]]
    networks = [network for network, _ in kept]
    return type(model)(networks, [[weight] * len(model.sources) for _, weight in kept]).eval()


@lru_cache(maxsize=1)
def load_separator(name: str = DEFAULT_MODEL, device: str = "cpu", revision: str = "") -> VocalSeparator:
    """Load a pretrained separator from the hub or a folder, once a process; see `load_demucs`.

    Raises:
        ValueError: if demucs is not installed, or if the weights cannot be had; the message says what to do.
    """
    try:
        return VocalSeparator(load_demucs(name, revision), device)
    except ImportError as error:
        raise ValueError(INSTALL_HINT) from error
    except ValueError as error:
        raise ValueError(
            f"{error}; go online once, or give a reference voice without accompaniment and do not ask for separation"
        ) from error


def _resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Resample along the first axis; nothing happens between equal rates."""
    return samples if rate == target_rate else np.asarray(soxr.resample(samples, rate, target_rate, quality="HQ"))
