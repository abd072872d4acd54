"""What a folder of songs has in it, shown before it is prepared; no file is opened."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from songgen.data.manifests.folders.song_folder import FOREIGN_SUFFIXES, is_hidden
from songgen.data.manifests.folders.song_texts import JSON_SUFFIXES, LYRICS_SUFFIXES, PLAIN_SUFFIX
from songgen.data.manifests.tables import FOLDER_TABLES, TABLE_SUFFIXES
from songgen.data.sound.contents import AUDIO_SUFFIXES

MAX_FILES = 50_000
"""Number of files after which counting stops; counting so many takes half a second."""

SHOWN_NAMES = 8
"""Number of names that are shown."""


@dataclass
class SongCount:
    """Number of files by kind."""

    songs: int = 0
    """Audio files that can be read."""

    texts: int = 0
    """Files that may contain captions, lyrics or facts."""

    foreign: int = 0
    """Audio files of formats that are not supported."""

    tables: list[str] = field(default_factory=list)
    """Manifests in the folder itself, or the file itself if it is one."""

    names: list[str] = field(default_factory=list)
    """First names of songs."""

    is_complete: bool = True
    """Whether all files were counted."""


def count_songs(path: Path) -> SongCount:
    """Count the files of a folder and its subfolders, or describe a manifest.

    Args:
        path: folder or file.

    Raises:
        ValueError: if it does not exist, or is a file that is not a manifest.
    """
    if path.is_file():
        if path.suffix.lower() in (*TABLE_SUFFIXES, PLAIN_SUFFIX):
            return SongCount(tables=[path.name])
        if path.suffix.lower() in AUDIO_SUFFIXES:
            raise ValueError(f"{path.name} is a single song: choose its folder, or upload it into one of its own")
        raise ValueError(f"{path.name} is not a list of songs; choose a folder or a manifest")
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; choose a folder or a manifest")
    counted = SongCount(tables=[name for name in FOLDER_TABLES if (path / name).is_file()])
    files = _files(path)
    kinds: Counter[str] = Counter()
    for number, file in enumerate(islice(files, MAX_FILES + 1)):
        if number == MAX_FILES:
            counted.is_complete = False
            break
        kind = _kind(file)
        kinds[kind] += 1
        if kind == "song" and len(counted.names) < SHOWN_NAMES:
            counted.names.append(file.relative_to(path).as_posix())
    counted.songs, counted.texts, counted.foreign = kinds["song"], kinds["text"], kinds["foreign"]
    return counted


def _files(path: Path) -> Iterator[Path]:
    """Yield the files of a folder that preparing would look at: hidden ones and hidden folders are left out."""
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = (name for name in subfolders if not is_hidden(name))
        yield from (Path(folder) / name for name in sorted(names) if not is_hidden(name))


def _kind(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix in AUDIO_SUFFIXES:
        return "song"
    if suffix in FOREIGN_SUFFIXES:
        return "foreign"
    return "text" if file.name.lower().endswith((*LYRICS_SUFFIXES, *JSON_SUFFIXES, PLAIN_SUFFIX)) else "other"
