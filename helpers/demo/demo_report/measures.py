"""Similarity of generated songs to the songs in the training data, in codes and in sound.

Shapes: N tracks, K codebooks, T frames of a codec, F frames of a spectrogram, M mel bands, S songs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from songgen.metrics.mel import FLOOR, mel_distance

FFT_SIZE = 1024
HOP_LENGTH = 320
NUM_MELS = 80
SMALLEST_MAGNITUDE = FLOOR
"""Magnitude below which sound counts as silence, as in ``songgen.metrics.mel``: 60 dB below a full-scale sine."""


def first_codebook_agreement(generated: NDArray[np.integer], original: NDArray[np.integer]) -> float:
    """Return the share of a song's first-codebook codes that generation reproduces at the same position.

    Args:
        generated: K x T codes, of any T.
        original: K x T codes, T > 0; frames that were not generated count as wrong.
    """
    num_frames = original.shape[1]
    common = min(num_frames, generated.shape[1])
    return float((generated[0, :common] == original[0, :common]).sum() / num_frames)


def demo_log_mel(samples: NDArray[np.floating], sample_rate: int) -> NDArray[np.float32]:
    """Return the demo's mel spectrogram in nepers (natural logarithm of magnitude).

    `songgen.metrics.mel.log_mel` has other frames and bands; the demo's published figures were measured with these.

    Args:
        samples: Mono samples, with full scale at 1.
        sample_rate: Sample rate in Hz.

    Returns:
        F x M, one frame every ``HOP_LENGTH`` samples; a full-scale sine has a magnitude of about 1.
    """
    window = np.hanning(FFT_SIZE + 1)[:-1].astype(np.float32)
    padded = np.pad(np.asarray(samples, dtype=np.float32), FFT_SIZE // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SIZE)[::HOP_LENGTH]
    spectrum = np.abs(np.fft.rfft(frames * window)) * (2 / window.sum())
    mel = spectrum.astype(np.float32) @ _mel_filters(sample_rate)
    return np.log(np.maximum(mel, SMALLEST_MAGNITUDE))


def nearest_originals(generated: Sequence[NDArray[np.float32]], originals: Sequence[NDArray[np.float32]]) -> list[int]:
    """Return, for each generated spectrogram, the index of the closest original by ``mel_distance``."""
    return [int(np.argmin([mel_distance(song, original) for original in originals])) for song in generated]


@functools.cache
def _mel_filters(sample_rate: int) -> NDArray[np.float32]:
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=FFT_SIZE // 2 + 1, num_mel_filters=NUM_MELS, min_frequency=40.0,
        max_frequency=sample_rate / 2, sampling_rate=sample_rate, mel_scale="htk",
    )  # fmt: skip
    return np.asarray(filters, dtype=np.float32)
