"""Bounds of float16's loss scale: a floor and a cap, and the end of a run that overflows at the floor.

With a low scale, small gradients underflow in float16 and the remaining ones damage a trained model; with a high scale
they overflow again and again. So the scale is never lowered below its floor: a step that overflows there is skipped,
with a warning, and after several in a row the run ends.
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
    """Methods of `torch.amp.GradScaler` that are used."""

    def get_scale(self) -> float:
        """Return the current scale."""

    def update(self, new_scale: float | None = None) -> None:
        """Set the scale."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state."""


@dataclass(frozen=True)
class LossScaleBounds:
    """Bounds of the loss scale, applied after each step."""

    floor: float
    """Lowest scale."""
    cap: float
    """Highest scale, and the one to start with."""
    patience: int
    """Number of steps in a row that may overflow at the floor."""

    def begin(self, scaler: Scaler | None) -> None:
        """Set an unused scaler to the cap."""
        if scaler is not None:
            scaler.load_state_dict(scaler.state_dict() | {"scale": self.cap})

    def apply(self, scaler: Scaler | None, outcome: Outcome, state: TrainerState) -> None:
        """Keep the scale within its bounds after a step. Every process comes to the same result.

        Args:
            scaler: scaler of the accelerator; None in other precisions, for which nothing is done.
            outcome: outcome of the step.
            state: state of the run, which counts the overflows at the floor.

        Raises:
            NonFiniteError: if gradients overflowed at the floor more than `patience` times in a row.
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
            NonFiniteError: if there were too many in a row.
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
