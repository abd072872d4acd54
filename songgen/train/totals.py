"""What happened between two lines of metrics, summed on the device and read once."""

from __future__ import annotations

import math
import time

import torch

from songgen.layout import TokenLayout
from songgen.runtime.distributed import sum_over_processes
from songgen.train.step import Outcome, StepResult


def head_names(layout: TokenLayout) -> list[str]:
    """Name of each head: its codebook, and its track unless the head serves several."""
    owners: list[list[str]] = [[] for _ in range(layout.num_heads)]
    for track, heads in zip(layout.tracks, layout.heads, strict=True):
        for head in heads:
            owners[head].append(track)
    return [
        f"{tracks[0]}/codebook_{codebook}" if len(tracks) == 1 else f"codebook_{codebook}"
        for tracks, codebook in zip(owners, layout.head_codebook, strict=True)
    ]


class StepTotals:
    """Losses, norms and counts of the steps since the last report."""

    def __init__(self, layout: TokenLayout, device: torch.device) -> None:
        """Start with nothing.

        Args:
            layout: names the heads.
            device: where the losses lie.
        """
        self._names = head_names(layout)
        self._device = device
        self._reset()

    def _reset(self) -> None:
        """Forget what was reported."""
        self._losses = torch.zeros(1 + 2 * len(self._names), device=self._device)
        self._norm = torch.zeros((), device=self._device)
        self._finite_steps = self._bad_steps = self._updates = self._targets = self._samples = 0
        self._has_vocal = False
        self._started = time.perf_counter()
        self._paused = 0.0

    def add(self, result: StepResult, *, has_vocal: bool) -> None:
        """Take a step in; one that was not finite adds nothing but its time."""
        if result.outcome in (Outcome.NON_FINITE, Outcome.EMPTY):
            self._bad_steps += result.outcome is Outcome.NON_FINITE
            return
        self._losses += torch.cat([result.objective[None], result.head_losses, result.vocal_losses])
        self._finite_steps += 1
        if result.outcome is Outcome.UPDATED:
            self._norm += result.gradient_norm
            self._updates += 1
        self._targets += result.targets
        self._samples += result.samples
        self._has_vocal = has_vocal

    def exclude(self, seconds: float) -> None:
        """Take time that was not spent on training out of the rates."""
        self._paused += seconds

    def report(self) -> dict[str, float]:
        """Means over the steps since the last report; what was not computed is absent. Every process must call it.

        The loss of steps of which none was finite is NaN.

        Returns:
            `loss` (what was minimized), `unweighted_loss` (plain mean over the heads, nats), `<head>/loss`,
            `vocal_loss`, `grad_norm`, `tokens_per_second`, `samples_per_second`.
        """
        summed = sum_over_processes(self._losses.clone())
        metrics: dict[str, float] = {}
        if self._finite_steps:
            loss, *heads = (summed / self._finite_steps).tolist()
            own, vocal = heads[: len(self._names)], heads[len(self._names) :]
            metrics["loss"] = loss
            metrics["unweighted_loss"] = sum(own) / len(own)
            metrics.update({f"{name}/loss": value for name, value in zip(self._names, own, strict=True)})
            if self._has_vocal:
                metrics["vocal_loss"] = sum(vocal) / len(vocal)
        elif self._bad_steps:
            metrics["loss"] = math.nan
        if self._updates:
            metrics["grad_norm"] = float(self._norm) / self._updates
        seconds = max(1e-9, time.perf_counter() - self._started - self._paused)
        metrics["tokens_per_second"] = self._targets / seconds
        metrics["samples_per_second"] = self._samples / seconds
        self._reset()
        return metrics
