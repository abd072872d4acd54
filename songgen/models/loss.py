"""Cross-entropy of every head at once, as sums that add up over micro-batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from songgen.layout import index_table
from songgen.vocabulary import IGNORE_INDEX

_BLEND_STEPS = ((0.0, 0.0), (0.3, 0.3), (0.6, 0.6), (0.8, 0.8))
"""Published schedule: (share of the training steps, share of the way from the first to the final weights)."""


@dataclass
class HeadLosses:
    """Loss of a set of heads over one batch."""

    loss: Tensor
    """Scalar: sum over heads of weight x (sum of cross-entropies / number of targets)."""

    per_head: Tensor
    """H: each head's mean cross-entropy in nats (its share of the mean where global counts were given)."""

    targets: TargetLosses | None = None
    """The terms of the losses, where they were asked for."""


@dataclass
class TargetLosses:
    """What the losses of some heads are sums of. Evaluation sums the same terms by stream."""

    entropies: Tensor
    """B x H x S float32: cross-entropy in nats; 0 where nothing is to be predicted."""

    hits: Tensor
    """B x H x S bool: whether the target is the most likely token; false where nothing is to be predicted."""


def head_losses(
    logits: Tensor,
    labels: Tensor,
    target_counts: Tensor | None = None,
    head_weights: Tensor | None = None,
    *,
    by_target: bool = False,
) -> HeadLosses:
    """Compute the weighted loss.

    Args:
        logits: B x H x S x V.
        labels: B x H x S, `IGNORE_INDEX` at positions without a target.
        target_counts: H, number of targets over all micro-batches and processes of an optimizer step; None counts
            this batch only. With global counts, the losses of all micro-batches add up to the exact token mean.
        head_weights: H, adding up to 1; None weights all heads equally.
        by_target: return the terms as well.
    """
    batch, num_heads, num_steps, _ = logits.shape
    entropy = F.cross_entropy(
        logits.flatten(0, 2).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    counts, head_weights = _normalization(labels, target_counts, head_weights)
    entropy = entropy.view(batch, num_heads, num_steps)
    per_head = entropy.sum(dim=(0, 2)) / counts
    targets = TargetLosses(entropy.detach(), logits.argmax(-1) == labels) if by_target else None
    return HeadLosses((head_weights * per_head).sum(), per_head, targets)


def _normalization(labels: Tensor, counts: Tensor | None, head_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return each head's number of targets (at least 1) and weight, H float32 each."""
    num_heads = labels.shape[1]
    if counts is None:
        counts = (labels != IGNORE_INDEX).sum(dim=(0, 2))
    if head_weights is None:
        head_weights = torch.full((num_heads,), 1 / num_heads, device=labels.device)
    return counts.to(labels.device).clamp(min=1).float(), head_weights.to(labels.device).float()


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
    # A blend of equal weights rounds differently at each progress, so a run's length would change its losses.
    return torch.where(first == last, first, (1 - blend) * first + blend * last)


def weights_per_head(weights: Tensor, head_codebook: tuple[int, ...]) -> Tensor:
    """Spread K codebook weights over H heads with the same sum."""
    return weights[index_table(head_codebook, weights.device)] * (len(weights) / len(head_codebook))


class _FusedHeads(torch.autograd.Function):
    """Heads and cross-entropy in one pass that never holds the logits of more than one head.

    The gradients of the weighted loss are ready in the forward pass, since the weights of its terms are known there;
    the backward pass scales them and gives them their precision (as in Liger Kernel, Hsu et al. 2024).

    A term's share in the loss is about 1e-6, too small for float16, and a loss scale comes too late for the forward
    pass. So the matrix products take the errors unscaled, between -1 and 1, and the results are
    multiplied by the share and the loss scale in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        targets: Tensor,
        coefficients: Tensor,
        needs_gradients: bool,
        by_target: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the weighted loss, each head's sum of cross-entropies, and the terms of these sums with their hits.

        Args:
            ctx: keeps the gradients.
            states: R x D, rows of all clips and steps.
            targets: H x R, `IGNORE_INDEX` at positions without a target.
            coefficients: H, factor of each head's sum in the loss.
            needs_gradients: false where no backward pass follows.
            by_target: whether the terms (H x R) are returned.
            weights: H matrices, each V x D.
        """
        kind = states.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        rows = states.to(dtype)
        shrink = _sum_shrinkage(len(rows)) if dtype == torch.float16 else 1.0
        summands = rows * shrink if shrink != 1.0 else rows
        gradient_states = torch.zeros_like(states, dtype=torch.float32)
        gradient_weights, sums, entropies, hits = [], [], [], []
        with torch.autocast(kind, enabled=False):
            for weight, target, coefficient in zip(weights, targets, coefficients, strict=True):
                matrix, valid = weight.to(dtype), target != IGNORE_INDEX  # V x D, R
                scores = (rows @ matrix.T).float()  # R x V: the logits of one head, overwritten below to save memory
                picked = target.clamp(min=0)[:, None]
                if by_target:  # before the scores are overwritten
                    hits.append(scores.argmax(dim=-1) == target)
                highest = scores.amax(dim=-1, keepdim=True)
                picked_score = scores.gather(1, picked) - highest
                total = scores.sub_(highest).exp_().sum(dim=-1, keepdim=True)
                entropies.append((total.log() - picked_score)[:, 0] * valid)
                sums.append(entropies[-1].sum())
                if not needs_gradients:
                    continue
                counted = valid[:, None].float()
                # d loss / d logits = softmax - one-hot, and 0 for rows without a target.
                error = scores.mul_(counted / total).scatter_add_(1, picked, -counted).to(dtype)
                gradient_states += (error @ matrix).float() * coefficient
                gradient_weights.append((error.T @ summands).float() * (coefficient / shrink))
        ctx.save_for_backward(gradient_states, *gradient_weights)
        ctx.dtypes = (states.dtype, [weight.dtype for weight in weights])
        per_head = torch.stack(sums)
        terms = (torch.stack(entropies), torch.stack(hits)) if by_target else (None, None)
        ctx.mark_non_differentiable(per_head, *(term for term in terms if term is not None))
        return (per_head * coefficients).sum(), per_head, *terms

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Scale the float32 gradients, then cast each to the precision of its tensor."""
        (states, *weights), (dtype, weight_dtypes) = ctx.saved_tensors, ctx.dtypes
        scaled = ((weight * gradient).to(kind) for weight, kind in zip(weights, weight_dtypes, strict=True))
        return (states * gradient).to(dtype), None, None, None, None, *scaled


def _sum_shrinkage(num_rows: int) -> float:
    """Return the power of two, about 1 / sqrt(rows), that keeps a sum over rows within float16, which ends at 65504.

    No loss scale could avoid such an overflow. A power of two keeps all digits, and the root keeps small states above
    the smallest float16.
    """
    return 2.0 ** -(num_rows.bit_length() // 2)


def fused_head_losses(
    states: Tensor,
    weights: Sequence[Tensor],
    labels: Tensor,
    target_counts: Tensor | None = None,
    head_weights: Tensor | None = None,
    *,
    by_target: bool = False,
) -> HeadLosses:
    """Compute what `head_losses` does from hidden states and head matrices, without keeping logits.

    Args:
        states: B x S x D.
        weights: H matrices V x D.
        labels: B x H x S.
        target_counts: as in `head_losses`.
        head_weights: as in `head_losses`.
        by_target: as in `head_losses`.
    """
    counts, head_weights = _normalization(labels, target_counts, head_weights)
    targets, rows = labels.transpose(0, 1).flatten(1), states.flatten(0, 1)
    chosen: Tensor | None = None
    if rows.device.type == "cpu":
        # Padding costs as much as targets do. On a GPU, skipping it would mean waiting for the number of targets.
        chosen = (targets != IGNORE_INDEX).any(dim=0).nonzero()[:, 0]
        targets, rows = targets.index_select(1, chosen), rows.index_select(0, chosen)
    loss, sums, entropies, hits = _FusedHeads.apply(
        rows, targets, head_weights / counts, torch.is_grad_enabled(), by_target, *weights
    )
    if not by_target:
        return HeadLosses(loss, sums / counts)
    return HeadLosses(
        loss, sums / counts, TargetLosses(_placed(entropies, chosen, labels), _placed(hits, chosen, labels))
    )


def _placed(terms: Tensor, chosen: Tensor | None, labels: Tensor) -> Tensor:
    """Bring terms of the chosen rows (H x R; None: all rows) to the shape of labels, B x H x S."""
    batch, num_heads, num_steps = labels.shape
    if chosen is not None:
        terms = terms.new_zeros(num_heads, batch * num_steps).index_copy(1, chosen, terms)
    return terms.unflatten(1, (batch, num_steps)).transpose(0, 1)
