"""FLAC (RFC 9639): frames without a length field; the number of samples is in the first metadata block, or is 0.

The last frame names its place in the stream and ends with a checksum, which tells whether the file is complete and how
many samples it has.
"""

from dataclasses import dataclass
from typing import BinaryIO

from songgen.data.sound.views import CutShort, NotReadable, Part, replaced

MARKER = b"fLaC"

STREAM_INFO_BYTES = 34

TOTAL_PLACE = 4 + 4 + 13
"""Position, after the marker's start, of the 5 bytes whose lower 36 bits are the number of samples."""

TAIL_BYTES = 1 << 18
"""Bytes before the end in which the last frame is searched, if the largest frame is not declared."""

SCAN_BYTES = 1 << 20
"""Bytes that are read at once in the search for a second stream."""

BLOCK_SIZES = {1: 192, **{code: 576 << (code - 2) for code in range(2, 6)},
               **{code: 256 << (code - 8) for code in range(8, 16)}}  # fmt: skip
"""Code in a frame header -> samples of the frame; 6 and 7 say that the number follows."""

RATE_BYTES = {12: 1, 13: 2, 14: 2}
"""Code in a frame header -> bytes of a sample rate that follows."""


def _checksum_table(polynomial: int, bits: int) -> tuple[int, ...]:
    table = []
    for value in range(256):
        register = value << (bits - 8)
        for _ in range(8):
            register = register << 1 ^ (polynomial if register >> (bits - 1) & 1 else 0)
        table.append(register & ((1 << bits) - 1))
    return tuple(table)


_CRC8, _CRC16 = _checksum_table(0x07, 8), _checksum_table(0x8005, 16)


def crc8(content: bytes) -> int:
    """Return the checksum of a frame header."""
    value = 0
    for byte in content:
        value = _CRC8[value ^ byte]
    return value


def crc16(content: bytes) -> int:
    """Return the checksum of a frame; 0 for a frame with its own checksum at its end."""
    value = 0
    for byte in content:
        value = (value << 8 & 0xFFFF) ^ _CRC16[value >> 8 ^ byte]
    return value


@dataclass(frozen=True)
class _StreamInfo:
    block_size: int
    """Smallest block size, which is that of all blocks but the last where block sizes do not vary."""
    max_frame_bytes: int
    total: int


def frame_end(content: bytes, block_size: int) -> tuple[int, int] | None:
    """Return the first sample and the number of samples of the frame whose header begins the bytes; None if none does.

    Args:
        content: bytes that may be a frame header.
        block_size: block size of the stream, for frames that state their number instead of their first sample.
    """
    if len(content) < 6 or content[0] != 0xFF or content[1] & 0xFE != 0xF8 or content[3] & 1:
        return None
    varies, block_code, rate_code = content[1] & 1, content[2] >> 4, content[2] & 15
    if block_code == 0 or rate_code == 15 or content[3] >> 4 > 10:
        return None
    number, place = _coded_number(content, 4)
    if number is None:
        return None
    if block_code in (6, 7):
        length = block_code - 5
        samples = int.from_bytes(content[place : place + length], "big") + 1
        place += length
    else:
        samples = BLOCK_SIZES[block_code]
    place += RATE_BYTES.get(rate_code, 0)
    if len(content) <= place or crc8(content[:place]) != content[place]:
        return None
    return (number if varies else number * block_size), samples


def _coded_number(content: bytes, place: int) -> tuple[int | None, int]:
    """Read a number in the form of UTF-8, extended to 36 bits."""
    first = content[place]
    if first < 0x80:
        return first, place + 1
    length = 8 - (first ^ 0xFF).bit_length()  # ones at the top: length of the whole in bytes
    rest = content[place + 1 : place + length]
    if not 2 <= length <= 7 or len(rest) < length - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
        return None, place
    number = first & (0x7F >> length)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, place + length


def flac_parts(file: BinaryIO, start: int, stop: int) -> list[Part]:
    """Return one part for each stream (files may have been joined).

    Args:
        file: open file.
        start: position of the marker.
        stop: end of the file.

    Raises:
        CutShort: if a stream has fewer samples than it declares, or if its last frame is not complete.
        NotReadable: if the metadata is damaged.
    """
    starts = [start, *_later_markers(file, start + 4, stop)]
    parts = []
    for begin, end in zip(starts, [*starts[1:], stop], strict=True):
        parts.append(_stream_part(file, begin, end, is_whole_file=begin == 0 and end == stop))
    return parts


def _later_markers(file: BinaryIO, position: int, stop: int) -> list[int]:
    found = []
    while position < stop:
        file.seek(position)
        content = file.read(SCAN_BYTES + 8)
        place = content.find(MARKER)
        while 0 <= place < SCAN_BYTES:
            # The marker is followed by the header of the first metadata block: its type and size.
            if content[place + 4 : place + 8] in (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22"):
                found.append(position + place)
            place = content.find(MARKER, place + 4)
        position += SCAN_BYTES
    return found


def _stream_part(file: BinaryIO, start: int, stop: int, *, is_whole_file: bool) -> Part:
    info, audio_start = _read_metadata(file, start, stop)
    stop = _without_tag(file, stop)
    file.seek(audio_start)
    first = frame_end(file.read(32), info.block_size)
    if first is None:
        raise (
            CutShort("the file ends before its first FLAC frame")
            if audio_start >= stop
            else NotReadable("the first FLAC frame is damaged")
        )
    tail = _tail(file, audio_start, stop, info)
    last = _last_frame(tail, info)
    if last is None:
        if not info.total or _seen_samples(tail, info) - first[0] < info.total:
            raise CutShort("the last FLAC frame is not complete")
        # All samples are there, and something else follows: the decoder finds out.
        return Part() if is_whole_file else Part((range(start, stop),))
    found = last[0] + last[1] - first[0]
    if info.total and found < info.total:
        raise CutShort(f"only {found} of {info.total} declared samples are there")
    if found == info.total:
        return Part() if is_whole_file else Part((range(start, stop),))
    # A stream that was written to a pipe declares 0 samples, and a joined one may declare those of its first piece.
    # Such a total keeps the decoder from reading to the end, so it gets the right one.
    file.seek(start + TOTAL_PLACE)
    packed = int.from_bytes(file.read(5), "big") >> 36 << 36 | found
    return Part(
        replaced(range(start, stop), {range(start + TOTAL_PLACE, start + TOTAL_PLACE + 5): packed.to_bytes(5, "big")})
    )


def _read_metadata(file: BinaryIO, start: int, stop: int) -> tuple[_StreamInfo, int]:
    """Return the stream's description and the position after its metadata."""
    file.seek(start + 4)
    head = file.read(4 + STREAM_INFO_BYTES)
    if len(head) < 4 + STREAM_INFO_BYTES or head[0] & 0x7F:
        raise NotReadable("the FLAC metadata is damaged")
    info = _StreamInfo(
        block_size=int.from_bytes(head[4:6], "big"),
        max_frame_bytes=int.from_bytes(head[11:14], "big"),
        total=int.from_bytes(head[17:22], "big") & ((1 << 36) - 1),
    )
    position = start + 4
    is_last = False
    while not is_last:
        if position + 4 > stop:
            raise CutShort("the file ends within its metadata")
        file.seek(position)
        head = file.read(4)
        is_last = bool(head[0] & 0x80)
        position += 4 + int.from_bytes(head[1:4], "big")
    return info, position


def _without_tag(file: BinaryIO, stop: int) -> int:
    """Return the end without an ID3v1 tag, which some programs append."""
    file.seek(max(0, stop - 128))
    return stop - 128 if file.read(3) == b"TAG" else stop


def _tail(file: BinaryIO, start: int, stop: int, info: _StreamInfo) -> bytes:
    begin = max(start, stop - max(TAIL_BYTES, 2 * info.max_frame_bytes))
    file.seek(begin)
    return file.read(stop - begin)


def _last_frame(tail: bytes, info: _StreamInfo) -> tuple[int, int] | None:
    """Return first sample and number of samples of the last frame; None if no complete frame ends the bytes."""
    place = tail.rfind(b"\xff")
    while place >= 0:
        found = frame_end(tail[place : place + 32], info.block_size)
        if found is not None and crc16(tail[place:]) == 0:
            return found
        place = tail.rfind(b"\xff", 0, place)
    return None


def _seen_samples(tail: bytes, info: _StreamInfo) -> int:
    """Return the sample after the last frame that begins in the bytes, complete or not."""
    end, place = 0, tail.find(b"\xff")
    seen: set[int] = set()
    while place >= 0:
        found = frame_end(tail[place : place + 32], info.block_size)
        if found is not None:
            # Other bytes look like a header now and then, but hardly like one that continues another.
            if found[0] in seen:
                end = max(end, sum(found))
            seen.add(sum(found))
        place = tail.find(b"\xff", place + 1)
    return end
