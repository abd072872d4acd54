"""A row of any source before validation, and functions that all sources use."""

import hashlib
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


def join_tags(tags: Any) -> str:
    """Return tags as one caption, joined by a comma and a space; empty tags are left out."""
    return ", ".join(tag.strip() for tag in tags if tag.strip())


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


def track_of_column(column: str) -> str:
    """Return the track of a column of audio paths: `vocal` for `vocal_abspath`."""
    for suffix in ("_abspath", "_file_name", "_filename", "_path"):
        column = column.removesuffix(suffix)
    return column
