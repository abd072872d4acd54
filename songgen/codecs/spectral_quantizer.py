"""Residual vector quantization of log-mel frames.

Letters in shapes: `T` frames, `K` codebooks, `C` codes in each, `M` mel bands, `W` candidates.
"""

import torch
from torch import Tensor

CHUNK = 256
"""Frames to quantize at once: a small number keeps the table of distances in the CPU cache."""


def squared_distances(frames: Tensor, codebook: Tensor) -> Tensor:
    """Return `... x C` squared distances of `... x M` frames to `C x M` codes, less the frames' squared norms."""
    return codebook.square().sum(dim=1) - 2 * frames @ codebook.T


def quantize(frames: Tensor, codebooks: Tensor, search_width: int) -> Tensor:
    """Find codes whose sum is close to each frame.

    The code of the first codebook is always the nearest one, so that the first token alone describes the frame. After
    it a beam search keeps the `search_width` best candidates, because the nearest code does not always lead to the
    smallest error in the end.

    Args:
        frames: `T x M`.
        codebooks: `K x C x M`.
        search_width: Number of candidates to keep, at least 1.

    Returns:
        `T x K` int64.
    """
    chunks = [_quantize_chunk(chunk, codebooks, search_width) for chunk in frames.split(CHUNK)]
    return torch.cat(chunks)


def _quantize_chunk(frames: Tensor, codebooks: Tensor, search_width: int) -> Tensor:
    num_codes = codebooks.shape[1]
    first = squared_distances(frames, codebooks[0]).argmin(dim=1)
    codes = first[:, None, None]  # T x W x codebooks so far
    residuals = (frames - codebooks[0][first])[:, None]  # T x W x M
    for codebook in codebooks[1:]:
        # T x W x C. `squared_distances` leaves the norm of the residual out, which is constant for one candidate but
        # differs between the W candidates of a frame, so it is added before they are compared.
        distances = squared_distances(residuals, codebook) + residuals.square().sum(dim=-1, keepdim=True)
        best = distances.flatten(1).topk(min(search_width, distances[0].numel()), largest=False).indices
        parent, code = best // num_codes, best % num_codes  # T x W each: candidate to extend, and its next code
        codes = torch.cat([_take(codes, parent), code[..., None]], dim=-1)
        residuals = _take(residuals, parent) - codebook[code]
    return codes[:, 0]


def _take(candidates: Tensor, index: Tensor) -> Tensor:
    """Select `T x W' x any` from `T x W x any` by a `T x W'` index of candidates."""
    return candidates.gather(1, index[..., None].expand(-1, -1, candidates.shape[-1]))


def dequantize(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Convert `... x K` codes to `... x M` frames: the sum of one entry of each codebook."""
    frames = codebooks[0][codes[..., 0]]
    for index in range(1, len(codebooks)):
        frames = frames + codebooks[index][codes[..., index]]
    return frames
