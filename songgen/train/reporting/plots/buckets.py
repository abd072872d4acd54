"""A metric over the steps in bounded memory: means, lowest and highest values of equally many neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_BUCKETS = 1_000
"""Buckets of a curve: a picture has no more columns. It is an even number."""

Vector = NDArray[np.float64]

_COMBINE = (np.add, np.add, np.minimum, np.maximum)
"""Functions that combine the steps, the values, the lowest and the highest values of neighbours."""


class Buckets:
    """One metric over the steps: at most `limit` buckets of equally many values each.

    When they are full, neighbours are merged, so that a bucket holds 1, 2, 4, 8, ... values. Where a value goes depends
    on its number alone, and not on the pieces in which the values arrive.
    """

    def __init__(self, limit: int = MAX_BUCKETS) -> None:
        """Start empty; `limit` is an even number."""
        self.width = 1
        """Number of values per bucket; the last one may hold fewer."""
        self.count = 0
        """Number of values."""
        self.merged_at = 0
        """Line at which neighbours were last merged: whoever has seen fewer lines needs all buckets again."""
        self.last = (0.0, 0.0)
        """Newest step and value."""
        self._limit = limit
        # Sums of steps, sums of values, lowest and highest values of each bucket.
        self._columns = [np.zeros(0) for _ in _COMBINE]
        self._lines: NDArray[np.int64] = np.zeros(0, np.int64)  # last line of each bucket

    def __len__(self) -> int:
        """Return the number of buckets."""
        return len(self._lines)

    def extend(self, lines: NDArray[np.int64], steps: Vector, values: Vector) -> None:
        """Add finite values, with their steps and the numbers of their lines."""
        if not len(values):
            return
        # With a limit of 4, 5 values in buckets of 2 (2 + 2 + 1), and 5 more: 10 values would need 5 buckets, so
        # neighbours are merged first (4 + 1). Of the new ones, 3 fill the last bucket, and 2 begin another (4 + 4 + 2).
        total = self.count + len(values)
        while -(-total // self.width) > self._limit:
            self._merge(int(lines[-1]))
        # The bucket of each new value, and where in the new values each of these buckets begins.
        bucket = np.arange(self.count, total) // self.width
        starts = np.flatnonzero(np.diff(bucket, prepend=bucket[0] - 1))
        added_columns = (steps, values, values, values)
        new = [function.reduceat(column, starts) for function, column in zip(_COMBINE, added_columns, strict=True)]
        new_lines = lines[np.append(starts[1:], len(lines)) - 1]
        if bucket[0] < len(self):  # the last bucket was not full
            for function, column, added in zip(_COMBINE, self._columns, new, strict=True):
                column[-1] = function(column[-1], added[0])
            self._lines[-1] = new_lines[0]
            new, new_lines = [added[1:] for added in new], new_lines[1:]
        self._columns = [np.concatenate(pair) for pair in zip(self._columns, new, strict=True)]
        self._lines = np.concatenate([self._lines, new_lines])
        self.count, self.last = total, (float(steps[-1]), float(values[-1]))

    def _merge(self, line: int) -> None:
        """Merge pairs of neighbours; the last one may stay alone."""
        starts = np.arange(0, len(self), 2)
        if len(starts):
            pairs = zip(_COMBINE, self._columns, strict=True)
            self._columns = [function.reduceat(column, starts) for function, column in pairs]
            self._lines = self._lines[np.minimum(starts + 1, len(self) - 1)]
        self.width *= 2
        self.merged_at = line

    def first_after(self, line: int) -> int:
        """Return the number of the first bucket that has changed after a line."""
        return 0 if line < self.merged_at else int(np.searchsorted(self._lines, line, side="right"))

    def columns(self, first: int = 0) -> tuple[Vector, Vector, Vector, Vector]:
        """Return mean steps, mean values, lowest and highest values of the buckets from one on."""
        sizes = np.full(len(self), float(self.width))
        if len(self):
            sizes[-1] = self.count - self.width * (len(self) - 1)
        steps, values, lowest, highest = (column[first:] for column in self._columns)
        return steps / sizes[first:], values / sizes[first:], lowest, highest
