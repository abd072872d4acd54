"""Pure functions of the step: the learning rate and the weights of the codebooks."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from songgen.models.loss import codebook_weights

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "multistep")

PUBLISHED_COARSE_CODEBOOKS = 3 / 8
"""Share of the codebooks that published training weighs most at its start."""
PUBLISHED_COARSE_SHARE = 0.75
"""What they weigh together."""


@dataclass(frozen=True)
class LearningRateSchedule:
    """Factor of the base learning rate as a function of the number of updates made (a place on the curve).

    Raises:
        ValueError: a setting is out of its range; every problem at once.
    """

    name: str
    """One of `SCHEDULES`."""
    total_steps: int
    """Updates of the whole run; the factor stays at its last value after them."""
    warmup_steps: int = 0
    """Updates over which the factor rises linearly from 0 to 1 (in every schedule but `constant`)."""
    min_ratio: float = 0.0
    """Share of the base learning rate at which a falling schedule ends."""
    restarts: int = 1
    """`cosine_with_restarts`: how many times the factor jumps back up."""
    milestones: tuple[int, ...] = ()
    """`multistep`: the updates at which the factor is multiplied by `gamma`."""
    gamma: float = 0.5
    """`multistep`: the multiplier."""

    def __post_init__(self) -> None:
        """Check the settings against each other."""
        problems = []
        if self.name not in SCHEDULES:
            problems.append(f"lr_scheduler_type {self.name!r} is none of {', '.join(SCHEDULES)}")
        if self.total_steps < 1:
            problems.append(f"a run needs at least one step, got {self.total_steps}")
        if self.warmup_steps < 0:
            problems.append(f"warmup_steps {self.warmup_steps} is negative")
        if not 0.0 <= self.min_ratio <= 1.0:
            problems.append(f"lr_min_ratio is a share of the learning rate, 0 to 1, got {self.min_ratio}")
        if self.restarts < 0:
            problems.append(f"lr_scheduler_restarts {self.restarts} is negative")
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=0) < 0:
            problems.append(f"milestones must rise, got {list(self.milestones)}")
        if self.name == "multistep" and not self.milestones:
            problems.append("the multistep schedule needs milestones")
        if problems:
            raise ValueError("learning rate schedule: " + "; ".join(problems))

    def __call__(self, updates: float) -> float:
        """Factor of the update that follows `updates` updates."""
        if self.name == "constant":
            return 1.0
        if updates < self.warmup_steps:
            return updates / self.warmup_steps
        if self.name == "constant_with_warmup":
            return 1.0
        if self.name == "multistep":
            return float(self.gamma ** bisect_right(self.milestones, updates))
        span = max(1, self.total_steps - self.warmup_steps)
        progress = min(1.0, (updates - self.warmup_steps) / span)
        return self.min_ratio + (1.0 - self.min_ratio) * self._fall(progress)

    def _fall(self, progress: float) -> float:
        """Height, between 1 and 0, after `progress` (0 to 1) of the way behind the warm-up."""
        if self.name == "linear":
            return 1.0 - progress
        if self.name == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if progress >= 1.0:
            return 0.0
        return 0.5 * (1.0 + math.cos(math.pi * (progress * (self.restarts + 1) % 1.0)))


def codebook_start_weights(num_codebooks: int) -> tuple[float, ...]:
    """Published weights at the start of training, carried over to any number of codebooks.

    Returns:
        K weights that sum to 1: the coarse ones (three of eight, rounded up) share three quarters, the others the rest.
        For eight codebooks these are the published numbers, 3 x 0.25 and 5 x 0.05.
    """
    num_coarse = math.ceil(num_codebooks * PUBLISHED_COARSE_CODEBOOKS)
    num_fine = num_codebooks - num_coarse
    coarse_share = PUBLISHED_COARSE_SHARE if num_fine else 1.0
    return (coarse_share / num_coarse,) * num_coarse + tuple((1.0 - coarse_share) / num_fine for _ in range(num_fine))


@dataclass(frozen=True)
class CodebookWeights:
    """Weight of each codebook in the loss over the progress of a run: from one table towards another."""

    start: tuple[float, ...]
    """K weights at the beginning."""
    end: tuple[float, ...]
    """K weights that the blend goes towards."""

    @classmethod
    def build(
        cls, num_codebooks: int, *, weighted: bool, start: Sequence[float] | None, end: Sequence[float] | None
    ) -> CodebookWeights:
        """Fill in the published tables where none are given.

        Args:
            num_codebooks: K.
            weighted: False for equal weights throughout.
            start: K weights (None: as published); scaled to sum to 1.
            end: K weights (None: equal); scaled to sum to 1.

        Raises:
            ValueError: a table has another length than there are codebooks.
        """
        equal = (1.0 / num_codebooks,) * num_codebooks
        if not weighted:
            return cls(equal, equal)
        for name, table in (("codebook_weights_start", start), ("codebook_weights_end", end)):
            if table is not None and len(table) != num_codebooks:
                raise ValueError(f"{name} has {len(table)} weights, the codec {num_codebooks} codebooks: give one each")
        first = codebook_start_weights(num_codebooks) if start is None else tuple(entry / sum(start) for entry in start)
        return cls(first, equal if end is None else tuple(entry / sum(end) for entry in end))

    def __call__(self, step: float, total_steps: int) -> Tensor:
        """Weights of the step that follows `step` of `total_steps` steps: float32 K, with sum 1."""
        return codebook_weights(step / max(1, total_steps), self.start, self.end)
