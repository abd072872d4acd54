"""Whether a configuration learned its clip and, if not, the most likely reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from songgen.families.objective import Mastery

SMALL_CHANGE = 1e-4
"""Change of the weights, relative to their size, below which they count as not moved."""

SMALL_DROP = 0.05
"""Share of its initial value that the loss must fall by, so that it counts as falling."""

NEEDED_STEPS = 60
"""Number of steps that a clip takes at the very least; a run that has no time for them is not begun."""


@dataclass
class Findings:
    """What was measured while the clip was trained on."""

    losses: list[float] = field(default_factory=list)
    """Loss of each step."""
    norms: list[float] = field(default_factory=list)
    """Gradient norm of each step, before clipping."""
    mastery: Mastery = field(default_factory=Mastery)
    """When the clip counts as known by heart."""
    known: float | None = None
    """Share of the clip that is predicted (`Objective.known_share`); None if unknown."""
    recall: float | None = None
    """Share of the clip that the model writes by itself (`Objective.recall`); None if not tried."""
    weight_change: float = 0.0
    """Change of the trained weights relative to their size."""
    seconds: float = 0.0
    """Seconds of training."""
    seconds_per_step: float = 0.0
    """Seconds of one step."""
    learning_rate: float = 0.0
    """Learning rate after the warm-up."""
    rate_key: str = "learning_rate"
    """Key of the configuration with this learning rate."""
    has_adapter: bool = False
    """Whether an adapter is trained instead of the model."""
    frozen: tuple[str, ...] = ()
    """Groups of parameters that are not trained."""
    device: str = "cpu"
    """Device of the model."""
    refusal: str = ""
    """Reason why the training could not begin or had to end."""
    too_slow: bool = False
    """Whether training was given up because a step takes too long."""

    @property
    def learned(self) -> bool:
        """Whether the clip was learned by heart."""
        return self.is_known and (self.recall is None or self.recall >= self.mastery.wanted_recall)

    @property
    def is_known(self) -> bool:
        """Whether the model predicts the clip."""
        return (self.known or 0.0) >= self.mastery.wanted


def verdict(found: Findings) -> str:
    """Return the verdict and, if the configuration does not learn, the reason and what to change."""
    return f"it learns: {_numbers(found)}" if found.learned else f"it does not learn: {_reason(found)}"


def _numbers(found: Findings) -> str:
    first, last = _ends(found.losses)
    parts = [f"{len(found.losses)} steps in {found.seconds:.0f} s, loss {first:.3g} -> {last:.3g}"]
    if found.known is not None:
        parts.append(found.mastery.known.format(found.known))
    if found.recall is not None:
        parts.append(found.mastery.recalled.format(found.recall))
    return ", ".join(parts)


def _reason(found: Findings) -> str:
    if found.refusal:
        return found.refusal
    if found.too_slow:
        fix = "fewer seconds (--clip_seconds 1), more time (--seconds), a smaller model"
        fix += ", or a machine with a GPU" * (found.device == "cpu")
        return (
            f"it takes too long here: a step takes {found.seconds_per_step:.1f} s on {found.device}, and at least "
            f"{NEEDED_STEPS} steps are needed. Nothing is known about the configuration. Try {fix}"
        )
    if not found.norms or not max(found.norms) > 0:
        return f"no gradient reaches the trained parameters{_frozen(found)}: something between them and the loss is cut"
    first, last = _ends(found.losses)
    worst = max(found.losses[len(found.losses) // 2 :])
    rate = f"{found.rate_key} {found.learning_rate:g}"
    # Before the losses are looked at: those of random noise rise and fall although the weights stay as they are.
    if math.isfinite(last) and found.weight_change < SMALL_CHANGE and not found.is_known:
        return (
            f"{rate} is too low: after {len(found.losses)} steps the loss is {last:.3g}, at first {first:.3g}, and the "
            f"weights have changed by {found.weight_change:.1g} of their size; try 1e-4 to 1e-3"
        )
    if not math.isfinite(last) or last > (1 + SMALL_DROP) * first or worst > 2 * first:
        return f"the loss rises ({first:.3g} -> {last:.3g}), {rate} is too high; try a tenth of it"
    if last > (1 - SMALL_DROP) * first:
        return (
            f"the loss does not fall ({first:.3g} -> {last:.3g}) although the weights change{_frozen(found)}; {rate} "
            f"may be too high, or what is trained cannot express the clip{_larger_adapter(found)}"
        )
    if not found.is_known:
        if _has_stopped_falling(found.losses):
            return (
                f"the loss fell and then stopped ({_numbers(found)}){_frozen(found)}; "
                f"{'lora_dropout, ' * found.has_adapter}dropout, input_masking, condition_dropout or what is frozen "
                f"keep it from learning the clip by heart{_larger_adapter(found)}, or {rate} is too high"
            )
        fix = f"give more (--seconds), or a higher {rate}"
        return f"the loss falls, but there was no time to learn the clip ({_numbers(found)}); {fix}"
    return (
        f"{found.mastery.knows}, {found.mastery.lacks} ({_numbers(found)}): {found.mastery.reason}. More steps "
        "(--seconds) usually help; if not, training and generation see different conditions"
    )


def _frozen(found: Findings) -> str:
    label = "without an adapter" if found.has_adapter else "frozen"
    return f" ({label}: {', '.join(found.frozen)})" if found.frozen else ""


def _larger_adapter(found: Findings) -> str:
    return ", or the adapter is too small (a higher r, or more target_modules)" if found.has_adapter else ""


def _ends(losses: Sequence[float]) -> tuple[float, float]:
    """Return the loss at the beginning and at the end, as means of a few steps."""
    few = max(1, min(5, len(losses) // 5))
    return (fmean(losses[:few]), fmean(losses[-few:])) if losses else (math.nan, math.nan)


def _has_stopped_falling(losses: Sequence[float]) -> bool:
    """Return whether the last third of the steps lowered the loss by less than a fiftieth."""
    third = len(losses) // 3
    return third > 0 and fmean(losses[-third:]) > 0.98 * fmean(losses[-2 * third : -third])
