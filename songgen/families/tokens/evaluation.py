"""Loss and accuracy by track and codebook over an evaluation set: sums over targets, divided once at the end.

Shapes: B batch, H heads, S decoder steps, V vocabulary, N tracks, K codebooks.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from songgen.layout import TokenLayout

_LOSS, _CORRECT, _TARGETS = range(3)


class TokenMetrics:
    """Sums over the targets of each stream (one codebook of one track), on the device, without waiting for it.

    Args:
        layout: says which stream holds a position.
        device: where the batches are.
    """

    def __init__(self, layout: TokenLayout, device: torch.device | str = "cpu") -> None:
        """Start at zero."""
        self._layout = layout
        owners, _ = layout.stream_table(layout.stride)
        self._stream_of_head: list[list[int]] = owners.tolist()
        # float64 keeps sums over millions of targets exact; Apple's devices do not have it.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self._sums = torch.zeros(3, len(layout.tracks) * layout.num_codebooks, dtype=dtype, device=device)

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
                self._sums[_TARGETS, stream] += phase_mask

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
        by_stream = sums.view(len(sums), len(self._layout.tracks), -1)
        heads = torch.tensor(self._layout.heads).flatten()
        by_head = torch.zeros(len(sums), self._layout.num_heads, dtype=sums.dtype).index_add_(1, heads, sums)
        metrics = _ratios("", by_head)
        for number, track in enumerate(self._layout.tracks):
            metrics |= _ratios(f"{track}/", by_stream[:, number])
            for codebook in range(self._layout.num_codebooks):
                metrics |= _ratios(f"{track}/codebook_{codebook}/", by_stream[:, number, codebook, None])
        return metrics


def _ratios(prefix: str, sums: Tensor) -> dict[str, float]:
    """Return the mean of the mean losses and the accuracy of all groups (3 x groups) that had a target."""
    used = sums[_TARGETS] > 0
    if not used.any():
        return {}
    return {
        f"{prefix}loss": float((sums[_LOSS, used] / sums[_TARGETS, used]).mean()),
        f"{prefix}accuracy": float(sums[_CORRECT].sum() / sums[_TARGETS].sum()),
    }
