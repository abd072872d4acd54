"""Operations on intervals of time."""

from collections.abc import Iterable, Sequence

Interval = tuple[float, float]
"""Start and end in seconds."""


def within(intervals: Iterable[Interval], duration: float) -> list[Interval]:
    """Clip intervals to the duration of a recording; intervals outside of it and empty ones are dropped."""
    cut = [(max(0.0, start), min(duration, end)) for start, end in intervals]
    return [(start, end) for start, end in cut if end > start]


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of the intervals, in order; intervals that only touch are not joined."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def without(intervals: Iterable[Interval], holes: Sequence[Interval]) -> list[Interval]:
    """Return the intervals minus the holes, in order."""
    found: list[Interval] = []
    for start, end in merged(intervals):
        for hole_start, hole_end in merged(holes):
            if hole_end <= start or hole_start >= end:
                continue
            if hole_start > start:
                found.append((start, hole_start))
            start = max(start, hole_end)
        if start < end:
            found.append((start, end))
    return found


def covered_seconds(intervals: Iterable[Interval], span: Interval) -> float:
    """Return how many seconds of a span the intervals cover."""
    start, end = span
    cut = ((max(start, first), min(end, last)) for first, last in intervals)
    return sum(last - first for first, last in merged((first, last) for first, last in cut if last > first))
