"""A song, or a clip cut from one, with everything that is known about it. Every step reads and changes such records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from songgen.lyrics.languages import language_code
from songgen.tasks import MIX, VOCAL

JsonObject = dict[str, Any]
"""Result of `json.loads` for a JSON object."""

FIRST, SECOND = "transcribe", "transcribe_second"
"""Names of the two transcription steps and of their transcripts: lines come from the first, the second checks it."""


TRANSCRIBED = "transcribed"
"""Source of lyrics that are the first transcript."""

REVIEW, VERDICT, ACCEPTED = "review", "verdict", "accepted"
"""Name of changes by a person in provenance and refusals, key of the decision on a clip, and one of its values."""


def known_language(language: str) -> str:
    """Return the code of a language; one that the tokenizer does not know is kept, and the filter decides about it."""
    try:
        return language_code(language) if language.strip() else ""
    except ValueError:
        return language.strip().lower()


@dataclass(frozen=True)
class Word:
    """A sung word."""

    text: str
    """The word as heard or given."""

    start: float
    """Seconds from the start of the record's audio."""

    end: float
    """Seconds from the start of the record's audio."""

    confidence: float | None = None
    """Probability, 0 to 1; None if the recognizer gives none."""


@dataclass(frozen=True)
class LyricLine:
    """A line of the lyrics and when it is sung."""

    text: str
    """The line without its section tag."""

    start: float
    """Seconds from the start of the record's audio."""

    end: float
    """Seconds from the start of the record's audio."""

    section: str = ""
    """Section of the lyrics that the line is in, such as `verse`."""

    confidence: float | None = None
    """Fraction of its words that were heard, 0 to 1; None for a line that a person placed."""


@dataclass(frozen=True)
class Transcript:
    """Output of one recognizer."""

    text: str
    """All words as one text."""

    language: str
    """Language code, such as `en`."""

    confidence: float | None
    """Mean probability of the words; None if there are no words."""

    words: tuple[Word, ...] = ()
    """The words with their times."""


@dataclass(frozen=True)
class Refusal:
    """The reason why a record is left out."""

    step: str
    """Step that refused the record."""

    code: str
    """Short name of the reason, by which reports count."""

    reason: str
    """The reason as a sentence."""

    value: float | str | None = None
    """The measured value."""

    limit: float | str | None = None
    """The limit from the configuration."""

    others: tuple[str, ...] = ()
    """Codes of all further reasons."""

    kept: str = ""
    """For a duplicate, the id of the record that is kept."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Refusal:
        """Build a refusal from JSON values."""
        return Refusal(**{**values, "others": tuple(values.get("others", ()))})


@dataclass(frozen=True)
class SongRecord:
    """One song before cutting, one clip after.

    Times are seconds from the start of the record's own audio. Fields of which nothing is known are empty.
    """

    id: str
    """Id, unique in the data set; also the name of its files."""

    song: str
    """Id of the song that the clip was cut from (before cutting, its own id); clips of one song are in one split."""

    file: str
    """Manifest or folder that the song came from."""

    line: int
    """Line or row in that file, from 1."""

    audio: Mapping[str, str] = field(default_factory=dict)
    """Track (`mix`, `vocal`, `acc`) -> file: relative to the work folder, or absolute for a file of the user."""

    start: float = 0.0
    """Start of the clip in its song, in seconds."""

    duration: float = 0.0
    """Length in seconds."""

    language: str = ""
    """Language code of the lyrics."""

    lyrics: str = ""
    """Sung words: one line of text per sung line, section tags in square brackets on separate lines."""

    lyrics_source: str = ""
    """`given`, `transcribed`, `review`, or empty; `instrumental` if it is known that nothing is sung."""

    lines: tuple[LyricLine, ...] = ()
    """Lines of the lyrics with their times."""

    voiced: tuple[tuple[float, float], ...] | None = None
    """Intervals (start, end) with singing; None if this was not detected yet."""

    transcripts: Mapping[str, Transcript] = field(default_factory=dict)
    """Step -> transcript of its recognizer."""

    caption: str = ""
    """Description as a sentence or a line of tags."""

    tags: tuple[str, ...] = ()
    """Single tags, such as `male vocal`, `124 bpm`."""

    variants: Mapping[str, str] = field(default_factory=dict)
    """Further descriptions: `simplified`, `expanded`, `descriptive`, `synonyms`, `use_cases`."""

    analysis: JsonObject = field(default_factory=dict)
    """`genre`, `instruments`, `tempo`, `mood`, as the audio language model describes them."""

    tempo: float | None = None
    """Tempo in beats per minute."""

    key: str = ""
    """Key of the music, such as `A minor`."""

    singer: str = ""
    """Who sings, as stated: by name, or the artist."""

    energies: Mapping[str, float] = field(default_factory=dict)
    """Track -> root mean square of the 16-bit samples."""

    measures: Mapping[str, float] = field(default_factory=dict)
    """Further measurements by name, such as `clap_score`, `clipped_share`."""

    fingerprint: str = ""
    """Fingerprint of the sound (see `songgen.prepare.listening.fingerprint`); empty if it was not computed."""

    group: str = ""
    """Common name of songs that share near-duplicate clips, which are kept in one split; empty for all others."""

    split: str = ""
    """`train` or `eval`."""

    provenance: Mapping[str, JsonObject] = field(default_factory=dict)
    """Step -> its version and parameters, for every step that changed the record (`review`: changes by a person)."""

    refusal: Refusal | None = None
    """Why the record is left out; None if it is not."""

    @property
    def heard_track(self) -> str:
        """Track in which singing is detected: the vocal track, or the mix of a song that was not separated."""
        return VOCAL if VOCAL in self.audio else MIX

    @property
    def is_accepted(self) -> bool:
        """Whether a person has accepted this clip in review."""
        return bool(self.provenance.get(REVIEW, {}).get("parameters", {}).get(VERDICT) == ACCEPTED)

    def to_json(self) -> str:
        """Return one line of JSON (ASCII only, so that any text survives)."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> SongRecord:
        """Build a record from JSON values."""
        return SongRecord(**field_values(values))

    def changed(self, changes: Mapping[str, Any]) -> SongRecord:
        """Return the record with other values, given as JSON values.

        Mappings are merged key by key (a step adds its own energies and measures); everything else is replaced.
        """
        merged = dict(changes)
        for name, value in changes.items():
            present = getattr(self, name)
            if isinstance(present, Mapping) and isinstance(value, Mapping):
                merged[name] = {**_plain(present), **value}
        return dataclasses.replace(self, **field_values(merged))


def field_values(values: Mapping[str, Any]) -> JsonObject:
    """Convert JSON values of a record's fields to the types of the fields."""
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
    """Return a mapping with its dataclasses as JSON values."""
    return {name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
            for name, value in values.items()}  # fmt: skip
