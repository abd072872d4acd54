"""Separated tracks of songs by the names that separators and DAWs give them.

A track may be next to its song (`song_vocal.wav`, `song (Vocals).wav`, `1_song_(Instrumental).wav`), in a folder of the
song's name (`htdemucs/song/vocals.wav`, `song/accompaniment.wav`), or in a folder of the track's (`vocals/song.wav`).
"""

import itertools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from songgen.data.manifests.raw_rows import plain_name
from songgen.tasks import ACCOMPANIMENT, MIX, VOCAL

ROLES = {
    VOCAL: ("vocal", "vocals", "vox", "lead vocal", "lead vocals", "acapella", "acappella", "a cappella"),
    ACCOMPANIMENT: (
        "acc", "accompaniment", "instrumental", "instrumentals", "instrum", "inst", "no vocals", "no vocal", "novocals",
        "minus vocals", "karaoke", "backing", "backing track",
        "background",
    ),
    MIX: ("mix", "mixture", "original mix", "full mix"),
}  # fmt: skip
"""Track -> names that files of it have, in order of preference; `_` and `-` count as blanks."""

PARTS = ("drums", "bass", "other", "guitar", "piano", "keys", "strings", "synth", "percussion", "wind", "crowd")
"""Names of parts of the accompaniment, which alone are not a track and not a song."""

_TRACK_OF = {name: track for track, names in ROLES.items() for name in names}

_PREFERENCE = {name: place for names in ROLES.values() for place, name in enumerate(names)}


def _any_of(names: Iterable[str]) -> str:
    return "|".join(name.replace(" ", "[ _-]?") for name in sorted(names, key=len, reverse=True))


_TRACK_WORDS = _any_of((*ROLES[VOCAL], *ROLES[ACCOMPANIMENT]))

_WORDS = f"{_TRACK_WORDS}|{_any_of(PARTS)}"

_SUFFIXED = re.compile(
    r"(?P<base>.+?)(?:"
    rf"[ ._-]*[(\[](?P<bracketed>{_WORDS})[)\]](?:[ ._-].*)?"
    rf"|[ ]*[._-][ ._-]*(?P<marked>{_WORDS})"
    rf"|[ ]+(?P<word>{_TRACK_WORDS}))",
    re.IGNORECASE,
)
"""`song_vocals`, `song - Vocals`, `song (Vocals)`, `song_(Vocals)_UVR-MDX-NET` (a model may follow brackets)."""

_NUMBERED = re.compile(r"\d+_(?P<base>.+)")
"""Ultimate Vocal Remover numbers the songs of a batch."""


@dataclass(frozen=True)
class _Stem:
    """A file whose name says that it is a track or a part of a song."""

    path: Path
    songs: tuple[str, ...]
    """Names that its song may have, as `_key` writes them, the most probable first."""
    role: str
    """Name of its track or part, as `role_of` writes it."""
    in_own_folder: bool = False
    """Whether the folder of the file is that of the song, whose mix may be in it."""


@dataclass
class Stems:
    """Separated tracks of the songs in a folder and its subfolders."""

    tracks: dict[tuple[Path, str], dict[str, Path]] = field(default_factory=dict)
    """(Folder, name) of a song -> track -> file."""

    taken: set[Path] = field(default_factory=set)
    """Files that are not songs of their own."""

    without_mix: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)
    """Folder -> name -> files of songs of which there are tracks, but no mix."""

    unused: list[Path] = field(default_factory=list)
    """Files of `taken` that are not read: parts of the accompaniment, and second files of a track."""


def role_of(name: str) -> str:
    """Return the name of a track or part in its usual form; empty if it is not one."""
    role = re.sub(r"[ _-]+", " ", name.strip(" ()[]_-")).casefold()
    return role if role in _TRACK_OF or role in PARTS else ""


def find_stems(root: Path, suffixes: Collection[str], is_hidden: Callable[[str], bool]) -> Stems:
    """Find the separated tracks of all songs, by names alone.

    Args:
        root: folder to search, with its subfolders.
        suffixes: suffixes of audio files, in lower case.
        is_hidden: whether a file or folder of this name is not the user's.
    """
    files = _audio_files(root, suffixes, is_hidden)
    songs = {folder: {_key(path.stem): path for path in paths} for folder, paths in files.items()}
    everywhere: dict[str, list[Path]] = {}
    for named in songs.values():
        for name, path in named.items():
            everywhere.setdefault(name, []).append(path)
    by_owner: dict[Path, list[_Stem]] = {}
    ownerless: dict[tuple[Path, str], list[_Stem]] = {}
    for path in itertools.chain.from_iterable(files.values()):
        readings = list(_readings(path))
        owned = ((stem, _owner(stem, songs, root) or _only_owner(stem, everywhere)) for stem in readings)
        owned_stem, owner = next(((stem, owner) for stem, owner in owned if owner is not None), (None, None))
        if owned_stem is not None and owner is not None:
            by_owner.setdefault(owner, []).append(owned_stem)
            continue
        for stem in readings:
            ownerless.setdefault((path.parent, "" if stem.in_own_folder else stem.songs[-1]), []).append(stem)
    result = Stems()
    for owner, stems in by_owner.items():
        _add_tracks(result, owner, stems)
    for (folder, name), stems in ownerless.items():
        if {VOCAL, ACCOMPANIMENT} <= {_TRACK_OF.get(stem.role, ACCOMPANIMENT) for stem in stems}:
            paths = [stem.path for stem in stems]
            result.without_mix.setdefault(folder, {})[name] = paths
            result.taken.update(paths)
    return result


def _audio_files(root: Path, suffixes: Collection[str], is_hidden: Callable[[str], bool]) -> dict[Path, list[Path]]:
    """Return the audio files of each folder, sorted."""
    files = {}
    for walked, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        paths = [Path(walked) / name for name in sorted(names) if not is_hidden(name)]
        files[Path(walked)] = [path for path in paths if path.suffix.lower() in suffixes]
    return files


def _key(name: str) -> str:
    """Return a name as it is compared: in composed form, and without regard to case."""
    return plain_name(name).casefold()


def _readings(path: Path) -> Iterator[_Stem]:
    """Yield what the name of a file may mean, the most probable first."""
    name = plain_name(path.stem)
    role = role_of(name)
    if role:
        yield _Stem(path, (_key(path.parent.name),), role, in_own_folder=True)
        return
    suffixed = _SUFFIXED.fullmatch(name)
    if suffixed is not None:
        base = suffixed["base"].rstrip(" ._-")
        numbered = _NUMBERED.fullmatch(base)
        bases = (base, numbered["base"]) if numbered is not None else (base,)
        role = role_of(suffixed["bracketed"] or suffixed["marked"] or suffixed["word"])
        yield _Stem(path, tuple(map(_key, bases)), role)
    folder_role = role_of(plain_name(path.parent.name))
    if folder_role and _TRACK_OF.get(folder_role) != MIX:
        yield _Stem(path, (_key(name),), folder_role)


def _owner(stem: _Stem, songs: Mapping[Path, Mapping[str, Path]], root: Path) -> Path | None:
    """Return the file of the song that a stem belongs to: in its folder, or in the nearest one above."""
    folder = stem.path.parent
    if _TRACK_OF.get(stem.role) == MIX:
        return None
    if stem.in_own_folder:
        for name in ROLES[MIX]:
            if name in songs[folder]:
                return songs[folder][name]
    while True:
        for name in stem.songs:
            found = songs[folder].get(name)
            if found is not None and found != stem.path:
                return found
        if folder == root:
            return None
        folder = folder.parent


def _only_owner(stem: _Stem, everywhere: Mapping[str, Sequence[Path]]) -> Path | None:
    """Return the only song that has the name of a stem's folder, which may be next to the folder of the songs."""
    found = everywhere.get(stem.songs[0], ()) if stem.in_own_folder and _TRACK_OF.get(stem.role) != MIX else ()
    return found[0] if len(found) == 1 else None


def _add_tracks(result: Stems, owner: Path, stems: Sequence[_Stem]) -> None:
    roles = {stem.role for stem in stems}
    # Two-stem separations call everything but the voice `other`; with drums or bass it is one of several parts.
    is_two_stem = not any(_TRACK_OF.get(role) == ACCOMPANIMENT or role in PARTS for role in roles - {"other"})
    tracks = result.tracks.setdefault((owner.parent, plain_name(owner.stem)), {})
    for stem in sorted(stems, key=lambda stem: (_PREFERENCE.get(stem.role, len(_PREFERENCE)), stem.path)):
        track = _TRACK_OF.get(stem.role) or (ACCOMPANIMENT if stem.role == "other" and is_two_stem else "")
        result.taken.add(stem.path)
        if track and track not in tracks:
            tracks[track] = stem.path
        else:
            result.unused.append(stem.path)
