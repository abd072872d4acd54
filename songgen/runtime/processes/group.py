"""Operations among the processes of a launch; each works in a process that is alone, too."""

from __future__ import annotations

import multiprocessing
import os

import torch
from torch import Tensor, distributed

from songgen.runtime.private_names import default_store, set_timeouts


class StartPatience:
    """Processes wait long for each other until the first step is done, then only for `seconds`."""

    def __init__(self, seconds: int) -> None:
        """The timeout stays that of `songgen.runtime.processes.start.start_processes` for now."""
        self.seconds = seconds
        self._ended = False

    def end(self) -> None:
        """Let operations among processes fail after `seconds` from now on. Every process must call this."""
        if self._ended or not is_started():
            return
        self._ended = True
        set_timeouts(self.seconds)


def is_started() -> bool:
    """Whether there is a process group."""
    return distributed.is_available() and distributed.is_initialized()


def tell(notice: str) -> None:
    """Leave a notice that other processes can hear; nobody waits."""
    if is_started():
        default_store().set(notice, "1")


def hear(notice: str) -> bool:
    """Whether any process has left a notice."""
    return is_started() and bool(default_store().check([notice]))


def add_to_count(name: str, amount: int) -> int | None:
    """Add to a number that all processes share, and return it; nobody waits.

    Returns:
        the number; None if this process is alone, or the one that keeps the number is gone.
    """
    if not is_started():
        return None
    try:
        return int(default_store().add(name, amount))
    except distributed.DistError:
        return None


def leave_at_once(code: int) -> None:
    """End this process without any clean-up but that of the processes that read data for it."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def sum_over_processes(values: Tensor) -> Tensor:
    """Add a tensor up over all processes, in place; each of them gets the sum."""
    if is_started():
        distributed.all_reduce(values)
    return values


def agrees_everywhere(value: int, device: torch.device) -> bool:
    """Whether a number is the same on all processes; each of them must ask, with a device that they exchange from."""
    extremes = torch.tensor([value, -value], device=device)
    if is_started():
        distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
    highest, lowest = extremes.tolist()
    return bool(highest == -lowest)
