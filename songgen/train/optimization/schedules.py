"""Learning rate schedules: pure functions of the number of updates."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "multistep")


@dataclass(frozen=True)
class LearningRateSchedule:
    """Factor of the base learning rate as a function of the number of updates (a position on the curve).

    Raises:
        ValueError: if settings are out of range; the message lists all problems.
    """

    name: str
    """Name of the schedule, one of `SCHEDULES`."""
    total_steps: int
    """Number of updates of the whole run; the factor keeps its last value after them."""
    warmup_steps: int = 0
    """Number of updates over which the factor rises linearly from 0 to 1 (all schedules except `constant`)."""
    min_ratio: float = 0.0
    """Share of the base learning rate at which a falling schedule ends."""
    restarts: int = 1
    """Number of times that the factor returns to its peak, for `cosine_with_restarts`."""
    damping: float = 1.0
    """Multiplier of the peak at each restart, for `cosine_with_restarts`."""
    milestones: tuple[int, ...] = ()
    """Updates at which the factor is multiplied by `gamma`, for `multistep`."""
    gamma: float = 0.5
    """Multiplier at each milestone, for `multistep`."""

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
        if not 0.0 < self.damping <= 1.0:
            problems.append(f"lr_scheduler_damping must be above 0 and at most 1, got {self.damping}")
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=0) < 0:
            problems.append(f"milestones must rise, got {list(self.milestones)}")
        if self.name == "multistep" and not self.milestones:
            problems.append("the multistep schedule needs milestones")
        if problems:
            raise ValueError("learning rate schedule: " + "; ".join(problems))

    def __call__(self, updates: float) -> float:
        """Return the factor of the update that follows `updates` updates."""
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
        """Return the height, from 1 to 0, at `progress` (0 to 1) of the part after the warm-up."""
        if self.name == "linear":
            return 1.0 - progress
        if self.name == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if progress >= 1.0:
            return 0.0
        place, number = math.modf(progress * (self.restarts + 1))
        return 0.5 * (1.0 + math.cos(math.pi * place)) * self.damping ** int(number)
