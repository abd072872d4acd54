"""Exponential moving average of the trained parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from songgen.runtime.private_names import move_all


class MovingAverage:
    """Average of a model's trained parameters over the updates, in float32.

    The decay warms up as min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not dominated by its
    first weights. With sharded parameters, each process averages its own shards.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], decay: float, after_writing: Callable[[], None] = lambda: None
    ) -> None:
        """Start from the present weights.

        Args:
            parameters: trained parameters by name.
            decay: share of the old average that is kept at each update, between 0 and 1.
            after_writing: called after values were written into the parameters.

        Raises:
            ValueError: if the decay is outside (0, 1).
        """
        if not 0.0 < decay < 1.0:
            raise ValueError(f"ema_decay must be between 0 and 1, got {decay}; leave it out for no average")
        self.decay = decay
        self.parameters = dict(parameters)
        self._after_writing = after_writing
        self.averages = {name: entry.detach().float().clone() for name, entry in self.parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the average towards the parameters.

        Args:
            updates: number of weight updates so far, including this one.
        """
        # Warm-up as in TensorFlow's ExponentialMovingAverage (`num_updates`): decay 0.18 after one update, 0.92 after
        # 100, 0.99 after 890; 0.9999 only after 89,990. So the average covers about the last tenth of a short run.
        weight = 1.0 - min(self.decay, (1.0 + updates) / (10.0 + updates))
        averages = list(self.averages.values())
        parameters = [entry.detach().float() for entry in self.parameters.values()]
        move_all(averages, parameters, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Load the averages into the model, and restore the trained weights at the end of the context."""
        trained = {name: entry.detach().clone() for name, entry in self.parameters.items()}
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(trained)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        """Copy values into the model's parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
        self._after_writing()


def averaged_weights(average: MovingAverage | None) -> AbstractContextManager[None]:
    """Return a context in which the model has the averaged weights, if an average is kept."""
    return nullcontext() if average is None else average.applied()
