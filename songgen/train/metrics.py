"""Loss and accuracy by track and codebook over an evaluation set: sums over targets, divided once at the end.

Shapes: B batch, H heads, S decoder steps, V vocabulary, N tracks, K codebooks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from songgen.layout import TokenLayout

_LOSS, _LOSS_TARGETS, _CORRECT, _ACCURACY_TARGETS = range(4)


class TokenMetrics:
    """Sums over the targets of each stream (one codebook of one track), on the device, without waiting for it.

    Args:
        layout: says which stream holds a position.
        device: where the batches are.
        tracks: names to use for the layout's tracks; None uses its own.
    """

    def __init__(
        self, layout: TokenLayout, device: torch.device | str = "cpu", *, tracks: Sequence[str] | None = None
    ) -> None:
        """Start at zero."""
        self._layout = layout
        self._tracks = tuple(tracks or layout.tracks)
        assert len(self._tracks) == len(layout.tracks), (tracks, layout.tracks)
        owners, _ = layout.stream_table(layout.stride)
        self._stream_of_head: list[list[int]] = owners.tolist()
        # float64 keeps sums over millions of targets exact; Apple's devices do not have it.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self._sums = torch.zeros(4, len(self._tracks) * layout.num_codebooks, dtype=dtype, device=device)

    def update(self, logits: Tensor, labels: Tensor, target_mask: Tensor) -> None:
        """Add a batch.

        Args:
            logits: B x H x S x V.
            labels: B x H x S, as the layout gives them.
            target_mask: B x H x S bool, as the layout gives it.
        """
        for head, streams in enumerate(self._stream_of_head):
            head_logits, mask = logits[:, head].float(), target_mask[:, head]
            head_labels = labels[:, head].masked_fill(~mask, 0)
            losses = cross_entropy(head_logits.transpose(1, 2), head_labels, reduction="none") * mask
            hits = (head_logits.argmax(-1) == head_labels) & mask
            for phase, stream in enumerate(streams):
                phase_mask = mask[:, phase :: self._layout.stride].sum()
                self._sums[_LOSS, stream] += losses[:, phase :: self._layout.stride].sum(dtype=self._sums.dtype)
                self._sums[_CORRECT, stream] += hits[:, phase :: self._layout.stride].sum()
                self._sums[_LOSS_TARGETS, stream] += phase_mask
                self._sums[_ACCURACY_TARGETS, stream] += phase_mask

    def update_heads(self, mean_losses: Tensor, target_counts: Tensor, correct: Tensor | None = None) -> None:
        """Add a batch of which only sums by head are known; for layouts in which each head carries one stream.

        Args:
            mean_losses: H, mean cross-entropy of each head.
            target_counts: H, targets of each head.
            correct: H, right predictions; None leaves the accuracy as it is.
        """
        assert self._layout.stride == 1, "heads that carry several streams can only be told apart by position"
        streams = torch.tensor(self._stream_of_head, device=self._sums.device)[:, 0]
        counts = target_counts.to(self._sums)
        losses = torch.where(counts > 0, mean_losses.to(self._sums) * counts, 0.0)
        self._sums[_LOSS, streams] += losses
        self._sums[_LOSS_TARGETS, streams] += counts
        if correct is not None:
            self._sums[_CORRECT, streams] += correct.to(self._sums)
            self._sums[_ACCURACY_TARGETS, streams] += counts

    def reduce(self, sum_over_processes: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums of this process by those of all; every process calls this once, batches or not."""
        self._sums = sum_over_processes(self._sums)

    def compute(self) -> dict[str, float]:
        """Return the metrics; what had no target is absent.

        `loss` is the mean over heads of each head's mean cross-entropy, as in training with equal weights; `accuracy`
        is the share of all targets; `<track>/loss`, `<track>/accuracy` and `<track>/codebook_<k>/loss`, `.../accuracy`
        split them up.
        """
        sums = self._sums.double().cpu()
        by_stream = sums.view(4, len(self._tracks), -1)
        heads = torch.tensor(self._layout.heads).flatten()
        by_head = torch.zeros(4, self._layout.num_heads, dtype=sums.dtype).index_add_(1, heads, sums)
        metrics = _ratios("", by_head)
        for number, track in enumerate(self._tracks):
            metrics |= _ratios(f"{track}/", by_stream[:, number])
            for codebook in range(self._layout.num_codebooks):
                metrics |= _ratios(f"{track}/codebook_{codebook}/", by_stream[:, number, codebook, None])
        return metrics


def _ratios(prefix: str, sums: Tensor) -> dict[str, float]:
    """Return the mean of the mean losses and the accuracy of all groups (4 x groups) that had a target."""
    metrics = {}
    used = sums[_LOSS_TARGETS] > 0
    if used.any():
        metrics[f"{prefix}loss"] = float((sums[_LOSS, used] / sums[_LOSS_TARGETS, used]).mean())
    if (targets := sums[_ACCURACY_TARGETS].sum()) > 0:
        metrics[f"{prefix}accuracy"] = float(sums[_CORRECT].sum() / targets)
    return metrics
