"""Tags of audio files, and the lyrics in them: ID3 (USLT and SYLT), Vorbis comments, MP4, RIFF.

tinytag reads them: it is MIT-licensed, has no dependency, and returns SYLT as LRC. mutagen, the usual library, is under
the GPL, which a package with another license cannot require.
"""

from pathlib import Path

from tinytag import TinyTag

from songgen.lyrics.timed import read_timed_lyrics

MAX_LYRICS = 1 << 20
"""Longest lyrics that are read, in characters."""

_NAMES = ("lyrics", "syncedlyrics", "synced_lyrics", "unsyncedlyrics", "unsynced lyrics", "lyrics-eng", "lyrics-xxx")
"""Names of the fields of lyrics in tinytag, in lower case; Vorbis comments may have any name."""


def read_tags(path: Path) -> dict[str, list[str]]:
    """Return the texts in the tags of an audio file by their name in lower case; empty if they cannot be read.

    A file that is not readable audio is not reported here: decoding finds that out, with its reason.
    """
    found: dict[str, list[str]] = {}
    try:
        tag = TinyTag.get(path, tags=True, duration=False, image=False)
        for name, values in (tag.other or {}).items():
            found.setdefault(name.casefold(), []).extend(value for value in values if isinstance(value, str))
        found |= {name: [str(value)] for name, value in (("genre", tag.genre), ("title", tag.title)) if value}
    except Exception:  # a damaged file may raise anything while it is parsed
        return {}
    return {name: values for name, values in found.items() if values}


def embedded_lyrics(path: Path) -> str | None:
    """Return the lyrics in the tags of an audio file, those with times first; None if it has none or cannot be read."""
    found = [
        value.replace("\0", "").strip()
        for name, values in read_tags(path).items()
        if name in _NAMES
        for value in values
        if value.strip() and len(value) <= MAX_LYRICS
    ]
    timed = [text for text in found if (lyrics := read_timed_lyrics(text)) is not None and lyrics.lines]
    return next(iter([*timed, *found]), None)
