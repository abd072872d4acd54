"""Loss and accuracy by track and codebook over an evaluation set: sums over targets, divided once at the end.

The terms are those of the training loss (`songgen.models.loss.TargetLosses`), summed by stream instead of by head.

Shapes: B batch, H heads, S decoder steps, N tracks, K codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from songgen.layout import TokenLayout
from songgen.models.modeling_songgen import SongGenOutput

_LOSS, _CORRECT, _TARGETS = range(3)


@dataclass(frozen=True)
class TokenSums:
    """Sums over the targets of each stream (one codebook of one track) and of the vocal heads, as a vector.

    The vector is 3 x N x K sums of entropies, hits and targets, then 2 x H sums of the vocal heads' entropies and
    targets (zero without vocal heads).
    """

    layout: TokenLayout
    """Token layout, which gives the stream of a head at a step."""

    @property
    def num_streams(self) -> int:
        """Number of streams: N x K."""
        return len(self.layout.tracks) * self.layout.num_codebooks

    def of_batch(self, output: SongGenOutput) -> Tensor:
        """Sum a micro-batch, on its device and without waiting for it.

        Args:
            output: output of a model in evaluation mode, called with `target_counts` of 1.
        """
        entropies, hits, mask = output.target_losses, output.target_hits, output.target_mask
        assert entropies is not None and hits is not None and mask is not None, "the model is in training mode"
        device = entropies.device
        # float64 keeps sums over millions of targets exact; Apple's devices do not have it.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        streams = torch.zeros(3, self.num_streams, dtype=dtype, device=device)
        owners, _ = self.layout.stream_table(self.layout.stride)
        for head, of_phase in enumerate(owners.tolist()):
            # In interleaving layouts, several streams take turns at a head's steps: the stream repeats every `stride`
            # steps.
            for phase, stream in enumerate(of_phase):
                steps = slice(phase, None, self.layout.stride)
                streams[_LOSS, stream] += entropies[:, head, steps].sum(dtype=dtype)
                streams[_CORRECT, stream] += hits[:, head, steps].sum()
                streams[_TARGETS, stream] += mask[:, head, steps].sum()
        vocal = torch.zeros(2, self.layout.num_heads, dtype=dtype, device=device)
        if output.vocal_codebook_losses is not None:
            vocal[0], vocal[1] = output.vocal_codebook_losses, mask.sum(dim=(0, 2))
        return torch.cat([streams.flatten(), vocal.flatten()])

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Return the metrics by name; those without targets are absent.

        `loss` is the mean over heads of each head's mean cross-entropy, as in training with equal weights; `accuracy`
        is the share of all targets; `<track>/loss`, `<track>/accuracy` and `<track>/codebook_<k>/loss`, `.../accuracy`
        split them up. `vocal_loss` is the mean over the vocal heads.

        Args:
            sums: sum of the vectors of `of_batch`.
        """
        flat = sums.double().cpu()
        streams = flat[: 3 * self.num_streams].view(3, -1)
        by_stream = streams.view(3, len(self.layout.tracks), -1)
        heads = torch.tensor(self.layout.heads).flatten()
        by_head = torch.zeros(3, self.layout.num_heads, dtype=flat.dtype).index_add_(1, heads, streams)
        metrics = _ratios("", by_head)
        for number, track in enumerate(self.layout.tracks):
            metrics |= _ratios(f"{track}/", by_stream[:, number])
            for codebook in range(self.layout.num_codebooks):
                metrics |= _ratios(f"{track}/codebook_{codebook}/", by_stream[:, number, codebook, None])
        entropy, targets = flat[3 * self.num_streams :].view(2, -1)
        if targets.any():
            metrics["vocal_loss"] = float((entropy / targets).mean())
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
