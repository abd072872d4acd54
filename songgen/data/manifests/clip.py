"""A row of a manifest after reading, and the record of a rejected row."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from songgen.data.reject_codes import REJECT_CODES
from songgen.lyrics.timed import TimedLine
from songgen.runtime.json_files import parse_json


def is_storable_text(text: str) -> bool:
    """Return whether a text contains neither NUL nor half a surrogate pair, which files and tables cannot store."""
    return "\0" not in text and not any(0xD800 <= ord(character) < 0xE000 for character in text)


def escaped(text: str) -> str:
    """Escape control characters and surrogates in a text of unknown origin, so that a message may contain it."""
    return "".join(
        character if character.isprintable() or character == " " else repr(character)[1:-1] for character in text
    )


@dataclass(frozen=True)
class Rejection:
    """A row that is left out of the data set, with the reason."""

    id: str
    """Id of the row."""

    file: str
    """Manifest of the row."""

    line: int
    """Line (or row, from 1) in the manifest."""

    path: str
    """Audio file at fault, as given in the manifest; empty if the text is at fault."""

    code: str
    """Short name of the reason, a key of `songgen.data.reject_codes.REJECT_CODES`."""

    reason: str
    """Explanation for people."""

    seconds: float = 0.0
    """Length of the clip as far as it is known; 0 if it is not."""

    @property
    def is_filtered(self) -> bool:
        """Whether a configured limit excludes the row, so that the row itself is not damaged."""
        return REJECT_CODES[self.code].is_limit


@dataclass(frozen=True)
class TrackPath:
    """Path of one track of a clip."""

    given: str
    """Path as given in the manifest."""

    resolved: str = ""
    """Absolute path with all links resolved, in an allowed folder; empty if the path was refused."""

    code: str = ""
    """Rejection code if the path was refused."""

    reason: str = ""
    """Reason for the refusal."""


@dataclass(frozen=True)
class ClipRow:
    """One clip as described in its manifest, before any audio is opened."""

    id: str
    """Id of the clip, unique in its split."""

    caption: str
    """Description of the music."""

    lyrics: str
    """Words that are sung; empty for an instrumental."""

    language: str
    """Language of the lyrics as stated, or the default."""

    tracks: dict[str, TrackPath]
    """Track name -> file, for the tracks that the row has."""

    file: str
    """Manifest of the row."""

    line: int
    """Line (or row, from 1) in the manifest."""

    energies: dict[str, float] = field(default_factory=dict)
    """Energies stated in the manifest, by track; the data set contains measured ones."""

    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files as stated in the manifest, by track; a file with another one is not read."""

    duration: float | None = None
    """Length in seconds as stated in the manifest; the data set contains the measured length."""

    code: str = ""
    """Rejection code if the row cannot be used."""

    reason: str = ""
    """Reason why the row cannot be used."""

    lines: tuple[TimedLine, ...] = ()
    """Lines of the lyrics with the times that the lyrics had."""

    is_instrumental: bool = False
    """Whether the row states that nobody sings."""

    extra: dict[str, Any] = field(default_factory=dict)
    """Values of the further columns that were requested, not validated."""

    def reject(self, code: str, reason: str, path: str = "", seconds: float = 0.0) -> Rejection:
        """Return the record of the rejection of this row."""
        assert code in REJECT_CODES, f"{code} is not a known code"
        return Rejection(self.id, self.file, self.line, path, code, reason, seconds)

    def to_json(self) -> str:
        """Return one line of JSON (ASCII only, so that it can represent any text)."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(line: str) -> "ClipRow":
        """Return the row that `to_json` wrote."""
        content = parse_json(line, max_bytes=None, constants=True)
        content["tracks"] = {name: TrackPath(**track) for name, track in content["tracks"].items()}
        content["lines"] = tuple(TimedLine(**line) for line in content["lines"])
        return ClipRow(**content)
