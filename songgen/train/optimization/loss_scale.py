"""The loss scale of float16 stays between a floor and a cap, and a run ends before it would harm the weights.

Below some scale the gradients of float16 vanish, and updates made of what is left ruin a trained model; far above it
they overflow again and again. So the scale is never lowered below its floor: a step that overflows there is left out,
with a warning, and after a few in a row the run ends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from songgen.train.checkpoints.state import TrainerState
from songgen.train.optimization.anomalies import NonFiniteError
from songgen.train.step import Outcome

logger = logging.getLogger(__name__)


class Scaler(Protocol):
    """What is used of `torch.amp.GradScaler`."""

    def get_scale(self) -> float:
        """The present scale."""

    def update(self, new_scale: float | None = None) -> None:
        """Set the scale."""

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""


@dataclass(frozen=True)
class LossScaleBounds:
    """Holds the loss scale of a run within its bounds."""

    floor: float
    """The scale never falls below it."""
    cap: float
    """The scale begins here and never rises above it."""
    patience: int
    """Steps in a row that may overflow at the floor."""

    def begin(self, scaler: Scaler | None) -> None:
        """Let a scaler that has not been used begin at the cap."""
        if scaler is not None:
            scaler.load_state_dict(scaler.state_dict() | {"scale": self.cap})

    def apply(self, scaler: Scaler | None, outcome: Outcome, state: TrainerState) -> None:
        """Put the scale back within its bounds after a step; every process comes to the same result.

        Args:
            scaler: of the accelerator; None in other precisions, then nothing is done.
            outcome: of the step.
            state: counts the overflows at the floor.

        Raises:
            NonFiniteError: gradients overflowed at the floor more often than `patience` in a row.
        """
        if scaler is None:
            return
        scale = scaler.get_scale()
        if not self.floor <= scale <= self.cap:
            scaler.update(min(max(scale, self.floor), self.cap))
        if outcome is Outcome.UPDATED:
            state.overflows_at_floor = 0
        if outcome is not Outcome.OVERFLOW:
            return
        if scale == self.floor:
            logger.warning(
                "step %d: gradients overflowed in float16 and the loss scale fell to its floor %g; the run ends after "
                "%d more overflows in a row",
                state.step, self.floor, self.patience + 1,
            )  # fmt: skip
        elif scale < self.floor:
            state.overflows_at_floor += 1
            self._require_patience(state)

    def _require_patience(self, state: TrainerState) -> None:
        """Warn of an overflow at the floor, or end the run.

        Raises:
            NonFiniteError: it is one too many.
        """
        message = (
            f"step {state.step}: gradients overflow in float16 although the loss scale is at its floor {self.floor:g}, "
            f"{state.overflows_at_floor} step(s) in a row"
        )
        if state.overflows_at_floor <= self.patience:
            logger.warning("%s; the step is skipped", message)
            return
        state.overflows_at_floor = 0
        raise NonFiniteError(
            f"{message}. A lower scale would let small gradients vanish. Set dtype to bfloat16, or lower learning_rate."
        )
