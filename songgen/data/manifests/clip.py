"""One row of a manifest after it was read, and the record of a row that cannot be used."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from songgen.data.reject_codes import REJECT_CODES


def is_storable_text(text: str) -> bool:
    """Whether a text has neither NUL nor half a surrogate pair, which no file name and no table can hold."""
    return "\0" not in text and not any(0xD800 <= ord(character) < 0xE000 for character in text)


def escaped(text: str) -> str:
    """Return a text of unknown origin as it may stand in a message: control characters and surrogates are escaped."""
    return "".join(
        character if character.isprintable() or character == " " else repr(character)[1:-1] for character in text
    )


@dataclass(frozen=True)
class Rejection:
    """A row that is left out of the data set, and why."""

    id: str
    """The row's id."""

    file: str
    """Manifest that the row stands in."""

    line: int
    """Line (or row, from 1) in that manifest."""

    path: str
    """Audio file that is to blame, as the manifest gives it; empty when it is the text."""

    code: str
    """Short name of the reason, to count by: a key of `songgen.data.reject_codes.REJECT_CODES`."""

    reason: str
    """What is wrong, for people."""

    @property
    def is_filtered(self) -> bool:
        """Whether a configured limit left the row out, so that nothing is wrong with it."""
        return REJECT_CODES[self.code].is_limit


@dataclass(frozen=True)
class TrackPath:
    """Where one track of a clip lies."""

    given: str
    """Path as the manifest gives it."""

    resolved: str = ""
    """Absolute path with all links followed, inside an allowed folder; empty when the path was refused."""

    code: str = ""
    """Rejection code when the path was refused."""

    reason: str = ""
    """Why it was refused."""


@dataclass(frozen=True)
class ClipRow:
    """One clip as its manifest describes it; no audio has been opened yet."""

    id: str
    """Unique in its split."""

    caption: str
    """Description of the music."""

    lyrics: str
    """Sung words; empty for an instrumental."""

    language: str
    """Language code of the lyrics, such as "en"."""

    tracks: dict[str, TrackPath]
    """Track name -> file. Tracks that the row does not have are absent."""

    file: str
    """Manifest that the row stands in."""

    line: int
    """Line (or row, from 1) in that manifest."""

    energies: dict[str, float] = field(default_factory=dict)
    """Energies that the manifest states, by track; the data set holds measured ones."""

    duration: float | None = None
    """Seconds that the manifest states; the data set holds the measured length."""

    code: str = ""
    """Rejection code when the row cannot be used as it stands."""

    reason: str = ""
    """Why not."""

    extra: dict[str, Any] = field(default_factory=dict)
    """Values of further columns that the reader was asked for, unchecked."""

    def reject(self, code: str, reason: str, path: str = "") -> Rejection:
        """Return the record that this row is left out."""
        assert code in REJECT_CODES, f"{code} is in no table"
        return Rejection(self.id, self.file, self.line, path, code, reason)

    def to_json(self) -> str:
        """Return one line of JSON (ASCII only, so that any text survives)."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(line: str) -> "ClipRow":
        """Read what `to_json` wrote."""
        content = json.loads(line)
        content["tracks"] = {name: TrackPath(**track) for name, track in content["tracks"].items()}
        return ClipRow(**content)
