"""MPEG audio (MP3): a stream of frames with no length, except in an optional Xing, Info or VBRI header.

libsndfile decodes as many frames as such a header declares, or estimates their number from the first bit rate. Both
may be wrong: for files without a header, for joined files, and for recorded streams. So frames are counted here, from
header to header. Where the count differs, the decoder gets the same frames with a header that states their number.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from songgen.data.sound.views import CutShort, NotReadable, Part, Piece

BITRATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""(MPEG 1, or 2 and 2.5; layer) -> kbit/s by the four bits of the header (ISO 11172-3, 13818-3)."""

SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Version bits (3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5) -> sample rates."""

MAX_JUNK_BYTES = 1 << 20
"""Most bytes between two frames that are searched for the next frame."""

CONFIRMING_FRAMES = 3
"""Number of consecutive frame headers that distinguish frames from other bytes."""

COUNT_TOLERANCE = 1
"""Accepted difference of a declared number of frames: some encoders count the header's own frame, some do not."""


@dataclass(frozen=True)
class FrameHeader:
    """Header of one frame."""

    size: int
    """Size in bytes."""

    samples: int
    """Number of samples per channel."""

    kind: tuple[int, int, int, int]
    """Version bits, layer, sample rate, number of channels."""


@dataclass
class _Stream:
    """Frames of one kind that follow one another, from one header with a length to the next."""

    kind: tuple[int, int, int, int]
    first: bytes
    """Header (4 bytes) of the first frame."""
    declared: int | None = None
    """Number of frames that the Xing, Info or VBRI header declares."""
    info: range | None = None
    """Frame of that header, which has no sound."""
    is_vbri: bool = False
    is_cut: bool = False
    """Whether the file ends within the next frame."""
    frames: int = 0
    ranges: list[range] = field(default_factory=list)
    """Bytes of the frames, without the header's frame and without tags in between."""

    def add(self, frame: range) -> None:
        self.frames += 1
        if self.ranges and self.ranges[-1].stop == frame.start:
            self.ranges[-1] = range(self.ranges[-1].start, frame.stop)
        else:
            self.ranges.append(frame)

    @property
    def is_short(self) -> bool:
        return self.declared is not None and self.frames < self.declared - (0 if self.is_cut else COUNT_TOLERANCE)

    @property
    def is_as_declared(self) -> bool:
        return self.declared is not None and abs(self.frames - self.declared) <= COUNT_TOLERANCE


def parse_header(head: bytes) -> FrameHeader | None:
    """Return the content of a frame's first 4 bytes; None if they are not a frame header, or of free bit rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate_index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate_index in (0, 15) or rate_index == 3:
        return None
    is_first = version == 3
    bitrate = 1000 * BITRATES[(1, layer) if is_first else (2, min(layer, 2))][bitrate_index]
    rate = SAMPLE_RATES[version][rate_index]
    if layer == 1:
        size, samples = (12 * bitrate // rate + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and not is_first else 1152
        size = samples // 8 * bitrate // rate + padding
    return FrameHeader(size, samples, (version, layer, rate, 1 if head[3] >> 6 == 3 else 2))


def tag_size(head: bytes) -> int:
    """Return the size of a tag (ID3v2, ID3v1, APE) from its first 32 bytes; 0 if there is none."""
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)  # flag of a footer
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        return int.from_bytes(head[12:16], "little") + (32 if head[23] & 0x20 else 0)
    return 0


def find_frame(file: BinaryIO, start: int, stop: int) -> int | None:
    """Return the position of the first frame that others of its version, layer and rate follow."""
    if start >= stop:
        return None
    file.seek(start)
    content = file.read(min(stop - start, MAX_JUNK_BYTES) + 4)
    place = content.find(b"\xff")
    while place >= 0:
        if _is_confirmed(file, start + place, stop):
            return start + place
        place = content.find(b"\xff", place + 1)
    return None


def _is_confirmed(file: BinaryIO, position: int, stop: int) -> bool:
    kind = None
    for number in range(CONFIRMING_FRAMES):
        if number and position >= stop - 4:
            return position <= stop or number > 1  # the last frames of a file have fewer successors
        file.seek(position)
        head = file.read(32)
        if number and tag_size(head):
            return True
        header = parse_header(head)
        if header is None or (kind is not None and header.kind[:3] != kind):
            return False
        kind = header.kind[:3]
        position += header.size
    return True


def _frames(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[range, FrameHeader, bytes]]:
    """Yield range, header and first bytes of every frame; tags and other bytes in between are passed over.

    The range of the last frame is shorter than its size if the file ends within it.
    """
    position: int | None = start
    header = None
    while position is not None and position < stop - 4:
        file.seek(position)
        head = file.read(192)
        found = parse_header(head)
        if found is None:
            size = tag_size(head)
            position = position + size if size else find_frame(file, position + 1, stop)
            continue
        header = found
        # A recorded stream ends anywhere; what remains of the last frame cannot be decoded.
        yield range(position, min(position + header.size, stop)), header, head
        position += header.size
    if position is not None and header is not None and 0 < stop - position <= 4:
        file.seek(position)
        head = file.read(stop - position)
        if head[0] == 0xFF:
            yield range(position, stop), header, head


def _declared_frames(head: bytes, header: FrameHeader) -> tuple[int | None, bool] | None:
    """Return the number that a Xing, Info or VBRI header declares (None for none), and whether it is VBRI."""
    version, layer, _, channels = header.kind
    if layer != 3:
        return None
    side_info = (32 if channels == 2 else 17) if version == 3 else (17 if channels == 2 else 9)
    # With a checksum (protection bit 0) two more bytes come first; not all encoders that write it count them.
    for place in (4 + side_info, 6 + side_info):
        if head[place : place + 4] in (b"Xing", b"Info"):
            flags = int.from_bytes(head[place + 4 : place + 8], "big")
            frames = int.from_bytes(head[place + 8 : place + 12], "big")
            return (frames if flags & 1 and frames else None), False
    if head[36:40] == b"VBRI":
        return int.from_bytes(head[50:54], "big") or None, True
    return None


def _read_streams(file: BinaryIO, start: int, stop: int) -> Iterator[_Stream]:
    stream = None
    for place, header, head in _frames(file, start, stop):
        declared = _declared_frames(head, header)
        if stream is None or declared is not None or header.kind != stream.kind:
            if stream is not None:
                yield stream
            stream = _Stream(header.kind, head[:4])
        if declared is not None:
            stream.declared, stream.is_vbri = declared
            stream.info = place
        elif len(place) < header.size:
            stream.is_cut = True
        else:
            stream.add(place)
    if stream is not None:
        yield stream


def mpeg_parts(file: BinaryIO, start: int, stop: int, *, is_whole_file: bool) -> list[Part]:
    """Return the parts of MPEG audio.

    Args:
        file: open file.
        start: position of the first frame or tag.
        stop: end of the audio.
        is_whole_file: whether the decoder may get the file itself.

    Raises:
        CutShort: if there are fewer frames than a header declares.
        NotReadable: if there are no frames.
    """
    streams = [stream for stream in _read_streams(file, start, stop) if stream.frames]
    if not streams:
        raise NotReadable("there are no MPEG frames (or only of free bit rate); convert the file to FLAC")
    first = streams[0]
    total = sum(stream.frames for stream in streams)
    kinds = {stream.kind for stream in streams}
    # Tools that join files keep the headers of the files inside, where they decode to silence, and declare the sum.
    num_headers = sum(stream.info is not None for stream in streams[1:])
    if first.declared is not None and len(kinds) == 1 and num_headers:
        joined = total + num_headers
        if abs(first.declared - joined) <= COUNT_TOLERANCE or abs(first.declared - total) <= COUNT_TOLERANCE:
            return [_part(first.first, list(itertools.chain.from_iterable(s.ranges for s in streams)), total)]
    for stream in streams:
        if stream.is_short:
            raise CutShort(f"only {stream.frames} of {stream.declared} declared MPEG frames are there")
    if len(streams) == 1 and first.is_as_declared and not first.is_vbri and len(first.ranges) == 1:
        if is_whole_file:
            return [Part()]
        assert first.info is not None
        return [Part((range(first.info.start, stop),))]
    return [_stream_part(stream) for stream in streams]


def _stream_part(stream: _Stream) -> Part:
    if stream.is_as_declared and not stream.is_vbri and stream.info is not None:
        # The header also states how many samples the encoder has added, which the decoder cuts off.
        return Part((stream.info, *stream.ranges))
    return _part(stream.first, stream.ranges, stream.frames)


def _part(first: bytes, ranges: list[range], frames: int) -> Part:
    """Return frames with an Info header in front that states their number."""
    header = parse_header(first)
    assert header is not None
    pieces: list[Piece] = list(ranges)
    if header.kind[1] == 3:
        return Part((_info_frame(first, frames), *pieces))
    # Layers 1 and 2 have no such header; their bit rate is constant, so the estimate is right.
    return Part(tuple(pieces))


def _info_frame(first: bytes, frames: int) -> bytes:
    """Return an empty frame with an Info header, of the smallest bit rate that has room for it."""
    for bitrate_index in range(1, 15):
        # No checksum, no padding.
        head = bytes((first[0], first[1] | 1, bitrate_index << 4 | first[2] & 0x0C, first[3]))
        header = parse_header(head)
        assert header is not None
        version, _, _, channels = header.kind
        side_info = (32 if channels == 2 else 17) if version == 3 else (17 if channels == 2 else 9)
        body = head + bytes(side_info) + b"Info" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
        if len(body) <= header.size:
            return body + bytes(header.size - len(body))
    raise AssertionError("a frame of the highest bit rate has room for the header")
