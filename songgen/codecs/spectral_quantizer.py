"""Residual vector quantization of log-mel frames.

Letters in shapes: `T` frames, `K` codebooks, `C` codes in each, `M` mel bands, `W` candidates.
"""

import torch
from torch import Tensor

CHUNK = 256
"""Frames that are quantized at once: few, so that the table of distances stays in the cache."""


def squared_distances(frames: Tensor, codebook: Tensor) -> Tensor:
    """`... x M` frames and `C x M` codes to `... x C` squared distances, less the frames' own squared norms."""
    return codebook.square().sum(dim=1) - 2 * frames @ codebook.T


def quantize(frames: Tensor, codebooks: Tensor, search_width: int) -> Tensor:
    """Finds codes whose sum is close to each frame.

    The first codebook's code is always the nearest one, so that the first token says by itself what the frame sounds
    like; from there on the `search_width` best candidates are followed, because the nearest code is not always the
    best to go on from.

    Args:
        frames: `T x M`.
        codebooks: `K x C x M`.
        search_width: Candidates that are kept, 1 or more.

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
        # Residuals of one frame differ in norm, so the norm counts between candidates.
        distances = squared_distances(residuals, codebook) + residuals.square().sum(dim=-1, keepdim=True)
        best = distances.flatten(1).topk(min(search_width, distances[0].numel()), largest=False).indices
        parent, code = best // num_codes, best % num_codes
        codes = torch.cat([_take(codes, parent), code[..., None]], dim=-1)
        residuals = _take(residuals, parent) - codebook[code]
    return codes[:, 0]


def _take(candidates: Tensor, index: Tensor) -> Tensor:
    """Picks `T x W x any` by a `T x W'` index of candidates."""
    return candidates.gather(1, index[..., None].expand(-1, -1, candidates.shape[-1]))


def dequantize(codes: Tensor, codebooks: Tensor) -> Tensor:
    """`... x K` codes to `... x M` frames: the sum of each codebook's code."""
    frames = codebooks[0][codes[..., 0]]
    for index in range(1, len(codebooks)):
        frames = frames + codebooks[index][codes[..., index]]
    return frames
