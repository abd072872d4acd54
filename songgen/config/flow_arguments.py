"""Configuration keys of flow-matching models: timesteps of training, and the steps of generation."""

from dataclasses import dataclass
from typing import Literal

from songgen.config.types import PositiveFloat, PositiveInt, Probability


@dataclass(frozen=True, kw_only=True)
class FlowArguments:
    """Flow matching: which timesteps are trained, the timbre reference, and steps of generation in evaluation."""

    shift: PositiveFloat = 3.0
    """For flow-matching models: shift of the timesteps, in training and in evaluation. A time t becomes
    shift * t / (1 + (shift - 1) * t); above 1, more of them are near the noise. 1: no shift."""

    timestep_sampling: Literal["auto", "logit_normal", "uniform", "discrete"] = "auto"
    """For flow-matching models: distribution of the timesteps before the shift. `logit_normal`: most are in the middle;
    `uniform`; `discrete`: the eight steps of a turbo model. auto: discrete for turbo models, logit_normal for
    others."""

    timestep_mean: float = -1.5
    """For `timestep_sampling` logit_normal: mean of the normal distribution before the shift, which raises it by
    log(shift); the lower it is, the more timesteps are near the data. The default with a shift of 3 gives -0.4, as the
    published base models were trained."""

    timestep_std: PositiveFloat = 1.0
    """For `timestep_sampling` logit_normal: standard deviation of the normal distribution."""

    timbre_reference: Probability = 0.0
    """For flow-matching models: probability that a sample has parts of its own clip as the timbre reference, which is
    silence otherwise."""

    num_inference_steps: PositiveInt | None = None
    """For flow-matching models: steps of generation in evaluation. null: 8 for turbo models, 50 for others."""
