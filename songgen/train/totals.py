"""Sums over the steps between two lines of metrics: kept on the device and read once."""

from __future__ import annotations

import math
import time
from itertools import islice

import torch
from torch import Tensor

from songgen.families.objective import Objective
from songgen.runtime.processes.agreement import gather_lists
from songgen.runtime.processes.group import sum_over_processes
from songgen.train.checkpoints.state import MetricSums
from songgen.train.step import Outcome, StepResult


class StepTotals:
    """Sums of losses, norms and counts over the steps since the last report."""

    def __init__(self, objective: Objective, device: torch.device) -> None:
        """Start with nothing.

        Args:
            objective: gives the metrics their names.
            device: device of the losses.
        """
        self._objective = objective
        self._device = device
        self._reset()

    def _reset(self) -> None:
        """Set all sums to zero."""
        self._loss = torch.zeros((), device=self._device)
        self._parts: dict[str, Tensor] = {}
        self._norm = torch.zeros((), device=self._device)
        self._finite_steps = self._bad_steps = self._updates = 0
        # Only for the rates, so over the same time as the clock: a checkpoint does not hold them.
        self._targets = self._samples = 0
        self._started = time.perf_counter()
        self._paused = 0.0

    def add(self, result: StepResult) -> None:
        """Add a step. A step that was not finite only adds its time."""
        if result.outcome in (Outcome.NON_FINITE, Outcome.EMPTY):
            self._bad_steps += result.outcome is Outcome.NON_FINITE
            return
        self._loss += result.objective
        for name, part in result.parts.items():
            # `to`: sums of a checkpoint are on the CPU, in float64.
            self._parts[name] = self._parts[name].to(part) + part if name in self._parts else part
        self._finite_steps += 1
        if result.outcome is Outcome.UPDATED:
            self._norm += result.gradient_norm
            self._updates += 1
        self._targets += result.targets
        self._samples += result.samples

    def exclude(self, seconds: float) -> None:
        """Exclude seconds that were not spent on training from the rates."""
        self._paused += seconds

    def sums(self) -> MetricSums:
        """Return the sums for a checkpoint. Every process must call this."""
        parts = {name: part.tolist() for name, part in self._parts.items()}
        shares = gather_lists([float(self._loss), parts])
        return MetricSums(
            finite_steps=self._finite_steps,
            bad_steps=self._bad_steps,
            updates=self._updates,
            norm=float(self._norm),
            losses=[share[0] for share in shares],
            parts=[share[1] for share in shares],
        )

    def restore(self, sums: MetricSums, rank: int, world_size: int) -> None:
        """Continue with the sums of a checkpoint, unless they come from another number of processes."""
        if len(sums.losses) != world_size:
            return
        self._finite_steps, self._bad_steps, self._updates = sums.finite_steps, sums.bad_steps, sums.updates
        self._loss = torch.tensor(sums.losses[rank], dtype=self._loss.dtype, device=self._device)
        self._norm = torch.tensor(sums.norm, dtype=self._norm.dtype, device=self._device)
        self._parts = {
            name: torch.tensor(values, dtype=torch.float64, device=self._device)
            for name, values in sums.parts[rank].items()
        }

    def report(self, *, reset: bool = True) -> dict[str, float]:
        """Return means over the steps since the last report. Every process must call this.

        Metrics that were not computed are absent. If no step was finite, the loss is NaN.

        Args:
            reset: whether the next report begins with the next step; otherwise it covers these steps, too.

        Returns:
            `loss` (the minimized loss), the metrics of `Objective.training_metrics`, `grad_norm`, `tokens_per_second`,
            `samples_per_second`.
        """
        metrics: dict[str, float] = {}
        if self._finite_steps:  # on every process or none: they agree on each step's outcome
            # One reduction and one transfer to the host for the total and all parts.
            summed = sum_over_processes(torch.cat([self._loss[None], *self._parts.values()]))
            loss, *values = (summed / self._finite_steps).tolist()
            means = iter(values)
            parts = {name: list(islice(means, len(part))) for name, part in self._parts.items()}
            metrics = {"loss": loss} | self._objective.training_metrics(parts)
        elif self._bad_steps:
            metrics["loss"] = math.nan
        if self._updates:
            metrics["grad_norm"] = float(self._norm) / self._updates
        seconds = max(1e-9, time.perf_counter() - self._started - self._paused)
        metrics["tokens_per_second"] = self._targets / seconds
        metrics["samples_per_second"] = self._samples / seconds
        if reset:
            self._reset()
        return metrics
