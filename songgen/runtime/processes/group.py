"""Operations among the processes of a launch. Each of them also works in a single process."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from songgen.runtime.private_names import default_store, set_timeouts


class StartPatience:
    """Timeout of operations among processes: long until the first step is completed, then `seconds`."""

    def __init__(self, seconds: int) -> None:
        """Keep the timeout of `songgen.runtime.processes.start.start_processes` for now."""
        self.seconds = seconds
        self._ended = False

    def end(self) -> None:
        """Set the timeout of operations among processes to `seconds`. Every process must call this."""
        if self._ended or not is_started():
            return
        self._ended = True
        set_timeouts(self.seconds)


def is_started() -> bool:
    """Return whether there is a process group."""
    return distributed.is_available() and distributed.is_initialized()


def tell(notice: str) -> None:
    """Leave a notice for other processes in the shared store, without waiting for them."""
    if is_started():
        default_store().set(notice, "1")


def hear(notice: str) -> bool:
    """Return whether any process has left a notice."""
    return is_started() and bool(default_store().check([notice]))


def add_to_count(name: str, amount: int) -> int | None:
    """Add to a number that all processes share, without waiting for them, and return it.

    Returns:
        The number; None if this process is alone, or the process that keeps the number is gone.
    """
    if not is_started():
        return None
    try:
        return int(default_store().add(name, amount))
    except distributed.DistError:
        return None


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place; every process gets the sum."""
    if is_started():
        distributed.all_reduce(values)
    return values


def agrees_everywhere(value: int, device: torch.device) -> bool:
    """Return whether a number is the same on all processes. Every process must call this, with its own device."""
    # The maximum of -value is minus the minimum: one reduction gives both.
    extremes = torch.tensor([value, -value], device=device)
    if is_started():
        distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
    highest, lowest = extremes.tolist()
    return bool(highest == -lowest)
