"""Containers of chunks, each with an identifier and a size: WAV, RF64, RIFX, W64, AIFF, CAF, and AU.

libsndfile takes the sound to be as long as the file allows, so a file that was cut looks complete. So the declared size
of the chunk with the sound is compared with the file here. Programs that write to a pipe do not know the size and leave
one of many placeholders; then the sound reaches to the end of the file.
"""

from dataclasses import dataclass
from typing import BinaryIO

from songgen.data.sound.views import CutShort, NotReadable, Part, replaced

W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
"""End of the identifiers of the other chunks of W64."""


@dataclass(frozen=True)
class ChunkFormat:
    """How a container writes its chunks."""

    header_bytes: int
    """Bytes before the first chunk."""

    id_bytes: int = 4
    """Size of an identifier."""

    size_bytes: int = 4
    """Size of a size."""

    order: str = "little"
    """Byte order."""

    alignment: int = 2
    """Chunks begin at multiples of this."""

    counts_header: bool = False
    """Whether the size of a chunk includes identifier and size."""

    sound: bytes = b"data"
    """Identifier of the chunk with the sound."""

    sound_prefix: int = 0
    """Bytes between the head of that chunk and the samples."""

    container_size: int | None = 4
    """Position of the size of the whole; None if there is none."""

    def number(self, content: bytes) -> int:
        """Return an unsigned number."""
        return int.from_bytes(content, self.order)  # type: ignore[arg-type]

    def bytes_of(self, number: int) -> bytes:
        """Return a size in the container's form."""
        return number.to_bytes(self.size_bytes, self.order)  # type: ignore[arg-type]

    def identifier(self, name: bytes) -> bytes:
        """Return the identifier of a chunk."""
        return name + W64_TAIL if self.id_bytes == len(W64_RIFF) else name


WAV = ChunkFormat(12)
FORMATS = {
    b"RIFF": WAV,
    b"RF64": WAV,
    b"BW64": WAV,
    b"RIFX": ChunkFormat(12, order="big"),
    b"FORM": ChunkFormat(12, order="big", sound=b"SSND", sound_prefix=8),
    b"riff": ChunkFormat(40, id_bytes=16, size_bytes=8, alignment=8, counts_header=True, container_size=16),
    b"caff": ChunkFormat(8, size_bytes=8, order="big", alignment=1, sound_prefix=4, container_size=None),
}
"""First four bytes of a file -> how it writes its chunks."""

AU_ORDERS = {b".snd": "big", b"dns.": "little"}
"""First four bytes of an AU file -> byte order."""

HUGE_64_BITS = 1 << 62
"""Sizes of 64 bits from which the size counts as unknown."""

UNKNOWN_32_BITS = (range(0x7EFF0000, 0x80010000), range(0xFFFF0000, 0x100000000))
"""Sizes of 32 bits that count as unknown: the largest signed and unsigned numbers, less headers and rounding (sox
0x7FFFF000 and 0x7F000000, ffmpeg 0xFFFFFFFF, arecord 0x80000000, ...). Files of that size are refused anyway."""

ROUND_BYTES, MIN_ROUND_SIZE = 1_000_000, 1_000_000_000
"""Multiples of the first number, from the second on, count as unknown too: servers of speech declare 10^9 samples."""

MAX_SURPLUS_BYTES = 1024
"""Most bytes by which a declared size may be too large because its writer counted the header as sound."""

MPEG_CODECS = (0x50, 0x55)
"""Codec numbers of a WAV file whose sound is MPEG audio."""

MAX_CHUNKS = 10_000
"""Most chunks of a file; a damaged file may seem to have millions of empty ones."""

MAX_TRAILING_SHARE = 0.01
"""Bytes after the sound, as a fraction of it, that may be something other than chunks."""

MIN_TRAILING_BYTES = 1 << 16
"""Number of such bytes that is always accepted."""


def is_unknown(size: int, size_bytes: int) -> bool:
    """Return whether a declared size is one of the placeholders of programs that write to a pipe (0 aside)."""
    if size_bytes == 8:
        return size >= HUGE_64_BITS
    return any(size in sizes for sizes in UNKNOWN_32_BITS) or (size >= MIN_ROUND_SIZE and size % ROUND_BYTES == 0)


@dataclass
class Sound:
    """The chunk with the sound."""

    place: int
    """Position of the first byte."""

    size: int | None
    """Declared size in bytes; None if it is unknown."""

    changes: dict[range, bytes]
    """Places of the header that the decoder gets in another form, because it would misunderstand them."""

    codec: int = 0
    """Codec number of a WAV file; 0 if there is none."""

    next_file: int | None = None
    """Position of another file that was appended."""


def chunk_sound(file: BinaryIO, start: int, stop: int) -> Sound:
    """Find the chunk with the sound.

    Args:
        file: open file.
        start: position of the container.
        stop: end of the file.

    Raises:
        CutShort: if the file ends within the sound.
        NotReadable: if there is none.
    """
    file.seek(start)
    magic = file.read(4)
    kind = FORMATS[magic]
    head_bytes = kind.id_bytes + kind.size_bytes
    position, codec = start + kind.header_bytes, 0
    size_of_ds64: tuple[int, int] | None = None
    frames_place: int | None = None
    padding = 0
    changes: dict[range, bytes] = {}
    for _ in range(MAX_CHUNKS):
        file.seek(min(position, stop))  # a damaged size may be too large for any file
        head = file.read(head_bytes)
        if len(head) < head_bytes:
            raise NotReadable("the file ends before the chunk with the sound")
        if padding == 1 and not _is_named(head):
            # Some programs leave out the byte that pads an odd chunk.
            file.seek(position - 1)
            shifted = file.read(head_bytes)
            if _is_named(shifted):
                position, head = position - 1, shifted
                changes[range(position, position)] = b"\0"
        name, size = head[: kind.id_bytes], kind.number(head[kind.id_bytes :])
        content = position + head_bytes
        if name == kind.identifier(kind.sound):
            sound = _sound(file, kind, position, size, start, stop, size_of_ds64)
            sound.codec = codec
            sound.changes |= changes
            if sound.size is None and frames_place is not None:
                sound.changes |= _frames_of_aiff(file, frames_place, sound.place, stop)
            _look_behind(file, kind, sound, start, stop)
            return sound
        if name == kind.identifier(b"fmt "):
            codec = kind.number(file.read(2))
        elif name == b"ds64":
            size_of_ds64 = content + 8, kind.number(file.read(16)[8:])
        elif name == b"COMM":
            frames_place = content + 2
        size = max(0, size - (head_bytes if kind.counts_header else 0))
        padding = -size % kind.alignment
        position = content + size + padding
    raise NotReadable(f"the file has more than {MAX_CHUNKS} chunks before its sound")


def _sound(
    file: BinaryIO, kind: ChunkFormat, position: int, size: int, start: int, stop: int, ds64: tuple[int, int] | None
) -> Sound:
    """Return the sound by the declared size of its chunk, which is in another chunk of RF64."""
    size_place = position + kind.id_bytes
    place = size_place + kind.size_bytes + kind.sound_prefix
    surplus = kind.sound_prefix + (kind.id_bytes + kind.size_bytes if kind.counts_header else 0)
    unknown = is_unknown(size, kind.size_bytes)
    if ds64 is not None and unknown:
        size_place, size = ds64
        unknown = size == 0 or is_unknown(size, 8) or is_unknown(size, 4)
        changes = _at(size_place - 8, (stop - start - 8).to_bytes(8, "little"))
        changes |= _at(size_place, (stop - place).to_bytes(8, "little"))
        return Sound(place, None if unknown else size, changes if unknown else {})
    if not unknown and (size > surplus or place >= stop or _is_chunk(file, kind, place, stop)):
        return Sound(place, max(0, size - surplus), {})
    changes = _at(size_place, kind.bytes_of(stop - place + surplus))
    if kind.container_size is not None:
        whole = stop - start - (0 if kind.counts_header else 8)
        changes |= _at(start + kind.container_size, kind.bytes_of(whole))
    return Sound(place, None, changes)


def _at(place: int, new: bytes) -> dict[range, bytes]:
    """Return the change that writes bytes over others."""
    return {range(place, place + len(new)): new}


def _is_named(head: bytes) -> bool:
    """Return whether the head of a chunk begins with an identifier, which is of printable characters."""
    return all(32 <= byte < 127 for byte in head[:4])


def _is_chunk(file: BinaryIO, kind: ChunkFormat, position: int, stop: int) -> bool:
    """Return whether a chunk of plausible name and size begins at a position."""
    file.seek(position)
    head = file.read(kind.id_bytes + kind.size_bytes)
    is_complete = len(head) == kind.id_bytes + kind.size_bytes
    return is_complete and _is_named(head) and position + kind.number(head[kind.id_bytes :]) <= stop


def _frames_of_aiff(file: BinaryIO, place: int, sound: int, stop: int) -> dict[range, bytes]:
    """Return the number of frames, for AIFF files that declare a placeholder and are not compressed."""
    file.seek(place - 2)
    channels, frames, bits = (int.from_bytes(file.read(count), "big") for count in (2, 4, 2))
    if (frames and not is_unknown(frames, 4) and frames < 0x10000000) or not channels or not bits:
        return {}
    return _at(place, ((stop - sound) // (channels * -(-bits // 8))).to_bytes(4, "big"))


def _look_behind(file: BinaryIO, kind: ChunkFormat, sound: Sound, start: int, stop: int) -> None:
    """Look at what follows the sound: other chunks, another file, or sound that the header does not declare.

    Raises:
        CutShort: if the file ends within the sound.
        NotReadable: if much follows that is not chunks.
    """
    if sound.size is None:
        return
    end = sound.place + sound.size
    if end > stop + min(sound.place - start, MAX_SURPLUS_BYTES):
        raise CutShort(f"only {stop - sound.place} of {sound.size} declared bytes of sound are there")
    position = end + -sound.size % kind.alignment
    head_bytes = kind.id_bytes + kind.size_bytes
    for _ in range(MAX_CHUNKS):
        position = min(position, stop)
        file.seek(position)
        head = file.read(head_bytes)
        if head[:4] in FORMATS or head[:4] in AU_ORDERS:
            sound.next_file = position
            return
        if len(head) < head_bytes or not _is_named(head):
            break
        size = kind.number(head[kind.id_bytes :])
        position += (size if kind.counts_header else size + head_bytes) + -size % kind.alignment
    file.seek(position)
    rest = stop - position
    if rest > max(MIN_TRAILING_BYTES, MAX_TRAILING_SHARE * sound.size) and file.read(MIN_TRAILING_BYTES).strip(b"\0"):
        raise NotReadable(
            f"{rest} bytes follow the {sound.size} bytes of sound that the header declares; if they are sound, write "
            "the file again with the right length",
            "length_differs",
        )


def au_sound(file: BinaryIO, start: int, stop: int) -> Sound:
    """Find the sound of an AU file.

    Raises:
        CutShort: if the file ends within the sound.
        NotReadable: if the header is damaged.
    """
    file.seek(start)
    order = AU_ORDERS[file.read(4)]
    offset, size = (int.from_bytes(file.read(4), order) for _ in range(2))  # type: ignore[arg-type]
    place = start + offset
    if place > stop:
        raise NotReadable("the header of the AU file is damaged")
    if is_unknown(size, 4) or (size == 0 and place < stop):
        return Sound(place, None, _at(start + 8, (stop - place).to_bytes(4, order)))  # type: ignore[arg-type]
    if place + size > stop:
        raise CutShort(f"only {max(0, stop - place)} of {size} declared bytes of sound are there")
    file.seek(place + size)
    head = file.read(4)
    return Sound(place, size, {}, next_file=place + size if head in AU_ORDERS or head in FORMATS else None)


def part_of(sound: Sound, start: int, stop: int, *, is_whole_file: bool) -> Part:
    """Return the part of a container for the decoder: the file itself where its header is right."""
    stop = sound.next_file if sound.next_file is not None else stop
    if sound.changes:
        return Part(replaced(range(start, stop), sound.changes))
    return Part() if is_whole_file and sound.next_file is None else Part((range(start, stop),))
