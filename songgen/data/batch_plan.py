"""Which clips meet in which batch, on which process, in which step: a pure function of (seed, epoch).

The batches of an epoch do not depend on the number of processes or on accumulation; only their grouping into
optimizer steps does. A step takes the next `world_size * accumulation` batches; the last step of an epoch may have
slots with nothing in them. No clip is dropped or repeated.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from songgen.data.seeded_random import BATCH_STREAM, ORDER_STREAM, random_bits, random_permutation

RANDOM, SHORT_TO_LONG, SHORT_TO_LONG_FIRST = "random", "short_to_long", "short_to_long_first_epoch"

ORDERS = (RANDOM, SHORT_TO_LONG, SHORT_TO_LONG_FIRST)
"""Orders of the clips: shuffled; by length in every epoch; by length in the first epoch and shuffled from then on."""

WINDOW_BATCHES = 50
"""Batches in whose reach clips are sorted by length: enough to save padding, few enough to keep the order random."""


class BatchPlan:
    """The order of all clips of a run.

    Args:
        lengths: frames of each clip.
        batch_size: largest number of clips in a micro-batch.
        max_frames_per_batch: largest number of frames in a micro-batch, padding included.
        world_size: processes.
        accumulation: micro-batches of each process in an optimizer step.
        seed: all orders follow from it.
        group_by_length: put clips of similar length together (random order only).
        order: one of `ORDERS`.

    Raises:
        ValueError: naming every argument that cannot work.
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
        order: str = RANDOM,
    ) -> None:
        """Check the arguments; nothing is ordered yet."""
        self.lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self.batch_size = batch_size
        self.max_frames_per_batch = max_frames_per_batch
        self.world_size = world_size
        self.accumulation = accumulation
        self.seed = seed
        self.group_by_length = group_by_length
        self.order = order
        self._latest: tuple[int, list[NDArray[np.int64]]] | None = None
        problems = self._problems()
        if problems:
            raise ValueError("the batches cannot be planned:\n" + "\n".join(f"- {problem}" for problem in problems))

    def _problems(self) -> list[str]:
        """Everything that is wrong with the arguments."""
        problems = []
        if not len(self.lengths):
            problems.append("there are no clips; look at the filters and at the report of the data set")
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
        if self.order not in ORDERS:
            problems.append(f"order must be one of {', '.join(ORDERS)}, got {self.order!r}")
        return problems

    @property
    def slots_per_step(self) -> int:
        """Micro-batches of an optimizer step, over all processes."""
        return self.world_size * self.accumulation

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the micro-batches of an epoch, for any number of processes: arrays of clip indices."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self._make_batches(epoch))
        return self._latest[1]

    def steps_per_epoch(self, epoch: int, skip_batches: int = 0) -> int:
        """Return the optimizer steps of an epoch, of which the first `skip_batches` micro-batches are left out."""
        if self.max_frames_per_batch is None:
            assert self.batch_size is not None
            num_batches = -(-len(self.lengths) // self.batch_size)
        else:
            num_batches = len(self.batches(epoch))
        return -(-max(0, num_batches - skip_batches) // self.slots_per_step)

    def micro_batches(self, epoch: int, rank: int, skip_batches: int = 0) -> list[list[int]]:
        """Return what one process reads.

        Args:
            epoch: from 0.
            rank: of the process, below `world_size`.
            skip_batches: micro-batches of the epoch, over all processes, that are done, by any number of processes;
                steps are counted behind them.

        Returns:
            `accumulation` lists of clip indices for each remaining step; an empty list is a slot with nothing to do.
        """
        assert 0 <= rank < self.world_size, (rank, self.world_size)
        batches = self.batches(epoch)[skip_batches:]
        num_steps = -(-len(batches) // self.slots_per_step)
        sizes = np.full(num_steps * self.slots_per_step, -1, dtype=np.int64)
        sizes[: len(batches)] = self._padded_frames(batches)
        # Slots that run at the same time on different processes get batches of about the same size.
        by_size = np.argsort(-sizes.reshape(num_steps, self.slots_per_step), axis=1, kind="stable")
        slots = by_size + np.arange(num_steps)[:, None] * self.slots_per_step
        own = slots[:, rank :: self.world_size].flatten().tolist()
        return [batches[slot].tolist() if slot < len(batches) else [] for slot in own]

    def _padded_frames(self, batches: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Frames of each batch, padding included."""
        return np.array([self.lengths[batch].max() * len(batch) for batch in batches], dtype=np.int64)

    def _make_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Order the clips and cut the order into batches."""
        count = len(self.lengths)
        if self.order == SHORT_TO_LONG or (self.order == SHORT_TO_LONG_FIRST and epoch == 0):
            ties = random_bits(self.seed, ORDER_STREAM, epoch, 0, count)
            return self._cut(np.lexsort((ties, self.lengths)))
        shuffled = random_permutation(self.seed, ORDER_STREAM, epoch, count)
        if not self.group_by_length:
            return self._cut(shuffled)
        batches = self._cut(self._sort_windows(shuffled))
        batches = [batches[place] for place in random_permutation(self.seed, BATCH_STREAM, epoch, len(batches))]
        largest = int(self._padded_frames(batches).argmax())
        # The largest batch comes first, so that a batch that does not fit into memory fails in the first step.
        batches[0], batches[largest] = batches[largest], batches[0]
        return batches

    def _sort_windows(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort by length, longest first, inside windows of about `WINDOW_BATCHES` batches."""
        clips_per_batch = self.batch_size or len(order)
        if self.max_frames_per_batch is not None:
            clips_per_batch = min(clips_per_batch, int(self.max_frames_per_batch // self.lengths.mean()))
        window = np.arange(len(order)) // (max(1, clips_per_batch) * WINDOW_BATCHES)
        return order[np.lexsort((-self.lengths[order], window))]

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut an order into batches that keep to both limits."""
        if self.max_frames_per_batch is None:
            assert self.batch_size is not None
            return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        most_clips = self.batch_size or len(order)
        bounds, start, longest = [0], 0, 0
        for place, length in enumerate(self.lengths[order].tolist()):
            longest = max(longest, length)
            clips = place - start + 1
            if clips > most_clips or clips * longest > self.max_frames_per_batch:
                bounds.append(place)
                start, longest = place, length
        bounds.append(len(order))
        return [order[begin:end] for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
