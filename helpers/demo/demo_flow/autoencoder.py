"""Autoencoder of the demo's flow model: an `AutoencoderOobleck` that is computed from the songs instead of trained.

Training such an autoencoder takes days on a GPU. But its convolutions overlap by half, as the frames of a modified
discrete cosine transform (MDCT) do. With residual units that add nothing and activations that do nothing, the network
can therefore hold an MDCT, followed by the principal components of the songs' coefficients:

    1. the two channels are averaged;
    2. the first stage only puts each block of samples into channels;
    3. the second stage multiplies two neighbouring frames with the transform; the components are the latents.

The decoder is the transpose. Latents of silence are zero.

Shapes: N samples of a frame, T frames, C channels of the latents, 2 N taps of the transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderOobleck

_STRIDES = (20, 32)
"""Samples of a block and blocks of a frame; both even, so that frames and blocks begin together."""
FRAME_SAMPLES = math.prod(_STRIDES)
"""640: 25 frames a second at 16 kHz, as in the published model."""
_SMOOTHING_BINS = 17
_EMPHASIS = 0.5
"""Exponent with which weak frequencies are raised before the principal components are chosen."""
_NEGLIGIBLE = -20.0
"""Logarithm of the factor inside and before the sine of an activation, at which it does nothing in float32."""
_POSTERIOR_BIAS = -7.0
"""The softplus of this, 0.0009, is the standard deviation of the latents around their mean."""


@dataclass(frozen=True)
class Transform:
    """Linear transforms between two neighbouring frames of samples and latents."""

    analysis: NDArray[np.float32]
    """C x 2 N."""
    synthesis: NDArray[np.float32]
    """C x 2 N; summed over overlapping frames it gives samples."""


def fit_transform(songs: Sequence[NDArray[np.floating]], channels: int) -> Transform:
    """Return the MDCT followed by the principal components of its coefficients in some songs.

    Args:
        songs: Mono samples.
        channels: Number of components.
    """
    basis = mdct_basis(FRAME_SAMPLES)
    coefficients = np.concatenate([_frames(song) @ basis.T for song in songs])
    level = np.sqrt((coefficients**2).mean(axis=0))
    edge = _SMOOTHING_BINS // 2
    level = np.convolve(np.pad(level, edge, mode="edge"), np.full(_SMOOTHING_BINS, 1 / _SMOOTHING_BINS), mode="valid")
    emphasis = level**-_EMPHASIS
    values, vectors = np.linalg.eigh((coefficients * emphasis).T @ (coefficients * emphasis) / len(coefficients))
    # The square root of the deviation is between latents of equal size, in which noise sounds as loud as music, and
    # latents as large as they are loud, in which the quiet ones would not be learned.
    components, deviation = vectors[:, ::-1][:, :channels], np.sqrt(values[::-1][:channels])
    scale = np.sqrt(deviation) * np.sqrt(deviation.mean())
    analysis = (components * emphasis[:, None] / scale).T @ basis
    synthesis = (components / emphasis[:, None] * scale).T @ basis
    return Transform(analysis.astype(np.float32), synthesis.astype(np.float32))


def make_autoencoder(transform: Transform, sample_rate: int) -> AutoencoderOobleck:
    """Return the autoencoder of a transform, for stereo; both channels of what it decodes are equal."""
    import songgen  # noqa: F401, I001, before diffusers: it sets what that reads when it is imported
    from diffusers import AutoencoderOobleck

    channels = len(transform.analysis)
    assert channels >= _STRIDES[0], "a stage of the decoder has as many channels as the latents, and holds a block"
    block, blocks = _STRIDES
    model = AutoencoderOobleck(
        encoder_hidden_size=2 * channels,
        downsampling_ratios=list(_STRIDES),
        channel_multiples=[1, 1],
        decoder_channels=channels,
        decoder_input_channels=channels,
        audio_channels=2,
        sampling_rate=sample_rate,
    )
    for name, parameter in model.named_parameters():
        if name.endswith((".alpha", ".bias")):
            nn.init.constant_(parameter, _NEGLIGIBLE if name.endswith(".alpha") else 0.0)
        if ".res_unit" in name and name.endswith("conv2.weight_g"):
            nn.init.zeros_(parameter)
    encoder, decoder = model.encoder, model.decoder
    samples, taps = torch.arange(block), torch.arange(channels)
    mix = torch.zeros_like(encoder.conv1.weight)
    mix[0, :, 3] = 0.5
    # Stage 1 reads each block of samples into as many channels; its kernel has half a block more on both sides.
    split = torch.zeros_like(encoder.block[0].conv1.weight)
    split[samples, 0, block // 2 + samples] = 1.0
    analysis = torch.zeros_like(encoder.block[1].conv1.weight)
    analysis[:channels, :block] = _by_block(transform.analysis)
    means = torch.zeros_like(encoder.conv2.weight)
    means[taps, taps, 1] = 1.0
    identity = torch.zeros_like(decoder.conv1.weight)
    identity[taps, taps, 3] = 1.0
    synthesis = torch.zeros_like(decoder.block[0].conv_t1.weight)
    synthesis[:, :block] = _by_block(transform.synthesis)
    join = torch.zeros_like(decoder.block[1].conv_t1.weight)
    join[samples, 0, block // 2 + samples] = 1.0
    both = torch.zeros_like(decoder.conv2.weight)
    both[:, 0, 3] = 1.0
    for layer, weight in (
        (encoder.conv1, mix), (encoder.block[0].conv1, split), (encoder.block[1].conv1, analysis),
        (encoder.conv2, means), (decoder.conv1, identity), (decoder.block[0].conv_t1, synthesis),
        (decoder.block[1].conv_t1, join), (decoder.conv2, both),
    ):  # fmt: skip
        _set_weight(layer, weight)
    with torch.no_grad():
        encoder.conv2.bias[channels:] = _POSTERIOR_BIAS
    return model.eval()


def mdct_basis(size: int) -> NDArray[np.float64]:
    """Return the MDCT with a sine window, size x 2 size; its transpose, summed over frames, is the inverse."""
    time = np.arange(2 * size) + 0.5
    frequency = np.arange(size)[:, None] + 0.5
    window = np.sin(np.pi * time / (2 * size))
    return math.sqrt(2 / size) * window * np.cos(np.pi / size * (time + size / 2) * frequency)


def _frames(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return T x 2 N samples, where frame t is in the middle of row t."""
    num_frames = math.ceil(len(samples) / FRAME_SAMPLES)
    padded = np.zeros((num_frames + 1) * FRAME_SAMPLES)
    padded[FRAME_SAMPLES // 2 :][: len(samples)] = samples
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * FRAME_SAMPLES)[::FRAME_SAMPLES]


def _by_block(matrix: NDArray[np.float32]) -> Tensor:
    """Return C x 2 N as C x samples of a block x blocks of two frames."""
    return torch.from_numpy(matrix).unflatten(1, (-1, _STRIDES[0])).transpose(1, 2)


@torch.no_grad()
def _set_weight(layer: nn.Module, weight: Tensor) -> None:
    """Give a weight-normalized layer a weight; a row of zeros keeps its direction, which must not be zero."""
    parameters = dict(layer.named_parameters())
    length, direction = parameters["weight_g"], parameters["weight_v"]
    length.copy_(weight.flatten(1).norm(dim=1).view_as(length))
    direction.copy_(torch.where(length > 0, weight, direction))
