"""Assignment of clips to batches, processes and steps: a pure function of (seed, epoch).

The batches of an epoch do not depend on the number of processes or on accumulation; only their grouping into
optimizer steps does. A step takes the next `world_size * accumulation` batches, its slots; the last step of an epoch
may have empty slots. No clip is dropped or repeated, except in epochs that are balanced by a column (see
`songgen.data.curriculum.order`).

Example: 7 batches (their padded frames in parentheses), 2 processes, 2 accumulated batches, so 4 slots per step. Within
a step, the slots are sorted by size and dealt out in turn, so that processes get batches of about the same size at the
same time and wait less for each other:

    batches      A(90)  B(40)  C(80)  D(50)  |  E(30)  F(70)  G(60)
    sorted       A      C      D      B      |  F      G      E      empty
    process 0    A             D             |  F             E
    process 1           C             B      |         G             empty
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songgen.data.curriculum.order import BALANCED, DURATION, balanced_visits, by_length, parse_order, phase_of
from songgen.data.seeded_random import BATCH_STREAM, ORDER_STREAM, random_permutation

WINDOW_BATCHES = 50
"""Batches per window in which clips are sorted by length: many to save padding, few to keep the order random."""


class BatchPlan:
    """Plan of all batches of a run.

    Args:
        lengths: Number of frames of each clip.
        batch_size: Maximum number of clips in a micro-batch.
        max_frames_per_batch: Maximum number of frames in a micro-batch, including padding.
        world_size: Number of processes.
        accumulation: Micro-batches of each process in an optimizer step.
        seed: Seed of all orders.
        group_by_length: Whether to put clips of similar length together, unless they are in the order of their length.
        order: Name of an order, or its phases; see `songgen.data.curriculum.order`.
        groups: Column -> number of the group of each clip, for the columns of balanced phases.

    Raises:
        ValueError: if arguments are wrong; the message lists all of them.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.integer],
        *,
        batch_size: int | None = None,
        max_frames_per_batch: int | None = None,
        world_size: int = 1,
        accumulation: int = 1,
        seed: int = 0,
        group_by_length: bool = False,
        order: str | Sequence[Mapping[str, Any]] = "random",
        groups: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> None:
        self.lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self.batch_size = batch_size
        self.max_frames_per_batch = max_frames_per_batch
        self.world_size = world_size
        self.accumulation = accumulation
        self.seed = seed
        self.group_by_length = group_by_length
        self.order = order
        self.groups = groups or {}
        self._latest: tuple[int, list[NDArray[np.int64]]] | None = None
        problems = self._problems()
        if problems:
            raise ValueError("the batches cannot be planned:\n" + "\n".join(f"- {problem}" for problem in problems))

    def _problems(self) -> list[str]:
        """Return all problems with the arguments."""
        problems = []
        if not len(self.lengths):
            problems.append("there are no clips; check the filters and the report of the data set")
        elif self.lengths.min() < 1:
            problems.append(f"{int((self.lengths < 1).sum())} clips have no frames")
        if self.batch_size is None and self.max_frames_per_batch is None:
            problems.append("give batch_size, max_frames_per_batch or both")
        for name in ("batch_size", "max_frames_per_batch", "world_size", "accumulation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} must be at least 1, got {value}")
        budget = self.max_frames_per_batch
        if budget is not None and len(self.lengths) and self.lengths.max() > budget >= 1:
            problems.append(
                f"{int((self.lengths > budget).sum())} clips are longer than max_frames_per_batch = {budget} "
                f"(the longest has {self.lengths.max()} frames): raise it or lower max_duration_in_seconds"
            )
        try:
            self.phases = parse_order(self.order)
        except ValueError as error:
            problems.append(str(error))
        return problems

    @property
    def slots_per_step(self) -> int:
        """Micro-batches of an optimizer step, over all processes."""
        return self.world_size * self.accumulation

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the micro-batches of an epoch over all processes: arrays of visits, see `curriculum.order`."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self._make_batches(epoch))
        return self._latest[1]

    def steps_per_epoch(self, epoch: int, skip_batches: int = 0) -> int:
        """Return the number of optimizer steps of an epoch without its first `skip_batches` micro-batches."""
        if self.max_frames_per_batch is None:
            assert self.batch_size is not None
            num_batches = -(-len(self.lengths) // self.batch_size)
        else:
            num_batches = len(self.batches(epoch))
        return -(-max(0, num_batches - skip_batches) // self.slots_per_step)

    def micro_batches(self, epoch: int, rank: int, skip_batches: int = 0) -> list[list[int]]:
        """Return the micro-batches of one process.

        Args:
            epoch: Epoch, from 0.
            rank: Rank of the process.
            skip_batches: Completed micro-batches of the epoch over all processes, whose number may have been another;
                steps are counted from there.

        Returns:
            `accumulation` lists of visits for each remaining step; an empty list is an empty slot.
        """
        assert 0 <= rank < self.world_size, (rank, self.world_size)
        batches = self.batches(epoch)[skip_batches:]
        num_steps = -(-len(batches) // self.slots_per_step)
        # steps x slots: padded frames of each batch, -1 for an empty slot, which is therefore sorted last.
        sizes = np.full(num_steps * self.slots_per_step, -1, dtype=np.int64)
        sizes[: len(batches)] = self._padded_frames(batches)
        # Deal the slots out by size, so that batches that run at the same time are of about the same size.
        by_size = np.argsort(-sizes.reshape(num_steps, self.slots_per_step), axis=1, kind="stable")
        slots = by_size + np.arange(num_steps)[:, None] * self.slots_per_step
        own = slots[:, rank :: self.world_size].flatten().tolist()
        return [batches[slot].tolist() if slot < len(batches) else [] for slot in own]

    def _padded_frames(self, batches: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return the number of frames of each batch, including padding."""
        return np.array([self._lengths_of(batch).max() * len(batch) for batch in batches], dtype=np.int64)

    def _lengths_of(self, visits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of frames of each visited clip."""
        return self.lengths[visits % len(self.lengths)]

    def _make_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Order the clips of an epoch and divide them into batches."""
        phase, first_epoch = phase_of(self.phases, epoch)
        if phase.by == DURATION:
            return self._cut(by_length(self.lengths, self.seed, epoch))
        if phase.by == BALANCED:
            shuffled = balanced_visits(self.groups[phase.column], self.seed, epoch, first_epoch)
        else:
            shuffled = random_permutation(self.seed, ORDER_STREAM, epoch, len(self.lengths))
        if not self.group_by_length:
            return self._cut(shuffled)
        batches = self._cut(self._sort_windows(shuffled))
        batches = [batches[place] for place in random_permutation(self.seed, BATCH_STREAM, epoch, len(batches))]
        largest = int(self._padded_frames(batches).argmax())
        # The largest batch is first, so that running out of memory shows in the first step.
        batches[0], batches[largest] = batches[largest], batches[0]
        return batches

    def _sort_windows(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort clips by length, longest first, within windows of about `WINDOW_BATCHES` batches."""
        clips_per_batch = self.batch_size or len(order)
        if self.max_frames_per_batch is not None:
            clips_per_batch = min(clips_per_batch, int(self.max_frames_per_batch // self.lengths.mean()))
        window = np.arange(len(order)) // (max(1, clips_per_batch) * WINDOW_BATCHES)
        return order[np.lexsort((-self._lengths_of(order), window))]

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Divide an order into batches within both limits."""
        if self.max_frames_per_batch is None:
            assert self.batch_size is not None
            return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        most_clips = self.batch_size or len(order)
        bounds, start, longest = [0], 0, 0
        # Greedy: a batch grows until the next clip would exceed a limit. Its cost is clips x longest clip (padding).
        for place, length in enumerate(self._lengths_of(order).tolist()):
            longest = max(longest, length)
            clips = place - start + 1
            if clips > most_clips or clips * longest > self.max_frames_per_batch:
                bounds.append(place)
                start, longest = place, length
        bounds.append(len(order))
        return [order[begin:end] for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
