"""Text files next to the songs of one folder: captions, lyrics, facts, by the names that several programs use.

NAME.json of ACE-Step 1.5 and its CSV of tempi and keys give facts; NAME.txt of ai-toolkit has tags around each value;
NAME.txt is the caption for SimpleTuner and the lyrics for ACE-Step 1.5, which the other files of the song decide.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from songgen.data.manifests.findings import Notices
from songgen.data.manifests.raw_rows import VARIANT_FIELDS, caption_of_variants, join_tags, plain_name
from songgen.data.manifests.tables import read_table
from songgen.data.manifests.text_files import read_song_text
from songgen.lyrics.timed import TimedLine, read_timed_lyrics
from songgen.runtime.json_files import parse_json

CAPTION_SUFFIXES = ("_prompt.txt", ".caption.txt")
"""Endings of the file that describes a song, after its name; the first that exists is read."""

JSON_SUFFIXES = ("_prompt.json", ".caption.json", ".json")
"""Endings of the file with a song's facts, which may contain its caption and lyrics; the first that exists is read."""

PLAIN_LYRICS_SUFFIXES = ("_lyrics.txt", ".lyrics.txt", ".lyrics")
TIMED_SUFFIXES = (".lrc", "_lyrics.lrc", ".srt", "_lyrics.srt", ".vtt", ".ass")
LYRICS_SUFFIXES = (*PLAIN_LYRICS_SUFFIXES, *TIMED_SUFFIXES)
"""Endings of the file with a song's lyrics, after its name; the first that exists is read."""

PLAIN_SUFFIX = ".txt"
"""Ending of a file that is the caption or the lyrics."""

TEXT_COLUMNS = ("caption", "lyrics", "language", "variants", "analysis", "tags")
"""Fields of a song's JSON file that become columns; the descriptions are read as well."""

FACT_COLUMNS = ("bpm", "tempo", "key", "keyscale", "timesignature", "is_instrumental", "instrumental")
"""Further fields that become columns, of JSON files, tagged texts and CSV."""

CSV_NAMES = ("file", "filename", "file_name", "path")
"""Columns of CSV next to songs that name the song."""

TAGGED_VALUES = ("caption", "lyrics", "bpm", "keyscale", "timesignature", "language")
"""Values in ai-toolkit's form: <CAPTION>...</CAPTION><LYRICS>...</LYRICS><BPM>...</BPM>."""


class SongTexts:
    """Text files of one folder, by the names of the songs in it.

    Args:
        root: folder that was named by the user; links out of it are not followed.
        folder: folder of the songs.
        names: names of all files in it.
        songs: names of the songs, without extension, in composed form.
        notices: gets what is odd.
    """

    def __init__(self, root: Path, folder: Path, names: Iterable[str], songs: Iterable[str], notices: Notices) -> None:
        self.root = root
        self.folder = folder
        self.notices = notices
        self.read_names: set[str] = set()
        self._names = {plain_name(name): name for name in names}
        self._facts = dict(self._csv_facts())
        self._role = self._plain_role(songs)

    def values_of(self, song: str, row_id: str) -> dict[str, Any]:
        """Return the values in a song's files; `caption` and `lyrics` are always included, and None if it has none.

        Raises:
            ValueError: if a file cannot be read; names the file.
        """
        values: dict[str, Any] = {"caption": None, "lyrics": None, **self._facts.get(song, {})}
        json_file = next(iter(self._find(song, JSON_SUFFIXES)), None)
        if json_file is not None:
            values |= self._of_json(json_file, row_id)
        caption_file = next(iter(self._find(song, CAPTION_SUFFIXES)), None)
        lyrics_files = self._find(song, LYRICS_SUFFIXES, say_others=False)
        if caption_file is not None:
            values |= self._of_lines(self._read(caption_file), caption_file, row_id)
        lyrics = self._lyrics(lyrics_files)
        plain = self._names.get(song + PLAIN_SUFFIX)
        if plain is not None:
            text = self._read(plain)
            has_caption = caption_file is not None or bool(values["caption"])
            has_lyrics = lyrics is not None or bool(values["lyrics"])
            role = "tagged" if _tagged_values(text) else self._role_of(has_caption, has_lyrics) or self._role
            if role == "caption" and not has_caption or role == "tagged":
                values |= self._of_lines(text, plain, row_id)
            elif role == "lyrics" and not has_lyrics:
                lyrics = text
            else:
                self.read_names.discard(plain)
        if lyrics is not None:
            values["lyrics"] = lyrics
        if not values["caption"] and caption_file is None:
            self._say_without_caption(song, json_file)
        return values

    def _read(self, name: str) -> str:
        self.read_names.add(name)
        return read_song_text(self.folder / name, self.root)

    def _find(self, song: str, suffixes: Sequence[str], *, say_others: bool = True) -> list[str]:
        """Return the names of the files that exist, in the order of the endings; only the first is read."""
        found = [name for suffix in suffixes if (name := self._names.get(song + suffix)) is not None]
        self.read_names.update(found)
        for name in found[1:] if say_others else ():
            self._say_not_read(name, found[0])
        return found

    def _say_not_read(self, name: str, other: str) -> None:
        self.notices.add(f"is not read, because {other} is there too", f"{self.folder / name}",
                         kind="is not read, because another file is there too")  # fmt: skip

    def _say_without_caption(self, song: str, json_file: str | None) -> None:
        if json_file is None:
            place = f"{self.folder / song}{CAPTION_SUFFIXES[0]}"
            self.notices.add("is missing, so the song has no caption", place)
        else:
            fields = ", ".join(("caption", "tags", *VARIANT_FIELDS))
            self.notices.add(f"has none of {fields}, so the song has no caption", f"{self.folder / json_file}")

    def _role_of(self, has_caption: bool, has_lyrics: bool) -> str | None:
        """Return what NAME.txt is, by what the other files of the song are."""
        if has_caption == has_lyrics:
            return "unread" if has_caption else None
        return "lyrics" if has_caption else "caption"

    def _plain_role(self, songs: Iterable[str]) -> str | None:
        """Return what NAME.txt is in this folder, for songs that have no other text: as for those that have one."""
        roles = set()
        for song in songs:
            if song + PLAIN_SUFFIX in self._names:
                has_caption = any(song + suffix in self._names for suffix in (*CAPTION_SUFFIXES, *JSON_SUFFIXES))
                has_lyrics = any(song + suffix in self._names for suffix in LYRICS_SUFFIXES)
                roles.add(self._role_of(has_caption, has_lyrics))
        roles -= {None, "unread"}
        return roles.pop() if len(roles) == 1 else None

    def _of_lines(self, text: str, name: str, row_id: str) -> dict[str, Any]:
        """Return the values of a caption file: one line of tags, values in tags, or JSON."""
        if text.startswith("{"):
            return self._values_of_json(text, name, row_id)
        tagged = _tagged_values(text)
        if tagged:
            return {key: value for key, value in tagged.items() if value}
        if not text:
            self.notices.add("is empty, so the song has no caption", f"{self.folder / name}")
        lines = [line.strip().strip(",") for line in text.splitlines() if line.strip()]
        if len(lines) > 1:
            message = f"has {len(lines)} lines instead of one; they are joined"
            self.notices.add(message, f"{self.folder / name}", kind="has several lines instead of one; they are joined")
        tags = [tag.strip() for line in lines for tag in line.split(",") if tag.strip()]
        return {"caption": join_tags(tags), "tags": tags}

    def _of_json(self, name: str, row_id: str) -> dict[str, Any]:
        text = self._read(name)
        if not text:
            self.notices.add("is empty, so the song has no caption", f"{self.folder / name}")
            return {}
        return self._values_of_json(text, name, row_id)

    def _values_of_json(self, text: str, name: str, row_id: str) -> dict[str, Any]:
        """Return the columns of a song's JSON file: facts, and tags or descriptions of which one becomes the caption.

        Raises:
            ValueError: if the text is not a JSON object, or a value has the wrong type.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{name} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{name} does not contain an object, but a {type(content).__name__}")
        variants = content.get("variants")
        if not isinstance(variants, dict):
            # Other fields, such as a title or source, do not describe the sound.
            variants = {field: content[field] for field in VARIANT_FIELDS if isinstance(content.get(field), str)}
        named = {
            field: content[field] for field in (*TEXT_COLUMNS, *FACT_COLUMNS) if content.get(field) not in (None, "")
        }
        for field in ("caption", "lyrics", "language"):
            value = named.get(field)
            if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
                named[field] = ("\n" if field == "lyrics" else ", ").join(value)
            elif value is not None and not isinstance(value, str):
                raise ValueError(f"{name}: {field} must be a text, not {type(value).__name__} {str(value)[:40]!r}")
        caption = named.get("caption") or caption_of_variants({**variants, "tags": content.get("tags")}, row_id)
        return named | ({"caption": caption} if caption else {}) | ({"variants": variants} if variants else {})

    def _lyrics(self, names: Sequence[str]) -> str | None:
        """Return the text of the first lyrics file, with the times of another one that has the same words."""
        if not names:
            return None
        text = self._read(names[0])
        if not text:
            self.notices.add("is empty, so the song has no lyrics; write [instrumental] if nothing is sung",
                             f"{self.folder / names[0]}")  # fmt: skip
        for name in names[1:]:
            timed = read_timed_lyrics(self._read(name)) if name.endswith(TIMED_SUFFIXES) else None
            with_times = _with_times(text, timed.lines) if timed is not None else None
            if with_times is None:
                self._say_not_read(name, names[0])
            else:
                text = with_times
        return text

    def _csv_facts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield song and facts of the CSV files in the folder that name songs in a column."""
        for name in sorted(self._names.values()):
            if Path(name).suffix.lower() not in (".csv", ".tsv"):
                continue
            place = f"{self.folder / name}"
            try:
                if not (self.folder / name).resolve().is_relative_to(self.root.resolve()):
                    raise ValueError("it is a link to a file outside the folder")
                rows = [row.values for row in read_table(self.folder / name) if row.values is not None]
            except (OSError, ValueError) as error:
                self.notices.add(f"is not read: {error}", place, kind="is not read")
                continue
            num_songs = 0
            for row in rows:
                values = {column.casefold(): value for column, value in row.items() if value is not None}
                file = next((values[column] for column in CSV_NAMES if isinstance(values.get(column), str)), None)
                facts = {column: values[column] for column in ("caption", "language", *FACT_COLUMNS)
                         if column in values}  # fmt: skip
                if file is not None and facts:
                    num_songs += 1
                    # A program on Windows writes backslashes, and some leave out the extension.
                    last = plain_name(file.replace("\\", "/").rsplit("/", 1)[-1])
                    yield (last if last in self._stems() else Path(last).stem), facts
            if num_songs:
                self.read_names.add(name)

    def _stems(self) -> set[str]:
        return {Path(name).stem for name in self._names}


def _tagged_values(text: str) -> dict[str, str]:
    """Return the values that are in tags; an empty table for any other text."""
    found = {}
    folded = text.lower() if len(text.lower()) == len(text) else text
    for name in TAGGED_VALUES:
        start = folded.find(f"<{name}>")
        end = folded.find(f"</{name}>", start)
        if 0 <= start < end:
            found[name] = text[start + len(name) + 2 : end].strip()
    return found


def _with_times(text: str, lines: Sequence[TimedLine]) -> str | None:
    """Return a text of lyrics as LRC, with the times of other lines of the same words; None if the words differ."""
    written = [line.strip() for line in text.splitlines()]
    sung = [line for line in written if line and not re.fullmatch(r"\[[^\[\]]*\]", line)]
    if not lines or [_letters(line) for line in sung] != [_letters(line.text) for line in lines]:
        return None
    times = iter(lines)
    made = []
    for line in written:
        if line in sung:
            time = next(times)
            made += [f"[{_clock(time.start)}]{line}", f"[{_clock(time.end)}]"]
        else:
            made.append(line)
    return "\n".join(made)


def _letters(line: str) -> str:
    return "".join(character for character in line.casefold() if character.isalnum())


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60):02d}:{seconds % 60:06.3f}"
