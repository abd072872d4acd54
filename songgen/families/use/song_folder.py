"""Folders of generated songs: requests, states and files. The page makes them, and `songgen generate` fills them.

- `request.json`: options, models, adapters, seed (`SongRequest`)
- `caption.txt`, `lyrics.txt`: texts
- `song_status.json`: state and progress (`songgen.runtime.status`)
- `a.wav`, `b.wav`: song of each take; several songs have numbers (`a-1.wav`), tracks a label (`a.vocal.wav`)
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songgen.families.use.generating import WHOLE_SONG
from songgen.runtime.files import read_regular, write_text_atomic
from songgen.runtime.json_files import read_json
from songgen.runtime.records import Format

SONGS_FOLDER = Path("outputs") / "songs"
"""Folder of the folders of generated songs in a workspace, which is the folder with `datasets` and `outputs`."""

REQUEST_FILE = "request.json"
CAPTION_FILE = "caption.txt"
LYRICS_FILE = "lyrics.txt"

SONG_STATUS_FILE = "song_status.json"
"""Status file of generating the songs of a folder."""

SONG_LOCK_FILE = ".song.lock"
"""Lock that is held while the songs of a folder are generated."""

TEXT_OPTIONS = {"caption": CAPTION_FILE, "lyrics": LYRICS_FILE}
"""Option of `songgen generate` -> file of the folder that holds its text."""

RESERVED_OPTIONS = frozenset({"model", "adapter", "out", "request", "lyrics_file"})
"""Options of `songgen generate` that a request cannot have: they follow from the request itself."""

MAX_TEXT_BYTES = 1 << 20
"""Maximum size of a request, and of a text; a song has some kilobytes."""

_TAKE_NAME = re.compile(r"[a-z]")


@dataclass(frozen=True)
class Take:
    """One of the models that generate the songs of a request."""

    name: str
    """Letter that the names of its files begin with."""
    model: str
    """Model folder or hub id, adapter, run or checkpoint."""
    adapter: tuple[str, ...] = ()
    """Further adapters, `FOLDER[:STRENGTH]`."""


@dataclass(frozen=True)
class SongRequest:
    """What the songs of a folder are generated from: every take gets the same options and the same seed."""

    takes: tuple[Take, ...]
    """Models, one after the other."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `songgen generate` that were given, without models, texts and output file."""
    ending: str = ".wav"
    """Ending of the files, which decides their format."""
    created: float = 0.0
    """Time of the request, in seconds since 1970."""
    schema_version: int = 1
    """Version of this record."""

    def __post_init__(self) -> None:
        """Check the values, which may come from a file of others.

        Raises:
            TypeError: if a value has a wrong type.
            ValueError: if a name is not one letter, is used twice, or there is no take.
        """
        for take in self.takes:
            if not all(isinstance(text, str) for text in (take.model, *take.adapter)):
                raise TypeError("model and adapter of a take are texts")
        if not isinstance(self.options, dict):
            raise TypeError("options is not an object")
        if not isinstance(self.created, int | float) or not math.isfinite(self.created):
            raise TypeError("created is not a time")
        names = [take.name for take in self.takes]
        if not names or len({*names}) < len(names) or not all(map(_TAKE_NAME.fullmatch, names)):
            raise ValueError(f"takes must have different small letters as names, not {', '.join(map(repr, names))}")
        if not re.fullmatch(r"\.[a-z0-9]{2,4}", self.ending):
            raise ValueError(f"{self.ending!r} is not the ending of an audio file")


@dataclass(frozen=True)
class SongFile:
    """One audio file of a folder."""

    take: str
    """Name of the take."""
    song: int
    """Number of the song, from 0."""
    track: str
    """Label of the track, or `WHOLE_SONG`."""
    path: Path
    """The file."""


_FORMAT = Format(SongRequest, 1, fix="ask for the song again on the page", required=frozenset({"options", "created"}))


def write_song_request(folder: Path, request: SongRequest, texts: Mapping[str, str]) -> None:
    """Write a request into a folder.

    Args:
        folder: folder, which exists.
        request: what to generate.
        texts: caption and lyrics, by option; an empty one is not written.

    Raises:
        ValueError: if a text cannot be written as UTF-8.
    """
    for option, name in TEXT_OPTIONS.items():
        if text := texts.get(option, ""):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{option}: character {error.start + 1} is half of one; write it again") from error
            write_text_atomic(folder / name, text)
    # The record comes last: a folder without it was not completed, and is not shown.
    write_text_atomic(folder / REQUEST_FILE, json.dumps(dataclasses.asdict(request), indent=1) + "\n")


def read_song_request(folder: Path) -> SongRequest:
    """Return the request of a folder, which may come from anyone.

    Raises:
        ValueError: if there is none, it cannot be read, or the folder has a link in it: a link named as one of the
            files could make this program show, or overwrite, a file elsewhere.
    """
    path = folder / REQUEST_FILE
    try:
        linked = next((entry for entry in folder.iterdir() if entry.is_symlink()), None)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if linked is not None:
        raise ValueError(f"{linked} is a link, which a folder of songs cannot have; remove it")
    return _FORMAT.read(read_json(path, max_bytes=MAX_TEXT_BYTES), str(path))


def read_song_texts(folder: Path) -> dict[str, str]:
    """Return caption and lyrics of a folder, by option; empty where there is none.

    Raises:
        ValueError: if a file cannot be read.
    """
    texts = {}
    for option, name in TEXT_OPTIONS.items():
        path = folder / name
        try:
            text = read_regular(path, MAX_TEXT_BYTES).decode()
            texts[option] = text.replace("\r\n", "\n").replace("\r", "\n")
        except FileNotFoundError:
            texts[option] = ""
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    return texts


def song_path(out: Path, song: int, num_songs: int, track: str = WHOLE_SONG) -> Path:
    """Return the path of a song's file: out.wav, out.vocal.wav; with several songs out-1.wav, out-1.vocal.wav."""
    number = f"-{song + 1}" if num_songs > 1 else ""
    label = f".{track}" if track else ""
    return out.with_name(f"{out.stem}{number}{label}{out.suffix}")


def song_files(folder: Path, request: SongRequest) -> list[SongFile]:
    """Return the audio files of a folder, in the order of takes, songs and tracks, the whole song first."""
    letters = "".join(take.name for take in request.takes)
    name = re.compile(rf"([{letters}])(?:-([1-9]\d{{0,3}}))?(?:\.(\w{{1,40}}))?{re.escape(request.ending)}", re.ASCII)
    found = []
    for path in folder.iterdir():
        if (match := name.fullmatch(path.name)) and path.is_file():
            found.append(SongFile(match[1], int(match[2] or 1) - 1, match[3] or WHOLE_SONG, path))
    return sorted(found, key=lambda file: (letters.index(file.take), file.song, file.track))
