"""One line of tags for a song, from measurements and from the description of an audio language model.

The order is that of the published examples: style, voice, further styles, mood, key, tempo, instruments, further moods.
Measured or given values take precedence over the model.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from songgen.prepare.describing.tag_record import SongDescription
from songgen.prepare.describing.tag_vocabulary import (
    FASTEST_WORD,
    INSTRUMENTAL,
    SLOWEST_WORD,
    VOCAL_TAG,
    VOICE,
    bpm_tag,
    canonical_tag,
    kind_of,
    tempo_tag,
    written_tag,
)
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.timing.lyrics_alignment import written_lines

LOUD, QUIET = -12.0, -20.0
"""Integrated loudness in LUFS: a fast song above the first is `energetic`, a slow one below the second `calm`."""

MEASURED, GIVEN, MODEL = "measured", "given", "model"
"""Sources of a tag: the signal, the user, the audio language model."""

_SEX = re.compile(r"\b((?:fe)?male|woman|man)(?:'s)?\b(?: \w+)?? (?:vocal|voice|sing|rap)", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """Facts about a song that do not come from a model."""

    tempo: float | None = None
    """Tempo in beats per minute."""

    key: str = ""
    """Key, such as `A minor`."""

    is_sung: bool | None = None
    """Whether somebody sings; None if not known."""

    loudness: float | None = None
    """Loudness in LUFS."""

    tempo_source: str = GIVEN
    """Source of the tempo: `measured` or `given`."""

    key_source: str = GIVEN
    """Source of the key: `measured` or `given`."""

    genres: tuple[str, ...] = ()
    """Genres that the user or the tags of the file state."""

    @classmethod
    def of(cls, record: SongRecord) -> "Facts":
        """Return the facts of a record."""
        return cls(
            tempo=record.tempo,
            key=record.key,
            is_sung=is_sung(record),
            loudness=record.measures.get("loudness"),
            tempo_source=MEASURED if "tempo_confidence" in record.measures else GIVEN,
            key_source=MEASURED if "key_confidence" in record.measures else GIVEN,
            genres=_stated_genres(record),
        )


@dataclass(frozen=True)
class SongTags:
    """Tags with their sources."""

    tags: tuple[tuple[str, str], ...]
    """(tag, source), each tag once."""

    doubts: tuple[str, ...] = ()
    """Contradictions between model and facts."""

    @property
    def names(self) -> list[str]:
        """Tags without their sources."""
        return [tag for tag, _ in self.tags]

    @property
    def sources(self) -> dict[str, list[str]]:
        """Source -> its tags."""
        found = dict.fromkeys(source for _, source in self.tags)
        return {source: [tag for tag, other in self.tags if other == source] for source in found}


def is_sung(record: SongRecord) -> bool | None:
    """Return whether somebody sings in a clip, by its lyrics or by detected voice; None if neither is known."""
    if record.lyrics_source == INSTRUMENTAL:
        return False
    if written_lines(record.lyrics):
        return True
    return None if record.voiced is None else bool(record.voiced)


def _stated_genres(record: SongRecord) -> tuple[str, ...]:
    """Return the genres of `analysis`, which may have any form in the manifest of a user."""
    stated = record.analysis.get("genre")
    listed = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    return tuple(genre for genre in listed if isinstance(genre, str) and written_tag(genre))


def compose_tags(facts: Facts, description: SongDescription | None = None) -> SongTags:
    """Return the tags of a song.

    Args:
        facts: known facts, which take precedence.
        description: description by a model; None to use the facts alone.
    """
    doubts: list[str] = []
    styles = [(written_tag(genre), GIVEN) for genre in facts.genres]
    styles += [] if description is None else _from_model(description.genre)
    moods = _energy(facts) if description is None else _from_model(description.mood)
    instruments = [] if description is None else _from_model(description.instruments)
    tags = [
        *styles[:1],
        *_voice(facts, description, doubts),
        *styles[1:],
        *moods[:1],
        *([(canonical_tag(facts.key) or facts.key, facts.key_source)] if facts.key else []),
        *_tempo(facts, description),
        *(tag for tag in instruments if kind_of(tag[0]) != VOICE),
        *moods[1:],
    ]
    return SongTags(tuple({tag: (tag, source) for tag, source in reversed(tags)}.values())[::-1], tuple(doubts))


def _from_model(texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(tag, MODEL) for text in texts if (tag := written_tag(text))]


def _tempo(facts: Facts, description: SongDescription | None) -> list[tuple[str, str]]:
    if facts.tempo is not None:
        return [(bpm_tag(facts.tempo), facts.tempo_source)]
    found = None if description is None else tempo_tag(description.tempo)
    return [(found, MODEL)] if found else []


def _energy(facts: Facts) -> list[tuple[str, str]]:
    """Return one tag for songs that are fast and loud, or slow and quiet; others have none."""
    if facts.tempo is None or facts.loudness is None:
        return []
    if facts.tempo >= FASTEST_WORD and facts.loudness >= LOUD:
        return [("energetic", MEASURED)]
    if facts.tempo < SLOWEST_WORD and facts.loudness <= QUIET:
        return [("calm", MEASURED)]
    return []


def _voice(facts: Facts, description: SongDescription | None, doubts: list[str]) -> list[tuple[str, str]]:
    """Return the kinds of voice; facts decide whether there is a voice at all, if they are known."""
    heard = [] if description is None else _heard_voices(description)
    voices = [tag for tag in heard if tag != INSTRUMENTAL]
    if facts.is_sung is False:
        if voices:
            doubts.append(f"the model hears {', '.join(voices)} where nobody sings")
        return [(INSTRUMENTAL, MEASURED)]
    if facts.is_sung and INSTRUMENTAL in heard:
        doubts.append("the model hears no voice where somebody sings")
    if facts.is_sung and not voices:
        return [(VOCAL_TAG, MEASURED)]
    if voices:
        # "vocal" adds nothing to "male vocal".
        return [(tag, MODEL) for tag in voices if tag != VOCAL_TAG or len(voices) == 1]
    return [(INSTRUMENTAL, MODEL)] if heard else []


def _heard_voices(description: SongDescription) -> list[str]:
    """Return the kinds of voice in a description: whole entries of its lists, and men and women in its sentence."""
    entries: Sequence[str] = [*description.instruments, *description.expanded.split(",")]
    named = [tag for entry in entries if (tag := canonical_tag(entry)) and kind_of(tag) == VOICE]
    named += [f"{_sex(found[1])} vocal" for found in _SEX.finditer(description.descriptive)]
    if description.lyrical_rap_check:
        named.append("rap vocal")
    return list(dict.fromkeys(named))


def _sex(word: str) -> str:
    return {"man": "male", "woman": "female"}.get(word.lower(), word.lower())
