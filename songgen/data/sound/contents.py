"""The parts of any audio file, by its first bytes."""

from pathlib import Path
from typing import BinaryIO

from songgen.data.sound.chunks import AU_ORDERS, FORMATS, MPEG_CODECS, au_sound, chunk_sound, part_of
from songgen.data.sound.flac import MARKER, flac_parts
from songgen.data.sound.mpeg import find_frame, mpeg_parts, tag_size
from songgen.data.sound.ogg import ogg_parts
from songgen.data.sound.views import NotReadable, Part

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".aifc", ".caf", ".w64", ".rf64", ".au", ".snd",
    ".wave",
)  # fmt: skip
"""Extensions of audio files, in any case; what a file is, its content tells."""

MAX_FILES = 1000
"""Most files that may be joined in one."""

FOREIGN_CONTENTS = {
    b"\x30\x26\xb2\x75": "WMA (ASF)",
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"DSD ": "DSD",
    b"FRM8": "DSD",
    b"#!AM": "AMR",
    b".RMF": "RealAudio",
    b"MThd": "MIDI",
    b"ADIF": "AAC",
    b"TTA1": "TrueAudio",
    b"\x0b\x77": "AC-3",
    b"NIST": "NIST Sphere",
    b"Crea": "Creative Voice",
}
"""First bytes of audio files that are not read -> their format."""


def convert_command(suffix: str) -> str:
    """Return a command that converts all files of a folder and its subfolders to FLAC.

    Args:
        suffix: suffix of the files to convert, such as `.m4a`.
    """
    convert = 'ffmpeg -nostdin -i "$1" "${1%.*}.flac"'
    return f"find . -iname '*{suffix.lower()}' -exec sh -c '{convert}' _ {{}} \\;"


def audio_parts(path: Path) -> list[Part]:
    """Return the parts that the decoder reads one after the other.

    Raises:
        CutShort: if the file has less sound than it declares.
        NotReadable: if it is not one of the known containers.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        stop = file.seek(0, 2)
        parts: list[Part] = []
        position: int | None = 0
        while position is not None and len(parts) <= MAX_FILES:
            found, position = _parts_from(file, position, stop, path.suffix)
            parts += found
        if position is not None:
            raise NotReadable(f"more than {MAX_FILES} audio files are joined in this one")
    return parts


def _parts_from(file: BinaryIO, start: int, stop: int, suffix: str) -> tuple[list[Part], int | None]:
    """Return the parts of the container at a position, and the position of the next one."""
    begin = start
    while True:
        file.seek(begin)
        head = file.read(32)
        if head[:3] != b"ID3" or not tag_size(head):
            break
        begin += tag_size(head)  # a tag in front of any format
    magic = head[:4]
    is_whole_file = start == 0
    if magic == MARKER:
        return flac_parts(file, begin, stop), None
    if magic == b"OggS":
        return ogg_parts(file, begin, stop), None
    if magic in FORMATS or magic in AU_ORDERS:
        sound = (chunk_sound if magic in FORMATS else au_sound)(file, begin, stop)
        if sound.codec in MPEG_CODECS:
            end = stop if sound.size is None else sound.place + sound.size
            return mpeg_parts(file, sound.place, end, is_whole_file=False), sound.next_file
        return [part_of(sound, begin, stop, is_whole_file=is_whole_file and begin == 0)], sound.next_file
    _refuse_foreign(head, suffix)
    first = find_frame(file, begin, stop)
    if first is None:
        raise NotReadable("not audio that can be read (WAV, FLAC, OGG, Opus, MP3, AIFF, CAF, AU, W64)")
    return mpeg_parts(file, first, stop, is_whole_file=is_whole_file and first == begin), None


def _refuse_foreign(head: bytes, suffix: str) -> None:
    """Refuse audio of a format that is not read.

    Raises:
        NotReadable: if it is one of the known ones; with a command that converts it.
    """
    name = next((name for magic, name in FOREIGN_CONTENTS.items() if head.startswith(magic)), "")
    if head[4:8] == b"ftyp":
        name = "MP4 (AAC or ALAC)"
    elif head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xF6 == 0xF0:
        name = "AAC"
    if not name:
        return
    if suffix.lower() in AUDIO_SUFFIXES:
        reason = f"the file is of the format {name}, whatever its name says, which is not read: ffmpeg -i FILE NEW.flac"
    else:
        reason = f"the format {name} is not read; convert the files, in their folder: {convert_command(suffix)}"
    raise NotReadable(reason, "unsupported_format")
