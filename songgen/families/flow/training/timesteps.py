"""Timesteps of flow matching: their distribution in training, the shift of the schedule, and bands of them.

A time is the value of the distribution at a quantile: a number from 0 to 1, uniform over the samples, that follows from
the seed of the sample. The four bands are the quarters of the distribution, so that each has as many samples as the
others, whatever the distribution is: equal intervals of time would be empty for the steps of a turbo model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

BANDS = 4
"""Number of bands, each a quarter of the distribution; the first is nearest to the data."""

TURBO_STEPS = 8
"""Number of steps that turbo models were distilled to."""

_FIRST_QUANTILE = 1e-6
"""Smallest quantile: a normal distribution has none at 0."""

Sampling = Literal["logit_normal", "uniform", "discrete"]


@dataclass(frozen=True)
class Timesteps:
    """Distribution of the timesteps."""

    sampling: Sampling
    """`logit_normal`, `uniform`, or `discrete` for the steps of a turbo model."""
    shift: float
    """Shift of the schedule; 1 for none."""
    mean: float = 0.0
    """Mean of the normal distribution, for `logit_normal`."""
    std: float = 1.0
    """Standard deviation of the normal distribution, for `logit_normal`."""

    @property
    def num_strata(self) -> int:
        """Number of evenly spaced quantiles at which a clip is evaluated: one a band, or each discrete step once."""
        return TURBO_STEPS if self.sampling == "discrete" else BANDS

    def at(self, quantiles: Tensor) -> Tensor:
        """Return the times (float32) at quantiles (float64, from 0 to 1) of any shape."""
        if self.sampling == "discrete":
            steps = (quantiles * TURBO_STEPS).long().clamp(max=TURBO_STEPS - 1)
            return turbo_times(self.shift)[steps]
        times = quantiles
        if self.sampling == "logit_normal":
            inner = quantiles.clamp(_FIRST_QUANTILE, 1 - _FIRST_QUANTILE)
            times = torch.sigmoid(self.mean + self.std * torch.special.ndtri(inner))
        return shifted(times, self.shift).float()

    def strata(self, quantiles: Tensor) -> Tensor:
        """Return one time in each stratum of the distribution, in ascending order: B x strata.

        Args:
            quantiles: places in a stratum, float64 from 0 to 1, B; the same in all strata.
        """
        count = self.num_strata
        return self.at((torch.arange(count, dtype=torch.float64) + quantiles[:, None]) / count)

    def path(self, steps: int) -> list[float]:
        """Return the times from noise (1) to data (0) at which songs are generated; a turbo model has its own."""
        if self.sampling == "discrete":
            return [*turbo_times(self.shift).flip(0).tolist(), 0.0]
        return shifted(torch.linspace(1, 0, steps + 1), self.shift).tolist()

    def band_limits(self) -> list[float]:
        """Return the smallest time of each band, and the largest of the last one."""
        return self.at(torch.arange(BANDS + 1, dtype=torch.float64) / BANDS).tolist()


def band_of(quantiles: Tensor) -> Tensor:
    """Return the number of the band, from 0, of each quantile."""
    return (quantiles * BANDS).long().clamp(max=BANDS - 1)


def shifted(times: Tensor, shift: float) -> Tensor:
    """Return times with the shift of a schedule: above 1, more of them are near the noise."""
    return shift * times / (1 + (shift - 1) * times)


def turbo_times(shift: float) -> Tensor:
    """Return the times of the steps of a turbo model, in ascending order, float32.

    These are the operations of diffusers' `AceStepPipeline`, in its precision: trained are the very times at which a
    song is generated.
    """
    return shifted(torch.linspace(1.0, 0.0, TURBO_STEPS + 1), shift)[:-1].flip(0)
