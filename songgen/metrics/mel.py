"""Log-mel spectrograms and the distance between two clips, for metrics.

Independent of the codecs, because a codec measured by its own spectrogram would look better than it is.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

NUM_MELS = 80
FRAMES_PER_SECOND = 100
WINDOW_SECONDS = 0.064

FLOOR = 1e-3
"""Smallest amplitude, 60 dB below a full-scale sine; differences below it are inaudible."""


@lru_cache(maxsize=8)
def _filters(num_bins: int, sampling_rate: int) -> Tensor:
    """Return bins x mels: triangular filters on the mel scale from 0 Hz to half the sampling rate."""
    bank = mel_filter_bank(num_bins, NUM_MELS, 0.0, sampling_rate / 2, sampling_rate, mel_scale="htk")
    return torch.from_numpy(np.asarray(bank, dtype=np.float32))


def log_mel(waveform: ArrayLike, sampling_rate: int) -> NDArray[np.float32]:
    """Return the natural logarithm of a clip's mel amplitudes (frames x `NUM_MELS`), 100 frames per second.

    Args:
        waveform: mono samples between -1 and 1.
        sampling_rate: samples per second.
    """
    size = 2 ** round(np.log2(WINDOW_SECONDS * sampling_rate))
    samples = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    # At least one window of samples, so that a clip of any length has a frame.
    samples = torch.nn.functional.pad(samples, (0, max(0, size - len(samples))))
    window = torch.hann_window(size)
    hop = sampling_rate // FRAMES_PER_SECOND
    spectrum = torch.stft(samples, size, hop, window=window, return_complex=True).abs() * (2 / window.sum())
    mels = spectrum.T @ _filters(size // 2 + 1, sampling_rate)
    return np.asarray(mels.clamp(min=FLOOR).log().numpy(), dtype=np.float32)


def mel_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the mean absolute difference of two log-mel spectrograms in nepers; silence pads the shorter."""
    longest = max(len(first), len(second))
    padded = [
        np.pad(each, ((0, longest - len(each)), (0, 0)), constant_values=np.log(FLOOR)) for each in (first, second)
    ]
    return float(np.abs(padded[0] - padded[1]).mean())
