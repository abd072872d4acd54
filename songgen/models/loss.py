"""Cross-entropy of every head at once, as sums that add up over micro-batches and processes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from songgen.vocabulary import IGNORE_INDEX

_BLEND_STEPS = ((0.0, 0.0), (0.3, 0.3), (0.6, 0.6), (0.8, 0.8))
"""Published schedule: from this share of the training steps on, this share of the way to the final weights."""


@dataclass
class HeadLosses:
    """Loss of a set of heads over one batch."""

    loss: Tensor
    """Scalar: sum over heads of weight x (sum of cross-entropies / number of targets)."""

    per_head: Tensor
    """H: each head's mean cross-entropy in nats (its share of the mean where global counts were given)."""


def head_losses(
    logits: Tensor, labels: Tensor, target_counts: Tensor | None = None, head_weights: Tensor | None = None
) -> HeadLosses:
    """Compute the weighted loss.

    Args:
        logits: B x H x S x V.
        labels: B x H x S, `IGNORE_INDEX` where nothing is to be predicted.
        target_counts: H, number of targets over all micro-batches and processes of an optimizer step; None counts
            this batch alone. With the former the losses of all micro-batches add up to the exact token mean.
        head_weights: H, adding up to 1; None weighs all heads alike.
    """
    batch, num_heads, num_steps, _ = logits.shape
    entropy = F.cross_entropy(
        logits.flatten(0, 2).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    sums = entropy.view(batch, num_heads, num_steps).sum(dim=(0, 2))
    if target_counts is None:
        target_counts = (labels != IGNORE_INDEX).sum(dim=(0, 2))
    per_head = sums / target_counts.clamp(min=1)
    weights = per_head.new_full((num_heads,), 1 / num_heads) if head_weights is None else head_weights.to(per_head)
    return HeadLosses((weights * per_head).sum(), per_head)


def codebook_weights(
    progress: float, start: tuple[float, ...], end: tuple[float, ...], *, device: torch.device | str = "cpu"
) -> Tensor:
    """Return K weights at a share of the training steps, blended from `start` to `end` as published.

    Args:
        progress: share of the optimizer steps done, 0..1.
        start: K weights at the beginning.
        end: K weights that the blend tends to (after 80 % of the steps it stays at 80 %).
        device: where to put them.
    """
    blend = max(share for begin, share in _BLEND_STEPS if progress >= begin)
    first, last = torch.tensor(start, device=device), torch.tensor(end, device=device)
    return (1 - blend) * first + blend * last


def weights_per_head(weights: Tensor, head_codebook: tuple[int, ...]) -> Tensor:
    """Spread K codebook weights over H heads so that they still add up to what they did."""
    return weights[list(head_codebook)] * (len(weights) / len(head_codebook))
