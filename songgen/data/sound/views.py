"""Files made of parts of another file, without a copy."""

import io
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import soundfile

Piece = bytes | range
"""Bytes in memory, or a range of positions in the file."""


class CutShort(Exception):
    """Raised if a file contains less than it declares; the message says what is missing."""


class NotReadable(Exception):
    """Raised if a file is not one of the known containers, or if its container is damaged."""

    def __init__(self, reason: str, code: str = "unreadable_audio") -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Part:
    """Part of a file that libsndfile decodes by itself, such as one link of a chained OGG file."""

    pieces: tuple[Piece, ...] = ()
    """Content of the part, in order; empty for the unchanged file."""


class Spliced(io.RawIOBase):
    """Read-only file that consists of pieces.

    Args:
        file: open file that the ranges refer to.
        pieces: content in order.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = [piece for piece in pieces if len(piece)]
        self._ends = list(accumulate(len(piece) for piece in self._pieces))
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1] if self._ends else 0}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the pieces go, and return the number of bytes."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target):
            index = bisect_right(self._ends, self._position)
            if index == len(self._pieces):
                break
            piece = self._pieces[index]
            begin = self._position - (self._ends[index] - len(piece))
            wanted = min(len(piece) - begin, len(target) - done)
            if isinstance(piece, range):
                self._file.seek(piece[begin])
                content = self._file.read(wanted)
            else:
                content = piece[begin : begin + wanted]
            if not content:
                break
            target[done : done + len(content)] = content
            done += len(content)
            self._position += len(content)
        return done


@contextmanager
def open_part(path: Path, part: Part) -> Iterator[soundfile.SoundFile]:
    """Open a part for decoding."""
    if not part.pieces:
        with soundfile.SoundFile(str(path)) as sound:
            yield sound
        return
    with path.open("rb") as file, soundfile.SoundFile(Spliced(file, part.pieces)) as sound:
        yield sound


def replaced(content: range, changes: Mapping[range, bytes]) -> tuple[Piece, ...]:
    """Return the pieces of a range of a file in which some ranges are replaced by other bytes, or by none."""
    pieces: list[Piece] = []
    position = content.start
    for place, new in sorted(changes.items(), key=lambda change: change[0].start):
        assert position <= place.start and place.stop <= content.stop, (position, place, content)
        pieces += [range(position, place.start), new]
        position = place.stop
    return (*pieces, range(position, content.stop))
