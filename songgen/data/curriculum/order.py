"""Order of the clips in each epoch, as phases that follow each other: short to long, shuffled, or balanced by a column.

The order is a pure function of (seed, epoch). An entry of an order is a visit: the number of a clip, plus the number of
clips for each earlier visit to it in the same epoch. Outside of balanced phases every clip is visited once in an epoch,
so that a visit is the number of its clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songgen.data.seeded_random import BALANCE_STREAM, ORDER_STREAM, permutation_of, random_bits, random_permutation

RANDOM, DURATION, BALANCED = "random", "duration", "balanced"

PHASE_KINDS = (RANDOM, DURATION, BALANCED)
"""Kinds of phases: shuffled; from short to long; each group of clips equally often."""


@dataclass(frozen=True)
class Phase:
    """Phase of an order."""

    by: str
    """One of `PHASE_KINDS`."""
    epochs: int | None = None
    """Number of epochs; None for the last phase, which has no end."""
    column: str = ""
    """For balanced phases: column whose values are the groups."""

    def __str__(self) -> str:
        """Return the phase as words."""
        words = {RANDOM: "shuffled", DURATION: "from short to long", BALANCED: f"balanced by {self.column}"}
        return words[self.by]


ORDERS: Mapping[str, tuple[Phase, ...]] = {
    "random": (Phase(RANDOM),),
    "short_to_long": (Phase(DURATION),),
    "short_to_long_first_epoch": (Phase(DURATION, 1), Phase(RANDOM)),
}
"""Orders with a name."""


def parse_order(order: str | Sequence[Mapping[str, Any]]) -> tuple[Phase, ...]:
    """Return the phases of an order: the name of one, or a table for each phase.

    Raises:
        ValueError: if the name is unknown.
    """
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, or a list of phases; got {order!r}")
        return ORDERS[order]
    phases = tuple(Phase(**entry) for entry in order)
    assert phases and phases[-1].epochs is None and all(phase.epochs for phase in phases[:-1]), phases
    return phases


def describe_order(order: str | Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """Return an order as it is stored and compared in checkpoints."""
    return order if isinstance(order, str) else [asdict(phase) for phase in parse_order(order)]


def phase_of(phases: Sequence[Phase], epoch: int) -> tuple[Phase, int]:
    """Return the phase of an epoch and the phase's first epoch."""
    first = 0
    for phase in phases:
        if phase.epochs is None or epoch < first + phase.epochs:
            return phase, first
        first += phase.epochs
    raise AssertionError("the last phase has no end")


def by_length(lengths: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the clips from short to long, those of equal length in random order."""
    ties = random_bits(seed, ORDER_STREAM, epoch, 0, len(lengths))
    return np.lexsort((ties, lengths))


def balanced_visits(groups: NDArray[np.int64], seed: int, epoch: int, first_epoch: int) -> NDArray[np.int64]:
    """Return the visits of an epoch in which each group comes equally often, in random order.

    An epoch has as many visits as there are clips. The visits of the whole phase are numbered, and the groups take them
    in turn. A group goes through its clips in shuffled passes, and an epoch continues the pass in which the last one
    ended. So from the beginning of the phase to the end of any epoch, the visits to two groups, and to two clips of one
    group, differ by one at most.

    Example: 4 clips in the groups A (clips 0, 1, 2) and B (clip 3), so 2 visits each an epoch. A is visited in passes
    such as 2 0 1 | 1 2 0: the epochs visit {2, 0}, {1, 1}, {2, 0}. B is always clip 3, twice an epoch.

    Args:
        groups: number of the group of each clip, without gaps from 0.
        seed: seed of all orders.
        epoch: epoch, from 0.
        first_epoch: first epoch of the phase.
    """
    count, num_groups = len(groups), int(groups.max()) + 1
    numbers = np.arange(count) + (epoch - first_epoch) * count
    turns = random_permutation(seed, BALANCE_STREAM, first_epoch, num_groups)
    group_of_visit, earlier = turns[numbers % num_groups], numbers // num_groups
    visited = np.empty(count, dtype=np.int64)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    own_visits = np.split(
        np.argsort(group_of_visit, kind="stable"), np.cumsum(np.bincount(group_of_visit, minlength=num_groups))[:-1]
    )
    for group, (clips, places) in enumerate(zip(members, own_visits, strict=True)):
        passes, positions = np.divmod(earlier[places], len(clips))
        for number in np.unique(passes).tolist():
            here = passes == number
            bits = random_bits(seed, BALANCE_STREAM, number, group + 1, len(clips))
            visited[places[here]] = clips[permutation_of(bits)[positions[here]]]
    # A second visit to a clip is another number, so that its random crop and voice are others too.
    order = np.argsort(visited, kind="stable")
    sorted_clips = visited[order]
    repetition = np.arange(count) - np.searchsorted(sorted_clips, sorted_clips, side="left")
    visited[order] += repetition * count
    return visited[random_permutation(seed, ORDER_STREAM, epoch, count)]
