"""OGG (RFC 3533): pages of logical streams, several of which may follow one another ("chained") in one file.

libsndfile decodes the first link of a chain. So the links are found here, and each is decoded by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from songgen.data.sound.views import CutShort, NotReadable, Part

PAGE_HEADER_BYTES = 27

CONTINUED, FIRST, LAST = 0x01, 0x02, 0x04
"""Flags of a page."""

SCAN_BYTES = 1 << 16
"""Bytes that are read at once in the search for the next page."""


@dataclass(frozen=True)
class _Page:
    place: range
    flags: int
    serial: int
    sequence: int


@dataclass
class _Link:
    """Logical streams that are multiplexed, such as sound and a picture."""

    start: int
    stop: int = 0
    open_streams: set[int] = field(default_factory=set)
    """Serial numbers of streams without a last page yet."""
    sequences: dict[int, int] = field(default_factory=dict)
    """Serial number -> sequence number of its latest page."""
    has_begun: bool = False
    """Whether pages other than first ones have been read."""


def _pages(file: BinaryIO, start: int, stop: int) -> Iterator[_Page]:
    """Yield complete pages; other bytes in between are passed over."""
    position = start
    while position + PAGE_HEADER_BYTES <= stop:
        file.seek(position)
        head = file.read(PAGE_HEADER_BYTES)
        if head[:4] != b"OggS":
            position = _find_page(file, position + 1, stop)
            continue
        segments = file.read(head[26])
        end = position + PAGE_HEADER_BYTES + len(segments) + sum(segments)
        if len(segments) < head[26] or end > stop:
            raise CutShort("the last OGG page is not complete")
        serial, sequence = int.from_bytes(head[14:18], "little"), int.from_bytes(head[18:22], "little")
        yield _Page(range(position, end), head[5], serial, sequence)
        position = end


def _find_page(file: BinaryIO, position: int, stop: int) -> int:
    file.seek(position)
    while position < stop:
        content = file.read(SCAN_BYTES)
        place = content.find(b"OggS")
        if place >= 0:
            return position + place
        position += max(1, len(content) - 3)
        file.seek(position)
    return stop


def ogg_parts(file: BinaryIO, start: int, stop: int) -> list[Part]:
    """Return one part for each link of a chain.

    Raises:
        CutShort: if a stream has no last page, or if pages are missing.
        NotReadable: if there are no pages.
    """
    links: list[_Link] = []
    for page in _pages(file, start, stop):
        if page.flags & FIRST and (not links or links[-1].has_begun):
            _check_end(links)
            links.append(_Link(page.place.start))
        if not links:
            raise CutShort("the file begins in the middle of an OGG stream")
        link = links[-1]
        if page.flags & FIRST:
            link.open_streams.add(page.serial)
        else:
            link.has_begun = True
            if page.sequence != link.sequences.get(page.serial, page.sequence - 1) + 1:
                raise CutShort(f"OGG pages are missing before page {page.sequence}")
        link.sequences[page.serial] = page.sequence
        if page.flags & LAST:
            link.open_streams.discard(page.serial)
        link.stop = page.place.stop
    if not links:
        raise NotReadable("there are no OGG pages")
    _check_end(links)
    if len(links) == 1:
        return [Part()] if start == 0 else [Part((range(links[0].start, links[0].stop),))]
    return [Part((range(link.start, link.stop),)) for link in links]


def _check_end(links: list[_Link]) -> None:
    if links and links[-1].open_streams:
        raise CutShort("an OGG stream ends without its last page")
