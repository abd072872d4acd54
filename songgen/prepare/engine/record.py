"""A song, or a clip cut from one, and all that is known of it: what every step of the preparation reads and changes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from songgen.lyrics.languages import language_code
from songgen.tasks import MIX, VOCAL

JsonObject = dict[str, Any]
"""What `json.loads` makes of an object."""

FIRST, SECOND = "transcribe", "transcribe_second"
"""Names of the two steps that transcribe, and of their transcripts: lines come from the first, the second checks it."""


def known_language(language: str) -> str:
    """Return the code of a language; one that the tokenizer does not know stays as it is, for the filter to judge."""
    try:
        return language_code(language) if language.strip() else ""
    except ValueError:
        return language.strip().lower()


@dataclass(frozen=True)
class Word:
    """A sung word."""

    text: str
    """As it was heard or given."""

    start: float
    """Seconds from the beginning of the record's audio."""

    end: float
    """Seconds."""

    confidence: float | None = None
    """Probability, 0 to 1, where the recognizer gives one."""


@dataclass(frozen=True)
class LyricLine:
    """A line of the lyrics and where it is sung."""

    text: str
    """Without its section tag."""

    start: float
    """Seconds from the beginning of the record's audio."""

    end: float
    """Seconds."""

    section: str = ""
    """Section tag that the line stands under, such as `verse`."""

    confidence: float | None = None
    """Share of its words that were heard, 0 to 1; None for a line that a person placed."""


@dataclass(frozen=True)
class Transcript:
    """What one recognizer heard."""

    text: str
    """All words."""

    language: str
    """Code of the language, such as `en`."""

    confidence: float | None
    """Mean probability of the words."""

    words: tuple[Word, ...] = ()
    """With their times."""


@dataclass(frozen=True)
class Refusal:
    """Why a record is left out."""

    step: str
    """Step that found it."""

    code: str
    """Short name to count by."""

    reason: str
    """For people."""

    value: float | str | None = None
    """What was measured."""

    limit: float | str | None = None
    """What the configuration asks for."""

    others: tuple[str, ...] = ()
    """Codes of what else speaks against it."""

    kept: str = ""
    """Id of the record that stands for a duplicate."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Refusal:
        """Build a refusal from JSON values."""
        return Refusal(**{**values, "others": tuple(values.get("others", ()))})


@dataclass(frozen=True)
class SongRecord:
    """One song before it is cut, one clip after.

    Times are seconds from the beginning of the record's own audio. Fields that nothing is known of are empty.
    """

    id: str
    """Unique in the data set; also the name of its files."""

    song: str
    """Id of the song that the clip was cut from (its own id before cutting): clips of one song stay in one split."""

    file: str
    """Manifest or folder that the song came from."""

    line: int
    """Line or row in it, from 1."""

    audio: Mapping[str, str] = field(default_factory=dict)
    """Track (`mix`, `vocal`, `acc`) -> file: relative to the work folder, or absolute for a file of the user's."""

    start: float = 0.0
    """Where in its song the clip begins."""

    duration: float = 0.0
    """Seconds."""

    language: str = ""
    """Code of the language of the lyrics."""

    lyrics: str = ""
    """Sung words, lines separated by line breaks, section tags in square brackets on lines of their own."""

    lyrics_source: str = ""
    """`given`, `transcribed`, `review`, or empty; `instrumental` when it is known that nothing is sung."""

    lines: tuple[LyricLine, ...] = ()
    """The lyrics in time."""

    voiced: tuple[tuple[float, float], ...] | None = None
    """Intervals (start, end) in which somebody sings; None when nobody listened yet."""

    transcripts: Mapping[str, Transcript] = field(default_factory=dict)
    """Recognizer -> what it heard."""

    caption: str = ""
    """Description in a sentence or a line of tags."""

    tags: tuple[str, ...] = ()
    """Single traits, such as `male vocal`, `124 bpm`."""

    variants: Mapping[str, str] = field(default_factory=dict)
    """Further descriptions: `simplified`, `expanded`, `descriptive`, `synonyms`, `use_cases`."""

    analysis: JsonObject = field(default_factory=dict)
    """`genre`, `instruments`, `tempo`, `mood`, as the audio language model found them."""

    tempo: float | None = None
    """Beats a minute."""

    key: str = ""
    """Such as `A minor`."""

    energies: Mapping[str, float] = field(default_factory=dict)
    """Track -> root mean square of the 16-bit samples."""

    measures: Mapping[str, float] = field(default_factory=dict)
    """Further figures by name, such as `clap_score`, `clipped_share`."""

    fingerprint: str = ""
    """What the clip sounds like; see `songgen.prepare.listening.fingerprint`. Empty where nobody listened."""

    group: str = ""
    """Songs that share near-duplicate clips have one name here, and stay in one split; empty for all others."""

    split: str = ""
    """`train` or `eval`."""

    provenance: Mapping[str, JsonObject] = field(default_factory=dict)
    """Step -> its version and parameters, for every step that changed the record (`review`: what a person did)."""

    refusal: Refusal | None = None
    """Why it is left out; None while it is in."""

    @property
    def heard_track(self) -> str:
        """Track in which singing is looked for: the vocal track, or the mix of a song that was not separated."""
        return VOCAL if VOCAL in self.audio else MIX

    def to_json(self) -> str:
        """One line of JSON (ASCII only, so that any text survives)."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> SongRecord:
        """Read what `to_json` wrote."""
        return cls.from_values(json.loads(line))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> SongRecord:
        """Build a record from JSON values."""
        return SongRecord(**field_values(values))

    def changed(self, changes: Mapping[str, Any]) -> SongRecord:
        """The record with other values, given as JSON values.

        Mappings are merged key by key (a step adds its own energies and measures), everything else is replaced.
        """
        merged = dict(changes)
        for name, value in changes.items():
            present = getattr(self, name)
            if isinstance(present, Mapping) and isinstance(value, Mapping):
                merged[name] = {**_plain(present), **value}
        return dataclasses.replace(self, **field_values(merged))


def field_values(values: Mapping[str, Any]) -> JsonObject:
    """JSON values of a record's fields as the types that the fields have."""
    made = dict(values)
    if "lines" in made:
        made["lines"] = tuple(LyricLine(**line) for line in made["lines"])
    if "transcripts" in made:
        made["transcripts"] = {name: _transcript(entry) for name, entry in made["transcripts"].items()}
    if made.get("voiced") is not None:
        made["voiced"] = tuple((start, end) for start, end in made["voiced"])
    if made.get("refusal") is not None:
        made["refusal"] = Refusal.from_values(made["refusal"])
    if "tags" in made:
        made["tags"] = tuple(made["tags"])
    return made


def _transcript(values: Mapping[str, Any]) -> Transcript:
    words = tuple(Word(**word) for word in values.get("words", ()))
    return Transcript(**{**values, "words": words})


def _plain(values: Mapping[str, Any]) -> JsonObject:
    """A mapping with its dataclasses as JSON values."""
    return {name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
            for name, value in values.items()}  # fmt: skip
