"""A folder of songs: NAME.mp3 with NAME_prompt.txt and NAME_lyrics.txt next to it, in subfolders of any depth.

Names must match exactly. A file whose name nearly matches is not read; a notice suggests the correct name.
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from songgen.data.embedded_tags import embedded_lyrics
from songgen.data.manifests.clip import escaped
from songgen.data.manifests.findings import EXAMPLES, Notices
from songgen.data.manifests.folders.song_texts import CAPTION_SUFFIXES, JSON_SUFFIXES, LYRICS_SUFFIXES, SongTexts
from songgen.data.manifests.folders.stems import Stems, find_stems
from songgen.data.manifests.raw_rows import ColumnNames, RawRow, plain_name, track_of_column
from songgen.data.sound.contents import AUDIO_SUFFIXES, convert_command

FOREIGN_SUFFIXES = (
    ".m4a", ".m4b", ".aac", ".mp4", ".wma", ".webm", ".ape", ".wv", ".mka", ".amr", ".ac3", ".dsf", ".dff", ".tta",
    ".mpc", ".ra", ".3gp", ".alac", ".mp2",
)  # fmt: skip
"""Extensions of audio files that are not supported."""

TENSOR_SUFFIXES = (".pt", ".pth")
"""Extensions of pickled tensors, such as those that trainers of ACE-Step 1.5 make of songs. They are never opened."""

UNUSED_STEM = "is a part of a separated song, or a second file of a track, and is not read"

MAX_COMPARED_NAMES = 100_000
"""Maximum number of comparisons with song names, per folder, in the search for names that were meant: this many take a
third of a second, and a folder may have as many misnamed texts as songs."""

_NEARLY = re.compile(
    r"(?P<name>.+?)[ ._-]*(?P<kind>prompt|caption|tags?|lyrics?)s?\.(?P<ending>txt|json|lrc|md)", re.IGNORECASE
)

HIDDEN_NAMES = frozenset(
    "__macosx thumbs.db desktop.ini @eadir #recycle $recycle.bin lost+found".split()
    + ["system volume information", "icon\r"]
)
"""Names, in lower case, of what systems and archives put next to files, in addition to names that begin with a dot."""

OTHER_SUFFIXES = frozenset(
    ".jpg .jpeg .png .gif .webp .bmp .tif .tiff .svg .pdf .mid .midi .mov .mkv .avi .m4v .npy .npz "
    ".safetensors .h5 .zip .7z .rar .gz .tar .log .db .m3u .m3u8 .pls .cue .url .lnk .asd .pkf .reapeaks .als .flp "
    ".rpp .musicxml .textgrid .ds".split()
)
"""Extensions of files next to songs that are not texts for training: pictures, scores, projects, archives."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not one of the user's: `._song.wav`, `.DS_Store`, `__MACOSX`, `Thumbs.db`."""
    # `...Baby.mp3` is a song: files that systems hide have one dot.
    has_mark = name.startswith((".", "~$")) and not name.startswith("..")
    return has_mark or name.casefold() in HIDDEN_NAMES


def read_song_folder(root: Path, columns: ColumnNames, notices: Notices) -> Iterator[RawRow]:
    """Yield the songs of a folder and its subfolders, sorted by name.

    Args:
        root: Folder to read.
        columns: Column names for the values.
        notices: Gets every violation of the naming, with a suggested fix.
    """
    number, hidden = 0, []
    stems = find_stems(root, AUDIO_SUFFIXES, is_hidden)
    for folder, subfolders, names in os.walk(root):
        hidden += [name for name in (*subfolders, *names) if is_hidden(name)]
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        names = sorted(name for name in names if not is_hidden(name))
        for name in subfolders:
            if (Path(folder) / name).is_symlink():
                notices.add("is a link to a folder and is not followed; name that folder as an input of its own",
                            f"{Path(folder) / name}")  # fmt: skip
        songs = _Songs(root, Path(folder), names, stems, columns, notices)
        for row in songs.rows():
            number += 1
            yield dataclasses.replace(row, line=number)
        songs.name_unread_files()
    for path in stems.unused:
        notices.add(UNUSED_STEM, str(path))
    if hidden:
        shown = ", ".join(sorted(set(hidden))[:EXAMPLES])
        notices.add(f"{len(hidden)} hidden files and folders are skipped, such as {shown}", str(root))


class _Songs:
    """Songs of one folder."""

    def __init__(
        self, root: Path, folder: Path, names: Sequence[str], stems: Stems, columns: ColumnNames, notices: Notices
    ) -> None:
        self.root = root
        self.folder = folder
        self.stems = stems
        self.columns = columns
        self.notices = notices
        self.by_stem: dict[str, list[str]] = {}
        self.foreign: dict[str, str] = {}
        for name in names:
            path = Path(name)
            # Names are compared in composed form: `é` may be one character in one name and two in another.
            if path.suffix.lower() in AUDIO_SUFFIXES and folder / name not in stems.taken:
                self.by_stem.setdefault(plain_name(path.stem), []).append(name)
            elif path.suffix.lower() in FOREIGN_SUFFIXES:
                self.foreign[plain_name(path.stem)] = name
        song_names = [*self.by_stem, *self.foreign]
        self.names = _SongNames(song_names)
        self.other_names = [name for name in names if Path(name).suffix.lower() not in (*AUDIO_SUFFIXES,
                                                                                        *FOREIGN_SUFFIXES)]  # fmt: skip
        self.texts = SongTexts(root, folder, self.other_names, song_names, notices)

    def rows(self) -> Iterator[RawRow]:
        """Yield the row of each song."""
        for stem, files in self.by_stem.items():
            yield self._song(stem, files)
        for stem, name in self.foreign.items():
            command = convert_command(Path(name).suffix)
            reason = f"this format is not read; convert the files, in their folder: {command}"
            if stem in self.by_stem:
                self.notices.add(reason, f"{self.folder / name}")
                continue
            yield self._refused_row(self._id(stem), "unsupported_format", f"{name}: {reason}")
        for stem, paths in self.stems.without_mix.get(self.folder, {}).items():
            listed = " and ".join(path.name for path in paths)
            inputs = " ".join(f'-i "{path.name}"' for path in paths)
            reason = (
                f"{listed} are tracks of a song whose mix is not there; add it, for example by: ffmpeg {inputs} "
                f"-filter_complex amix=inputs={len(paths)}:normalize=0 mix.wav"
            )
            row_id = self._id(stem) if stem else escaped(self._own_name())
            yield self._refused_row(row_id, "missing_track", reason)

    def _own_name(self) -> str:
        """Return the folder's path in the root; of the root itself, its name."""
        return self.root.name if self.folder == self.root else self.folder.relative_to(self.root).as_posix()

    def _refused_row(self, row_id: str, code: str, reason: str) -> RawRow:
        columns = self.columns
        values = {columns.id or "id": row_id, columns.target: None, columns.caption: None, columns.lyrics: None}
        return self._row(values, code=code, reason=reason)

    def _row(self, values: dict[str, Any], *, code: str, reason: str) -> RawRow:
        return RawRow(str(self.root), 0, values, code=code, reason=reason, has_made_id=True, is_song_file=True)

    def _id(self, stem: str) -> str:
        # A file name may not be valid text.
        return escaped((self.folder.relative_to(self.root) / stem).as_posix())

    def _song(self, stem: str, files: Sequence[str]) -> RawRow:
        relative = self.folder.relative_to(self.root)
        columns = self.columns
        values: dict[str, Any] = {
            columns.id or "id": self._id(stem),
            columns.target: (relative / files[0]).as_posix(),
        }
        for column in columns.references:
            found = self.stems.tracks.get((self.folder, stem), {}).get(track_of_column(column))
            if found is not None:
                values[column] = found.relative_to(self.root).as_posix()
        code, reason = "", ""
        try:
            texts = self.texts.values_of(stem, self._id(stem))
            if texts["lyrics"] is None:
                texts["lyrics"] = self._embedded_lyrics(stem, files[0])
        except (OSError, ValueError) as error:
            texts = {"caption": None, "lyrics": None}
            code, reason = "unreadable_text", f"a text file of the song cannot be read: {escaped(str(error))}"
        if len(files) > 1:
            listed = " and ".join(files)
            code = "ambiguous_audio"
            reason = f"{listed} have one name; keep one of them, or rename the others"
        renamed = {"caption": columns.caption, "lyrics": columns.lyrics, "language": columns.language}
        values |= {renamed.get(name, name): value for name, value in texts.items()}
        return self._row(values, code=code, reason=reason)

    def _embedded_lyrics(self, stem: str, name: str) -> str | None:
        """Return the lyrics in the tags of a song's audio file, or None after a notice."""
        path = (self.folder / name).resolve()
        if path.is_relative_to(self.root.resolve()) and path.is_file():
            found = embedded_lyrics(path)
            if found is not None:
                self.notices.add("the lyrics in the tags of the audio file are read", f"{self.folder / name}")
                return found
        self.notices.add("is missing, so the song has no lyrics", f"{self.folder / stem}{LYRICS_SUFFIXES[0]}")
        return None

    def name_unread_files(self) -> None:
        """Add a notice for every text that seems to belong to a song but was not read."""
        for name in self.other_names:
            if name not in self.texts.read_names:
                notice = _misnamed(plain_name(name), self.names)
                if notice is not None:
                    message, kind = notice
                    self.notices.add(message, f"{self.folder / name}", kind=kind)


class _SongNames:
    """Names of the songs in a folder, with suggestions for similar names."""

    def __init__(self, stems: Iterable[str]) -> None:
        self._all = frozenset(stems)
        self._by_folded = {stem.casefold(): stem for stem in sorted(self._all)}
        self._left = MAX_COMPARED_NAMES

    def __contains__(self, stem: str) -> bool:
        return stem in self._all

    def beginning_of(self, name: str) -> str | None:
        """Return the longest song's name that a file name begins with, followed by anything but a letter or digit."""
        ends = [at for at in range(len(name), 0, -1) if at == len(name) or not name[at].isalnum()]
        return next((name[:end] for end in ends if name[:end] in self._all), None)

    def suggestion(self, stem: str, suffix: str) -> str:
        """Return the end of a notice that suggests a file name; empty if no song has a similar name."""
        found = [stem.casefold()] if stem.casefold() in self._by_folded else []
        if not found and self._left >= len(self._by_folded):
            self._left -= len(self._by_folded)
            found = difflib.get_close_matches(stem.casefold(), self._by_folded, n=1)
        return f"; did you mean {self._by_folded[found[0]]}{suffix}?" if found else ""


def _misnamed(name: str, songs: _SongNames) -> tuple[str, str] | None:
    """Return a notice, and its kind, if a file that was not read seems to belong to a song or to have lost its song."""
    path = Path(name)
    if path.suffix.lower() in TENSOR_SUFFIXES:
        message = "has tensors that another program made, and is never opened; songs are read from their audio"
        return message, message
    for suffix in (*CAPTION_SUFFIXES, *JSON_SUFFIXES, *LYRICS_SUFFIXES):
        stem = name.removesuffix(suffix)
        if stem != name and stem in songs:
            return None  # not read because another file was read, or because the song is refused, which is said there
        if stem != name and suffix != ".json":
            suggestion = songs.suggestion(stem, suffix)
            message = f"there is no audio file {stem}.*{suggestion}"
            return message, message if suggestion else "there is no audio file of this name"
    nearly = _NEARLY.fullmatch(name)
    if nearly is not None:
        file = "lyrics" if nearly["kind"].lower().startswith("lyric") else "prompt"
        suffix = f"_{file}.txt"
        if nearly["name"] in songs:
            return f"is not read; rename it to {nearly['name']}{suffix}", f"is not read; rename it to NAME{suffix}"
        suggestion = songs.suggestion(nearly["name"], suffix)
        message = f"is not read, and there is no audio file {nearly['name']}.*{suggestion}"
        return message, message if suggestion else "is not read, and there is no audio file of this name"
    if path.suffix.lower() in OTHER_SUFFIXES:
        return None
    song = songs.beginning_of(name)
    if song is None:
        return None
    message = "is not read; rename it to {0}_prompt.txt or {0}_lyrics.txt"
    return message.format(song), message.format("NAME")
