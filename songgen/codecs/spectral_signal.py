"""Waveforms to mel magnitudes and back: the signal processing of the spectral codec.

Letters in shapes: `G` clips, `N` samples, `T` frames, `F` frequency bins (`window_length // 2 + 1`), `M` mel bands.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank


@dataclass(frozen=True)
class SpectrumGeometry:
    """Division of a waveform into frames, and of a frame's spectrum into mel bands."""

    sample_rate: int
    """Samples per second."""
    hop_length: int
    """Samples from one frame to the next."""
    window_length: int
    """Length of the Hann window, in samples."""
    num_mels: int
    """Number of mel bands (Slaney scale) between 0 Hz and half the sample rate."""

    def mel_filters(self) -> Tensor:
        """Return `F x M` float64 weights; each band is a weighted mean of bins, so that their levels are comparable."""
        filters = torch.from_numpy(
            mel_filter_bank(
                num_frequency_bins=self.window_length // 2 + 1,
                num_mel_filters=self.num_mels,
                min_frequency=0.0,
                max_frequency=self.sample_rate / 2,
                sampling_rate=self.sample_rate,
                norm=None,
                mel_scale="slaney",
            )
        ).double()
        return filters / filters.sum(dim=0)


def magnitudes(waveforms: Tensor, geometry: SpectrumGeometry) -> Tensor:
    """Convert `G x N` samples to `G x T x F` magnitudes, about 1 for a full-scale sine.

    Frame `t` is centred on sample `t * hop`, and `T = N // hop`. The signal counts as silent beyond both ends, so that
    frames do not depend on how much silence follows.
    """
    window = torch.hann_window(geometry.window_length, dtype=waveforms.dtype, device=waveforms.device)
    spectra = _transform(waveforms, window, geometry.hop_length)
    return spectra[..., : waveforms.shape[-1] // geometry.hop_length].abs().transpose(1, 2) * (2 / window.sum())


def linear_magnitudes(mels: Tensor, filters: Tensor, iterations: int = 40) -> Tensor:
    """Convert `... x M` mel magnitudes to the non-negative `... x F` magnitudes that fit them best (least squares).

    Multiplicative updates (Lee and Seung, 2001), starting from the shapes of the bands. They keep every bin
    non-negative, and bins of silent bands at zero.
    """
    tiny = torch.finfo(mels.dtype).tiny
    bins = (mels @ filters.T) / filters.sum(dim=1).clamp(min=1e-6)
    numerator = mels @ filters.T
    for _ in range(iterations):
        # In nearly silent bins both products may underflow: the clamp prevents 0 / 0.
        bins = bins * (numerator / ((bins @ filters) @ filters.T).clamp(min=tiny))
    return bins


def griffin_lim(spectra: Tensor, geometry: SpectrumGeometry, iterations: int, seed: int) -> Tensor:
    """Find a waveform whose magnitudes are close to the given ones.

    Fast Griffin-Lim algorithm (Perraudin, Balazs and Soendergaard, 2013) with momentum 0.99 and seeded initial phases.

    Args:
        spectra: `G x T x F` magnitudes on the scale of `magnitudes`.
        geometry: Geometry of the frames.
        iterations: Number of iterations.
        seed: Seed of the initial phases, which otherwise depend on `T` only.

    Returns:
        `G x (T * hop_length)` samples.
    """
    window = torch.hann_window(geometry.window_length, dtype=spectra.dtype, device=spectra.device)
    num_samples = spectra.shape[1] * geometry.hop_length
    # The STFT of T * hop samples has T + 1 frames, the last one centred on the end: it repeats frame T - 1.
    target = torch.cat([spectra, spectra[:, -1:]], dim=1).transpose(1, 2) * (window.sum() / 2)
    generator = torch.Generator().manual_seed(seed)
    turns = torch.rand(target.shape[1:], generator=generator, dtype=torch.float32).to(spectra)
    estimate = torch.polar(target, (2 * torch.pi * turns).expand_as(target))
    previous = torch.zeros_like(estimate)
    for _ in range(iterations):
        # Project onto the spectra of real waveforms, extrapolate (momentum), then restore the target magnitudes.
        waveforms = _invert(estimate, window, geometry.hop_length, num_samples)
        consistent = _transform(waveforms, window, geometry.hop_length)
        accelerated = consistent + 0.99 * (consistent - previous)
        previous = consistent
        estimate = target * (accelerated / accelerated.abs().clamp(min=1e-12))
    return _invert(estimate, window, geometry.hop_length, num_samples)


def _transform(waveforms: Tensor, window: Tensor, hop_length: int) -> Tensor:
    return torch.stft(
        waveforms, len(window), hop_length, window=window, center=True, pad_mode="constant", return_complex=True
    )


def _invert(spectra: Tensor, window: Tensor, hop_length: int, num_samples: int) -> Tensor:
    return torch.istft(spectra, len(window), hop_length, window=window, center=True, length=num_samples)
