"""Fitting a spectral codec on a corpus: one k-means for each codebook, on the residuals of the codebooks before it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from songgen.codecs.spectral import SpectralCodec, SpectralSettings
from songgen.codecs.spectral_quantizer import squared_distances

ROWS = 1024
"""Frames per table of distances to all codes: a small number keeps the table in the CPU cache."""


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit: how much data and how many iterations."""

    max_frames: int = 200_000
    """Frames to fit on; a larger corpus is sampled uniformly at random (200,000 frames are more than an hour)."""
    iterations: int = 6
    """Iterations of k-means for each codebook."""
    frames_per_code: int = 4
    """Minimum of frames per fitted code: a small corpus fits fewer codes, and the others are random."""
    seed: int = 0
    """Seed of all random choices."""

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            ValueError: if one is below 1.
        """
        for name in ("max_frames", "iterations", "frames_per_code"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")


def fit_spectral_codec(
    waveforms: Iterable[Tensor],
    settings: SpectralSettings | None = None,
    options: FitOptions | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> SpectralCodec:
    """Fit a codec; the same waveforms, settings and seed give the same codebooks.

    Args:
        waveforms: Mono clips at the codec's sample rate, one tensor of samples each; read once, one at a time.
        settings: Settings of the codec.
        options: How much work to do.
        report: Called with each line of progress.

    Raises:
        ValueError: if the waveforms contain no sound.
    """
    settings = settings or SpectralSettings()
    options = options or FitOptions()
    shape = (settings.num_codebooks, settings.codebook_size, settings.num_mels)
    blank = SpectralCodec(settings, torch.zeros(shape))
    generator = torch.Generator().manual_seed(options.seed)
    residuals = _sample_frames(blank, waveforms, options.max_frames, generator)
    report(f"fitting {settings.num_codebooks} codebooks of {settings.codebook_size} on {len(residuals)} frames")
    codebooks = []
    for number in range(1, settings.num_codebooks + 1):
        # Greedy residual fitting, as in residual vector quantization (SoundStream, https://arxiv.org/abs/2107.03312):
        # codebook k explains what the nearest codes of the codebooks before it leave.
        codebook = _fit_codebook(residuals, settings.codebook_size, options, generator)
        residuals = residuals - codebook[_nearest(residuals, codebook)[0]]
        codebooks.append(codebook)
        report(f"codebook {number}: mean absolute log-mel error {residuals.abs().mean():.3f} nepers")
    return SpectralCodec(settings, torch.stack(codebooks))


@torch.no_grad()
def reconstruction_error(codec: SpectralCodec, waveforms: Iterable[Tensor]) -> float:
    """Return the mean absolute error of decoded log-mel frames `log(mel + floor)`, in nepers, over mono clips.

    Raises:
        ValueError: if every waveform is empty.
    """
    total, count = 0.0, 0
    for waveform in waveforms:
        frames = _clip_frames(codec, waveform)
        error = frames - codec.dequantize(codec.quantize(frames))
        total, count = total + float(error.abs().sum()), count + error.numel()
    if not count:
        raise ValueError("There is no sound to measure: every waveform is empty.")
    return total / count


def _clip_frames(codec: SpectralCodec, waveform: Tensor) -> Tensor:
    """Return the `T x M` frames of one clip, as in encoding."""
    padding = -len(waveform) % codec.hop_length
    return codec.log_mels(torch.nn.functional.pad(waveform, (0, padding))[None])[0]


def _sample_frames(codec: SpectralCodec, waveforms: Iterable[Tensor], most: int, generator: torch.Generator) -> Tensor:
    """Sample at most `most` frames that are not silent, uniformly, in memory proportional to `most`.

    Silence needs no fitting, because code 0 represents it exactly.
    """
    # Reservoir sampling by random keys: every frame of the corpus gets a key in [0, 1), and the `most` frames with
    # the lowest keys are kept. Frames are collected until there are more than `most` before the next selection, so
    # that at most about 2 * most frames plus one clip are in memory.
    kept = torch.zeros(0, codec.settings.num_mels)
    keys = torch.zeros(0, dtype=torch.float64)
    waiting: list[Tensor] = []
    for waveform in waveforms:
        if not len(waveform):
            continue
        frames = _clip_frames(codec, waveform).float()
        waiting.append(frames[frames.amax(dim=1) > 0])
        if sum(map(len, waiting)) > most:
            kept, keys = _lowest_keys(kept, keys, waiting, most, generator)
            waiting = []
    kept, keys = _lowest_keys(kept, keys, waiting, most, generator)
    if not len(kept):
        raise ValueError("There is no sound to fit a codec on: the waveforms are empty or silent.")
    return kept


def _lowest_keys(
    kept: Tensor, keys: Tensor, waiting: list[Tensor], most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give the waiting frames random keys, and keep the `most` frames with the lowest keys in their order."""
    frames = torch.cat([kept, *waiting])
    new_keys = torch.rand(len(frames) - len(keys), generator=generator, dtype=torch.float64)
    keys = torch.cat([keys, new_keys])
    if len(frames) <= most:
        return frames, keys
    chosen = keys.topk(most, largest=False).indices.sort().values
    return frames[chosen], keys[chosen]


def _fit_codebook(frames: Tensor, codebook_size: int, options: FitOptions, generator: torch.Generator) -> Tensor:
    """Run k-means from random frames with code 0 fixed at 0; a code without frames moves to the worst-fitted frame."""
    num_fitted = min(codebook_size - 1, max(1, len(frames) // options.frames_per_code))
    start = torch.randperm(len(frames), generator=generator)[:num_fitted]
    codebook = torch.cat([torch.zeros(1, frames.shape[1]), frames[start]])
    for _ in range(options.iterations):
        # Assign every frame to its nearest code, then move every code to the mean of its frames.
        codes, distances = _nearest(frames, codebook)
        counts = torch.bincount(codes, minlength=len(codebook))
        sums = torch.zeros_like(codebook).index_add_(0, codes, frames)
        codebook = sums / counts.clamp(min=1)[:, None]
        # Codes that no frame chose restart at the frames with the largest errors; code 0 stays at zero.
        empty = (counts == 0).nonzero()[:, 0]
        empty = empty[empty > 0]
        codebook[empty] = frames[distances.topk(len(empty)).indices]
        codebook[0] = 0.0
    used = torch.bincount(_nearest(frames, codebook)[0], minlength=len(codebook)) > 0
    used[0] = True
    fitted = codebook[used]
    return torch.cat([fitted, _random_codes(frames, codebook_size - len(fitted), generator)])


def _random_codes(frames: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sample the rest of a codebook around the frames' mean, so that it may fit songs that were not seen."""
    spread = frames.std(dim=0, correction=0).clamp(min=0.05)
    return frames.mean(dim=0) + 0.5 * spread * torch.randn(count, frames.shape[1], generator=generator)


def _nearest(frames: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest code of each frame and the squared distance to it."""
    codes, distances = [], []
    for rows in frames.split(ROWS):
        distance, code = squared_distances(rows, codebook).min(dim=1)
        codes.append(code)
        distances.append(distance + rows.square().sum(dim=1))
    return torch.cat(codes), torch.cat(distances)
