"""Title, genre, tempo and key in the tags of audio files (ID3, Vorbis comments, MP4, RIFF)."""

import re
from dataclasses import dataclass
from pathlib import Path

from songgen.data.embedded_tags import read_tags
from songgen.data.manifests.clip import is_storable_text
from songgen.data.manifests.music_facts import read_tempo, stated_key
from songgen.prepare.describing.tag_vocabulary import canonical_tag

LONGEST_TEXT = 200
"""Most characters of a title, and of all genres."""

LONGEST_GENRE = 30

_BETWEEN_GENRES = re.compile(r"[/;,|]+")
_NUMBER_OF_GENRE = re.compile(r"^\(\d+\)\s*")
_NO_GENRE = frozenset("other unknown misc miscellaneous none genre default unclassifiable music".split())
_TEMPO_NAMES, _KEY_NAMES = ("bpm", "tbpm", "tempo"), ("initial_key", "initialkey", "key", "tkey")


@dataclass(frozen=True)
class EmbeddedFacts:
    """Facts about a song that its file states; empty or None if it does not."""

    title: str = ""
    """Title of the song. It does not describe the sound, so it is shown and not put into captions."""

    genres: tuple[str, ...] = ()
    """Genres as tags."""

    tempo: float | None = None
    """Tempo in beats per minute."""

    key: str = ""
    """Key, such as `A minor`."""


def read_embedded_facts(path: Path) -> EmbeddedFacts:
    """Read the tags of an audio file; a file whose tags cannot be read states nothing."""
    first = {name: values[0] for name, values in read_tags(path).items()}
    return EmbeddedFacts(
        title=_plain(first.get("title", "")),
        genres=_genres(_plain(first.get("genre", ""))),
        tempo=read_tempo(next((first[name] for name in _TEMPO_NAMES if first.get(name)), "")),
        key=stated_key(next((first[name] for name in _KEY_NAMES if first.get(name)), "")),
    )


def _plain(text: str) -> str:
    """Return a text on one line; ID3 separates several values by NUL. Text that cannot be stored is dropped."""
    text = text.replace("\0", ";")
    kept = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(kept.split()).strip(" ;")[:LONGEST_TEXT] if is_storable_text(text) else ""


def _genres(text: str) -> tuple[str, ...]:
    """Return the genres of a text, such as `(17)Rock` or `Pop/Rock; Indie`; words that name none are dropped."""
    whole = canonical_tag(text)
    parts = [whole] if whole else _BETWEEN_GENRES.split(text)
    genres = []
    for part in parts:
        name = _NUMBER_OF_GENRE.sub("", part.strip()).casefold()
        if name and name not in _NO_GENRE and len(name) <= LONGEST_GENRE and not name.isdigit():
            genres.append(canonical_tag(name) or name)
    return tuple(dict.fromkeys(genres))
