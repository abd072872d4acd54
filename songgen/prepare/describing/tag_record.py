"""A song description of an audio language model: parsed tolerantly, then validated strictly against the schema."""

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from songgen.data.manifests.clip import is_storable_text
from songgen.data.manifests.raw_rows import VARIANT_FIELDS
from songgen.prepare.describing.loose_json import find_object, plain_key, repair_encoding
from songgen.prepare.describing.tag_vocabulary import INSTRUMENTS, canonical_tag, kind_of, nearest_tags
from songgen.prepare.engine.record import JsonObject
from songgen.prepare.timing.text_distance import comparable_units

TEXT_LIMIT = 200
"""Characters that a description must stay below."""

ENTRY_LIMIT = 60
"""Most characters of a genre, an instrument, a mood."""

LIST_LIMIT = 20
"""Most entries of a list."""

MAX_SHARED_WORDS = 4
"""Longest run of words that a description may share with the lyrics; a longer one is a quotation."""

LIST_FIELDS = ("genre", "instruments", "mood")

_FIELDS = (*VARIANT_FIELDS, *LIST_FIELDS, "tempo", "lyrical_rap_check")
_OTHER_KEYS = {"genres": "genre", "instrument": "instruments", "moods": "mood", "bpm": "tempo"}
_FIELD_OF_KEY = {plain_key(name): name for name in _FIELDS} | _OTHER_KEYS
_ANALYSIS = "analysis"
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_MENTIONS_LYRICS = re.compile(
    r"\b(?:lyrics?|(?:sings?|singing|raps?|rapping|speaks?|song|words?|verses?) (?:\w+ )?(?:about|tells?)|"
    r"tells? (?:a|the) (?:story|tale)|text of the song)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SongDescription:
    """A description that follows the schema."""

    simplified: str
    """Most representative tag, one of the valid tags."""

    expanded: str
    """Related sub-genres and techniques."""

    descriptive: str
    """Sound of the song, in a sentence."""

    synonyms: str
    """Other words for the same sound."""

    use_cases: str
    """Suitable uses of the song."""

    genre: tuple[str, ...]
    """Genres, best fit first."""

    instruments: tuple[str, ...]
    """Instruments that are heard."""

    tempo: str
    """Tempo in words or beats per minute."""

    mood: tuple[str, ...]
    """Moods, strongest first."""

    lyrical_rap_check: bool
    """Whether somebody raps."""

    @property
    def variants(self) -> dict[str, str]:
        """The five descriptions by name."""
        return {name: getattr(self, name) for name in VARIANT_FIELDS}

    @property
    def analysis(self) -> JsonObject:
        """Genre, instruments, tempo and mood, and the check for rap, as JSON values."""
        lists = {name: list(getattr(self, name)) for name in LIST_FIELDS}
        return {**lists, "tempo": self.tempo, "lyrical_rap_check": self.lyrical_rap_check}


class InvalidDescription(ValueError):
    """An answer does not follow the schema."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep all problems, each a sentence that can be sent to the model."""
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


def read_description(answer: str, extra_tags: Collection[str] = ()) -> SongDescription:
    """Parse an answer.

    Lists in place of a text are joined, texts in place of a list are split at commas, `yes` is a boolean, and fields of
    `analysis` may be next to it. Nothing is shortened, invented or dropped.

    Args:
        answer: full text of the model.
        extra_tags: further valid tags.

    Raises:
        InvalidDescription: If there are problems; lists all of them.
    """
    found = find_object(answer, {*_FIELD_OF_KEY, _ANALYSIS})
    if found is None:
        raise InvalidDescription(["there is no JSON object with the fields that were asked for"])
    values = _by_field(found)
    problems = [f"{name} is missing" for name in _FIELDS if values.get(name) is None]
    made: dict[str, Any] = {}
    readers = (
        (VARIANT_FIELDS, _text),
        (LIST_FIELDS, _entries),
        (("tempo",), _tempo),
        (("lyrical_rap_check",), _boolean),
    )
    for names, reader in readers:
        for name in names:
            if values.get(name) is not None:
                made[name] = reader(name, values[name], problems)
    if made.get("simplified"):
        made["simplified"] = _valid_tag(made["simplified"], extra_tags, problems)
    if problems:
        raise InvalidDescription(problems)
    return SongDescription(**made)


def lyric_problems(
    description: SongDescription, lyrics: str, language: str = "", max_shared_words: int = MAX_SHARED_WORDS
) -> list[str]:
    """Return the places where a description takes its words from the lyrics, which it must not contain.

    Only words are compared, so a paraphrase of the lyrics is not found.

    Args:
        description: description of the song.
        lyrics: lyrics without section tags; empty if not known.
        language: language of the lyrics.
        max_shared_words: longest run of words that both may contain.
    """
    problems = []
    for name, text in description.variants.items():
        run = shared_run(text, lyrics, language)
        if len(run) > max_shared_words:
            problems.append(f"{name} repeats words of the song ({' '.join(run)}): describe the sound alone")
    if mention := _MENTIONS_LYRICS.search(description.descriptive):
        problems.append(f"descriptive speaks of what is sung ({mention[0]}): describe the sound alone")
    return problems


def shared_run(text: str, lyrics: str, language: str = "") -> tuple[str, ...]:
    """Return the longest run of words (characters in a language without blanks) that both texts contain."""
    left, right = comparable_units(text, language), comparable_units(lyrics, language)
    longest, end = 0, 0
    lengths = [0] * (len(right) + 1)
    for number, unit in enumerate(left, start=1):
        lengths = [0, *(lengths[column] + 1 if unit == other else 0 for column, other in enumerate(right))]
        if max(lengths) > longest:
            longest, end = max(lengths), number
    return left[end - longest : end]


def sung_instruments(instruments: Iterable[str], lyrics: str) -> list[str]:
    """Return the instruments whose names occur in the lyrics: they may be sung about rather than heard."""
    sung = f" {_tag_words(lyrics)} "
    return [name for name in instruments if f" {_tag_words(name)} " in sung]


def _tag_words(text: str) -> str:
    """Return the words of a text, instruments in the form of their tag (`guitars` and `guitar` are the same)."""
    words = comparable_units(text, "en")
    return " ".join(canonical_tag(word) or word if kind_of(word) == INSTRUMENTS else word for word in words)


def _by_field(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by field name, including those of `analysis`."""
    values: dict[str, Any] = {}
    for key, value in found.items():
        if plain_key(key) == _ANALYSIS and isinstance(value, dict):
            values |= _by_field(value)
        elif plain_key(key) in _FIELD_OF_KEY:
            values[_FIELD_OF_KEY[plain_key(key)]] = value
    return values


def _clean(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", repair_encoding(text)).split())


def _text(name: str, value: Any, problems: list[str]) -> str:
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        value = ", ".join(entry.strip() for entry in value)
    elif isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values()):
        value = ", ".join(f"{key} → {entry}" for key, entry in value.items())
    if not isinstance(value, str):
        problems.append(f"{name} must be a text")
        return ""
    text = _clean(value)
    if not text:
        problems.append(f"{name} is empty")
    if not is_storable_text(text):
        problems.append(f"{name} holds characters that cannot be stored")
    if len(text) >= TEXT_LIMIT:
        problems.append(f"{name} has {len(text)} characters; it must have fewer than {TEXT_LIMIT}")
    return text


def _entries(name: str, value: Any, problems: list[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        value = re.split(r"[,;/\n]", value)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        problems.append(f"{name} must be a list of texts")
        return ()
    entries = tuple(dict.fromkeys(entry for entry in map(_clean, value) if entry))
    if not entries and name != "instruments":  # unaccompanied singing has none
        problems.append(f"{name} is empty")
    if len(entries) > LIST_LIMIT:
        problems.append(f"{name} has {len(entries)} entries; at most {LIST_LIMIT} are allowed")
    for entry in entries:
        if len(entry) > ENTRY_LIMIT or not is_storable_text(entry):
            problems.append(f"an entry of {name} is not a name: {entry[:ENTRY_LIMIT]!r}")
    return entries


def _tempo(name: str, value: Any, problems: list[str]) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return _text(name, f"{value:g} bpm" if is_number else value, problems)


def _boolean(name: str, value: Any, problems: list[str]) -> bool:
    found = (
        value
        if isinstance(value, bool)
        else _BOOLEANS.get(plain_key(f"{value:g}" if isinstance(value, float) else str(value)))
    )
    if found is None:
        problems.append(f"{name} must be true or false")
    return bool(found)


def _valid_tag(text: str, extra_tags: Collection[str], problems: list[str]) -> str:
    valid = canonical_tag(text.strip(" ."), extra_tags)
    if valid is None:
        near = nearest_tags(text, extra_tags)
        hint = f"; similar tags are {', '.join(near)}" if near else ""
        problems.append(f"simplified must be one of the valid tags, {text!r} is not one{hint}")
    return valid or ""
