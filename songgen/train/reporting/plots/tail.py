"""Reads metrics.jsonl while it grows: only its new end, into curves of bounded size.

A page that asks every second must not read 20 MB each time, and must not hold what it has read. `MetricsTail` keeps its
place in the file, and of every metric at most `MAX_BUCKETS` buckets: memory depends on the number of metrics alone.
What a client has not seen yet is found by the number of lines that it has seen, so that no state is kept per client.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from songgen.runtime.files import open_regular
from songgen.runtime.json_files import parse_flat_objects
from songgen.runtime.json_lines import LINE_ERRORS
from songgen.train.reporting.plots.buckets import Buckets, Vector
from songgen.train.reporting.trackers import read_metric

MAX_METRICS = 400
"""Metrics that are kept; a damaged or foreign file cannot fill the memory with names."""

MAX_NAME = 200
"""Characters of the longest name that is kept."""

MAX_LINE_BYTES = 1 << 20
"""A line longer than this is damaged."""

AXES = ("epoch", "time")
"""Values of each line that are no metrics, and tell where a step is: kept as curves as well."""

_CHUNK_BYTES = 1 << 18
_MARK_BYTES = 64
_MAX_MARKS = 1_024
_PLAIN = (float, int, type(None))
_LARGEST = 1e300
"""Values above this are left out: sums of them would not be finite."""


@dataclass(frozen=True)
class _Place:
    """What tells whether a file is still the one that was read, and only grew."""

    device: int
    inode: int
    mark: bytes
    """Bytes before the offset."""


class MetricsTail:
    """Curves of a metrics file that a run appends to, or that a resumed run replaces. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Remember the file, which may not exist yet; nothing is read before `refresh`."""
        self.path = path
        self.lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self.key = secrets.token_hex(4)
        """Name of this reading of the file; another one tells clients to forget what they have."""
        self.lines = 0
        """Number of complete lines."""
        self.damaged = 0
        """Number of lines that could not be read."""
        self.not_finite = 0
        """Number of values that were not finite."""
        self.size = 0
        """Size of the file in bytes."""
        self.offset = 0
        """Bytes that were read."""
        self.has_more = False
        """Whether there was no time to read all of it."""
        self.curves: dict[str, Buckets] = {}
        """Metric -> its curve."""
        self.axes: dict[str, Buckets] = {}
        """Epoch and time over the steps."""
        self._place: _Place | None = None
        self._is_skipping = False  # inside a line that is too long
        self._marks: list[tuple[int, int]] = []  # step, and offset of its line, for `window`
        self._mark_every = _CHUNK_BYTES

    def refresh(self, seconds: float = math.inf) -> None:
        """Read what was appended since; everything, if the file is another one.

        If the file is missing, or is a pipe or folder, the curves are forgotten.

        Args:
            seconds: time after which the rest is left for the next call, so that a page answers at once.

        Raises:
            OSError: if the file exists and cannot be read.
        """
        with self.lock:
            try:
                opened = open_regular(self.path)
            except (FileNotFoundError, NotADirectoryError, ValueError):
                if self._place is not None:
                    self._forget()
                return
            with opened as file:
                if self._place is not None and self._place != self._place_of(file):
                    self._forget()
                self._read(file, time.monotonic() + seconds)
                self._place = self._place_of(file)

    def _place_of(self, file: BinaryIO) -> _Place:
        status = os.fstat(file.fileno())
        file.seek(max(0, self.offset - _MARK_BYTES))
        return _Place(status.st_dev, status.st_ino, file.read(min(self.offset, _MARK_BYTES)))

    def _read(self, file: BinaryIO, deadline: float) -> None:
        """Read complete lines from the offset on; the rest of a line stays for the next time.

        `offset` moves only where lines are taken or bytes of a line that is too long are skipped. What was read of an
        unfinished line (`rest`) is forgotten at the end of the call, and read again by the next one.
        """
        self.size = os.fstat(file.fileno()).st_size
        self.has_more = False
        file.seek(self.offset)
        rest = b""
        while chunk := file.read(_CHUNK_BYTES):
            content = rest + chunk
            end = content.rfind(b"\n") + 1
            if end:
                self._take(content[:end])
                rest = content[end:]
                # Only between lines, or where a line is skipped: what is read of another line is not kept.
                if time.monotonic() > deadline and self.offset + len(rest) < self.size:
                    self.has_more = True
                    return
            else:
                rest = content
            if len(rest) > MAX_LINE_BYTES:
                self.offset += len(rest)
                self._is_skipping, rest = True, b""
                if time.monotonic() > deadline and self.offset < self.size:
                    self.has_more = True
                    return

    def _take(self, content: bytes) -> None:
        """Take complete lines."""
        first, self.offset = self.offset, self.offset + len(content)
        lines = content[:-1].split(b"\n")
        if self._is_skipping or len(content) > MAX_LINE_BYTES:  # a line that is too long, or its end, is damaged
            lines = [b"" if len(line) > MAX_LINE_BYTES else line for line in lines]
            lines[0] = b"" if self._is_skipping else lines[0]
            self._is_skipping = False
        records = parse_lines(lines)
        self.damaged += records.count(None)
        step = next((record["step"] for record in records if record is not None), None)
        if step is not None and (not self._marks or first - self._marks[-1][1] >= self._mark_every):
            self._mark(step, first)
        for columns in columns_of(records, self.lines + 1):
            self._extend(columns)
        self.lines += len(lines)

    def _extend(self, columns: _Columns) -> None:
        """Add the values of some lines to the curves."""
        for name, values in columns.values.items():
            is_finite = np.isfinite(values)
            curves = self.axes if name in AXES else self.curves
            if not is_finite.all():
                self.not_finite += 0 if name in AXES else len(values) - int(is_finite.sum())
            if name not in curves and (len(curves) == MAX_METRICS or len(name) > MAX_NAME or not is_finite.any()):
                continue
            curve = curves.setdefault(name, Buckets())
            curve.extend(columns.lines[is_finite], columns.steps[is_finite], values[is_finite])

    def _mark(self, step: int, offset: int) -> None:
        """Remember where a step is in the file, for some steps evenly spread over it."""
        self._marks.append((step, offset))
        if len(self._marks) > _MAX_MARKS:
            self._marks = self._marks[::2]
            self._mark_every *= 2

    def since(self, key: str = "", line: int = 0) -> dict[str, Any]:
        """Return what a client lacks, for JSON.

        Args:
            key: `key` of the client's last answer; with another one it gets everything.
            line: `lines` of the client's last answer.
        """
        with self.lock:
            line = line if key == self.key else 0
            return {
                "key": self.key,
                "lines": self.lines,
                "read": self.offset,
                "size": self.size,
                "more": self.has_more,
                "damaged": self.damaged,
                "not_finite": self.not_finite,
                "curves": {name: part for name, curve in self.curves.items() if (part := part_of(curve, line))},
                "axes": {name: part for name, curve in self.axes.items() if (part := part_of(curve, line))},
            }

    def window(self, names: Sequence[str], first: float, last: float, seconds: float = math.inf) -> dict[str, Buckets]:
        """Return curves between two steps in detail, for a zoom: only that part of the file is read.

        Args:
            names: the metrics.
            first: first step.
            last: last step.
            seconds: time after which the rest is left out.
        """
        with self.lock:
            before = [offset for step, offset in self._marks if step < first]
            begin, end = (before[-1] if before else 0), self.offset
        deadline = time.monotonic() + seconds
        found = {name: Buckets() for name in names}
        try:
            opened = open_regular(self.path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return found
        with opened as file:
            file.seek(begin)
            while begin < end and time.monotonic() < deadline:
                content = file.read(min(_CHUNK_BYTES, end - begin)) + file.readline(MAX_LINE_BYTES)
                if not content:  # the file became shorter
                    break
                begin += len(content)
                records = parse_lines(content.removesuffix(b"\n").split(b"\n"))
                for columns in columns_of(records, 1):
                    inside = (columns.steps >= first) & (columns.steps <= last)
                    for name in found.keys() & columns.values.keys():
                        chosen = inside & np.isfinite(columns.values[name])
                        values = columns.values[name][chosen]
                        found[name].extend(columns.lines[chosen], columns.steps[chosen], values)
                if any(record is not None and record["step"] > last for record in records[-1:]):
                    break
        return found


def part_of(curve: Buckets, line: int = 0) -> dict[str, Any] | None:
    """Return the buckets of a curve that have changed after a line, for JSON; None if there are none.

    `from` is the number of unchanged buckets before them. Lowest and highest values are only there if buckets hold
    several values.
    """
    first = curve.first_after(line)
    if first == len(curve):
        return None
    steps, values, lowest, highest = curve.columns(first)
    part: dict[str, Any] = {
        "from": first,
        "last": curve.last,
        "steps": np.round(steps, 1).tolist(),
        "values": _short(values),
    }
    return part if curve.width == 1 else part | {"low": _short(lowest), "high": _short(highest)}


def _short(values: Vector) -> list[float]:
    """Return numbers with ten digits: more cannot be seen, and a time in seconds needs as many."""
    exponent = np.floor(np.log10(np.maximum(np.abs(values), 1e-300)))
    scale = 10.0 ** np.clip(9 - exponent, -300, 300)
    shortened: list[float] = (np.round(values * scale) / scale).tolist()
    return shortened


@dataclass(frozen=True)
class _Columns:
    """Values of lines that have the same metrics."""

    lines: NDArray[np.int64]
    """Number of each line."""
    steps: Vector
    """Step of each line."""
    values: dict[str, Vector]
    """Metric -> value in each line; NaN for one that is not a finite number."""


def parse_lines(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """Parse lines of a metrics file; None for each that is damaged, as `read_metric` decides.

    All lines at once take a fraction of the time; with a damaged one among them, each half is tried.
    """
    if len(lines) == 1:
        return [_parsed(lines[0])]
    with suppress(ValueError):
        return [record if type(record.get("step")) is int else None for record in parse_flat_objects(lines)]
    half = len(lines) // 2
    return [*parse_lines(lines[:half]), *parse_lines(lines[half:])]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return read_metric(line)
    except LINE_ERRORS:
        return None


def columns_of(records: Sequence[dict[str, Any] | None], first_line: int) -> Iterator[_Columns]:
    """Yield the values of lines by column, for each run of lines with the same names."""
    numbered = enumerate(records, first_line)
    for names, group in groupby(
        ((number, record) for number, record in numbered if record is not None), lambda entry: tuple(entry[1])
    ):
        entries = list(group)
        columns = zip(*(record.values() for _, record in entries), strict=True)
        values = {name: _numbers(column) for name, column in zip(names, columns, strict=True)}
        steps = values.pop("step")
        yield _Columns(np.array([number for number, _ in entries]), steps, values)


def _numbers(column: Sequence[Any]) -> Vector:
    """Return values as numbers; NaN for everything that is not a finite one."""
    if not set(map(type, column)) <= set(_PLAIN):
        column = [value if type(value) in _PLAIN else None for value in column]
    numbers = np.array(column, dtype=np.float64)  # None becomes NaN
    numbers[~(np.abs(numbers) <= _LARGEST)] = np.nan
    return numbers
