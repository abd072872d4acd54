"""A folder of songs: NAME.mp3 with NAME_prompt.txt and NAME_lyrics.txt next to it, in subfolders of any depth.

Names must match exactly. A file whose name nearly matches is not read; a notice suggests the correct name.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from songgen.data.manifests.clip import escaped
from songgen.data.manifests.raw_rows import (
    VARIANT_FIELDS,
    ColumnNames,
    RawRow,
    caption_of_variants,
    join_tags,
    track_of_column,
)
from songgen.runtime.json_files import parse_json

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")

FOREIGN_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".opus", ".webm", ".aiff", ".aif", ".ape", ".wv", ".mka", ".amr")
"""Extensions of audio files that are not supported."""

CAPTION_SUFFIXES = ("_prompt.txt", ".caption.txt", "_prompt.json", ".caption.json", ".json")
"""Endings of the file that describes a song, after its name; the first that exists is read."""

LYRICS_SUFFIXES = ("_lyrics.txt", ".lyrics.txt")
"""Endings of the file with a song's lyrics, after its name."""

MAX_TEXT_BYTES = 1 << 20
"""Maximum size of a song's text file, in bytes."""

EXTRA_TRACKS = ("vocal", "acc")
"""Names of separated tracks: NAME_vocal.wav and NAME_acc.wav belong to NAME.wav."""

TEXT_COLUMNS = ("caption", "lyrics", "language", "variants", "analysis", "tags")
"""Fields of a song's JSON file that become columns; the descriptions are read as well."""

MAX_COMPARED_NAMES = 100_000
"""Maximum number of comparisons with song names, per folder, in the search for names that were meant: this many take a
third of a second, and a folder may have as many misnamed texts as songs."""

_NEARLY = re.compile(
    r"(?P<name>.+?)[ ._-]*(?P<kind>prompt|caption|tags?|lyrics?)s?\.(?P<ending>txt|json|lrc|md)", re.IGNORECASE
)


def read_song_folder(root: Path, columns: ColumnNames, notices: list[str]) -> Iterator[RawRow]:
    """Yield the songs of a folder and its subfolders, sorted by name.

    Args:
        root: Folder to read.
        columns: Column names for the values.
        notices: List to which every violation of the naming is added, with a suggested fix.
    """
    number = 0
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        names.sort()
        notices += [
            f"{Path(folder) / name}: is a link to a folder and is not followed; name that folder as an input of its own"
            for name in subfolders
            if (Path(folder) / name).is_symlink()
        ]
        by_stem: dict[str, list[str]] = {}
        foreign: dict[str, str] = {}
        for name in names:
            path = Path(name)
            if path.suffix.lower() in AUDIO_SUFFIXES:
                by_stem.setdefault(path.stem, []).append(name)
            elif path.suffix.lower() in FOREIGN_SUFFIXES:
                foreign[path.stem] = name
        extra = {f"{stem}_{track}" for stem in by_stem for track in EXTRA_TRACKS} & set(by_stem)
        for stem, files in by_stem.items():
            if stem not in extra:
                number += 1
                yield _song(root, Path(folder), stem, files, by_stem, columns, notices, number)
        for stem, name in foreign.items():
            reason = f"{Path(folder) / name}: this format is not read; convert it to WAV, FLAC, OGG or MP3"
            if stem in by_stem:
                notices.append(reason)
                continue
            number += 1
            row_id = escaped((Path(folder) / stem).relative_to(root).as_posix())
            values = {columns.id or "id": row_id, columns.target: None, columns.caption: None, columns.lyrics: None}
            yield RawRow(str(root), number, values, code="unsupported_format", reason=reason)
        songs = _SongNames(stem for stem in (*by_stem, *foreign) if stem not in extra)
        notices += [notice for name in names if (notice := _misnamed(Path(folder) / name, songs))]


def _song(
    root: Path,
    folder: Path,
    stem: str,
    files: Sequence[str],
    by_stem: dict[str, list[str]],
    columns: ColumnNames,
    notices: list[str],
    number: int,
) -> RawRow:
    relative = folder.relative_to(root)
    row_id = escaped((relative / stem).as_posix())  # a file name may not be valid text
    values: dict[str, Any] = {columns.id or "id": row_id, columns.target: (relative / files[0]).as_posix()}
    for column in columns.references:
        found = by_stem.get(f"{stem}_{track_of_column(column)}")
        if found is not None:
            values[column] = (relative / found[0]).as_posix()
    code, reason = "", ""
    try:
        texts = _read_texts(root, folder, stem, row_id, notices)
    except (OSError, ValueError) as error:
        texts = {"caption": None, "lyrics": None}
        code, reason = "unreadable_text", f"prompt or lyrics file cannot be read: {error}"
    if len(files) > 1:
        names = " and ".join(files)
        code, reason = "ambiguous_audio", f"{folder}: {names} have one name; keep one of them, or rename the others"
    renamed = {"caption": columns.caption, "lyrics": columns.lyrics, "language": columns.language}
    values |= {renamed.get(name, name): value for name, value in texts.items()}
    return RawRow(str(root), number, values, code=code, reason=reason)


def _read_texts(root: Path, folder: Path, stem: str, row_id: str, notices: list[str]) -> dict[str, Any]:
    """Return the values in a song's text files; `caption` and `lyrics` are always included."""
    caption_file = _find_text(folder, stem, CAPTION_SUFFIXES, notices)
    texts: dict[str, Any] = {"caption": None, "lyrics": None}
    if caption_file is None:
        notices.append(f"{folder / stem}{CAPTION_SUFFIXES[0]}: is missing, so the song has no caption")
    else:
        text = _read_text(caption_file, root)
        if not text.strip():
            notices.append(f"{caption_file}: is empty, so the song has no caption")
        if _is_json(caption_file, text):
            texts |= _of_json(text, row_id)
            if not texts["caption"]:
                fields = ", ".join(("caption", "tags", *VARIANT_FIELDS))
                notices.append(f"{caption_file}: has none of {fields}, so the song has no caption")
        else:
            texts |= _of_lines(text, caption_file, notices)
    lyrics_file = _find_text(folder, stem, LYRICS_SUFFIXES, notices)
    if lyrics_file is not None:
        texts["lyrics"] = _read_text(lyrics_file, root)
        if not texts["lyrics"].strip():
            notices.append(
                f"{lyrics_file}: is empty, so the song has no lyrics; write [instrumental] if nothing is sung"
            )
    elif texts["lyrics"] is None:
        notices.append(f"{folder / stem}{LYRICS_SUFFIXES[0]}: is missing, so the song has no lyrics")
    return texts


def _find_text(folder: Path, stem: str, suffixes: Sequence[str], notices: list[str]) -> Path | None:
    found = [path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()]
    notices += [f"{path}: is not read, because {found[0].name} is there too" for path in found[1:]]
    return found[0] if found else None


def _read_text(path: Path, root: Path) -> str:
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{path.name} is a link to a file outside the folder")
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_TEXT_BYTES} bytes")
    return content.decode("utf-8-sig").replace("\r\n", "\n").strip()


def _is_json(path: Path, text: str) -> bool:
    return path.suffix == ".json" or text.startswith("{")


def _of_lines(text: str, path: Path, notices: list[str]) -> dict[str, Any]:
    """Return the tags of a prompt file, which should have one line."""
    lines = [line.strip().strip(",") for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        notices.append(f"{path}: has {len(lines)} lines instead of one; they are joined")
    tags = [tag.strip() for line in lines for tag in line.split(",") if tag.strip()]
    return {"caption": join_tags(tags), "tags": tags}


def _of_json(text: str, row_id: str) -> dict[str, Any]:
    """Return the columns of a song's JSON file: tags, or descriptions of which one becomes the caption.

    Raises:
        ValueError: if the text is not a JSON object.
    """
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("the JSON file does not contain an object")
    variants = content.get("variants")
    if not isinstance(variants, dict):
        # Other fields, such as a title or source, do not describe the sound.
        variants = {name: content[name] for name in VARIANT_FIELDS if isinstance(content.get(name), str)}
    caption = content.get("caption") or caption_of_variants({**variants, "tags": content.get("tags")}, row_id)
    named = {name: content[name] for name in TEXT_COLUMNS if content.get(name) is not None}
    return named | {"caption": caption, "lyrics": named.get("lyrics")} | ({"variants": variants} if variants else {})


class _SongNames:
    """Names of the songs in a folder, with suggestions for similar names."""

    def __init__(self, stems: Iterable[str]) -> None:
        self._all = frozenset(stems)
        self._by_folded = {stem.casefold(): stem for stem in sorted(self._all)}
        self._left = MAX_COMPARED_NAMES

    def __contains__(self, stem: str) -> bool:
        return stem in self._all

    def suggestion(self, stem: str, suffix: str) -> str:
        """Return the end of a notice that suggests a file name; empty if no song has a similar name."""
        found = [stem.casefold()] if stem.casefold() in self._by_folded else []
        if not found and self._left >= len(self._by_folded):
            self._left -= len(self._by_folded)
            found = difflib.get_close_matches(stem.casefold(), self._by_folded, n=1)
        return f"; did you mean {self._by_folded[found[0]]}{suffix}?" if found else ""


def _misnamed(path: Path, songs: _SongNames) -> str | None:
    """Return a notice if a file seems to belong to a song but has the wrong name."""
    name = path.name
    for suffix in (*CAPTION_SUFFIXES, *LYRICS_SUFFIXES):
        stem = name.removesuffix(suffix)
        if stem != name and stem in songs:
            return None
        if stem != name and suffix != ".json":
            return f"{path}: there is no audio file {stem}.*{songs.suggestion(stem, suffix)}"
    nearly = _NEARLY.fullmatch(name)
    if nearly is not None:
        kind = "lyrics" if nearly["kind"].lower().startswith("lyric") else "prompt"
        suffix = f"_{kind}.txt"
        if nearly["name"] in songs:
            return f"{path}: is not read; rename it to {nearly['name']}{suffix}"
        suggestion = songs.suggestion(nearly["name"], suffix)
        return f"{path}: is not read, and there is no audio file {nearly['name']}.*{suggestion}"
    if path.suffix == ".txt" and path.stem in songs:
        return f"{path}: is not read; rename it to {path.stem}_prompt.txt or {path.stem}_lyrics.txt"
    return None
