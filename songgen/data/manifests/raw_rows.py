"""A row of any source before validation, and functions that all sources use."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

VARIANT_FIELDS = ("simplified", "expanded", "descriptive", "synonyms", "use_cases")
"""Names of the descriptions that a song may have in addition to its caption."""


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns in the manifests."""

    id: str | None = None
    """Column of the row id; None for "id" or "fname", whichever exists, or else a number for each row."""

    caption: str = "caption"
    """Column of the description of the music."""

    lyrics: str = "lyrics"
    """Column of the words that are sung."""

    language: str = "language"
    """Column of the language of the lyrics."""

    target: str = "audio"
    """Column of the audio of the whole song."""

    references: tuple[str, ...] = ("vocal_abspath", "acc_abspath")
    """Columns of the audio of separated tracks; a track's name is the column's without a suffix such as _abspath."""


@dataclass(frozen=True)
class RawRow:
    """One row before validation."""

    file: str
    """Name of the manifest, for messages."""

    line: int
    """Number of the line or row, from 1."""

    values: dict[str, Any] | None
    """Values by column; None if the line could not be read, for the reason in `error`."""

    error: str = ""
    """Problem with the line itself."""

    code: str = ""
    """Rejection code of a row that is well-formed but cannot be used."""

    reason: str = ""
    """Reason why it cannot be used."""

    has_made_id: bool = False
    """Whether the id was made from a file name, so that a row of another source may have it too."""

    is_song_file: bool = False
    """Whether the row was made from files, so that the tags of the audio file were read if no text file has lyrics."""


def join_tags(tags: Any) -> str:
    """Return tags as one caption, joined by a comma and a space; empty tags are left out."""
    return ", ".join(tag.strip() for tag in tags if tag.strip())


def plain_name(name: str) -> str:
    """Return a name in composed form (NFC): macOS and some archives write `é` as `e` and an accent."""
    return unicodedata.normalize("NFC", name)


def caption_of_variants(variants: dict[str, Any], row_id: str) -> str | None:
    """Choose one of several descriptions of a song (fields such as `simplified` and `descriptive`).

    The choice depends on the row's id only, so that it is the same in every run.
    """
    if isinstance(variants.get("tags"), list):
        return join_tags(str(tag) for tag in variants["tags"])
    texts = [value.strip() for _, value in sorted(variants.items()) if isinstance(value, str) and value.strip()]
    if not texts:
        return None
    return texts[int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "replace")).digest()[:8]) % len(texts)]


FACT_NAMES = {
    "tempo": ("tempo", "bpm"),
    "key": ("key", "keyscale", "key_scale"),
    "instrumental": ("instrumental", "is_instrumental"),
    "singer": ("singer", "artist"),
}
"""Column -> names under which programs write it."""

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def facts_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a row with facts of other programs (`bpm`, `artist`, `timesignature`) in our columns."""
    facts = dict(values)
    for column, names in FACT_NAMES.items():
        stated = next((values[name] for name in names if values.get(name) not in (None, "")), None)
        facts[column] = _number_in(stated) if column == "tempo" else stated
    if isinstance(facts["instrumental"], str | int):
        facts["instrumental"] = _TRUTHS.get(str(facts["instrumental"]).casefold(), facts["instrumental"])
    signature = values.get("timesignature")
    if signature not in (None, "") and isinstance(values.get("analysis", {}), dict):
        # ACE-Step 1.5 writes 4 for 4/4, and 6 for 6/8.
        text = str(signature).strip()
        text = {"2": "2/4", "3": "3/4", "4": "4/4", "6": "6/8"}.get(text, text)
        facts["analysis"] = {"time_signature": text, **values.get("analysis", {})}
    return facts


def _number_in(value: Any) -> Any:
    """Return the number in a text such as `124` or `124 bpm`; other values as they are, None for 0 and `N/A`."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d{1,4}(?:[.,]\d{1,6})?)\s*(?:bpm)?\s*", value, re.IGNORECASE)
        if found is None:
            return None if value.strip().casefold() in ("n/a", "none", "null", "auto", "unknown") else value
        value = float(found[1].replace(",", "."))
    return None if value == 0 else value


def track_of_column(column: str) -> str:
    """Return the track of a column of audio paths: `vocal` for `vocal_abspath`."""
    for suffix in ("_abspath", "_file_name", "_filename", "_path"):
        column = column.removesuffix(suffix)
    return column
