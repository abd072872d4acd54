"""A row of any source before it is checked, and the small things that all sources need to make one."""

import hashlib
from dataclasses import dataclass
from typing import Any

VARIANT_FIELDS = ("simplified", "expanded", "descriptive", "synonyms", "use_cases")
"""Names of the descriptions that a song may have beside its caption."""


@dataclass(frozen=True)
class ColumnNames:
    """Names that the columns of the manifests have."""

    id: str | None = None
    """Row id; None takes "id" or "fname", whichever is there, or else numbers the rows."""

    caption: str = "caption"
    """Description of the music."""

    lyrics: str = "lyrics"
    """Sung words."""

    language: str = "language"
    """Language of the lyrics."""

    target: str = "audio"
    """Audio of the whole song."""

    references: tuple[str, ...] = ("vocal_abspath", "acc_abspath")
    """Audio of separated tracks; the track's name is what stands before the first suffix such as _abspath."""


@dataclass(frozen=True)
class RawRow:
    """One row before any of it is checked."""

    file: str
    """Manifest, for messages."""

    line: int
    """Line or row number, from 1."""

    values: dict[str, Any] | None
    """Columns; None when the line could not be read, and `error` says why."""

    error: str = ""
    """What is wrong with the line itself."""

    code: str = ""
    """Rejection code of a row that is well-formed but known to be unusable."""

    reason: str = ""
    """Why it is unusable."""


def join_tags(tags: Any) -> str:
    """Return tags as one caption: trimmed, empty ones left out, joined by a comma and a blank."""
    return ", ".join(tag.strip() for tag in tags if tag.strip())


def caption_of_variants(variants: dict[str, Any], row_id: str) -> str | None:
    """Choose one of several descriptions of a song (an annotation with fields such as `simplified`, `descriptive`).

    The choice depends on the row's id alone, so that it is the same in every run.
    """
    if isinstance(variants.get("tags"), list):
        return join_tags(str(tag) for tag in variants["tags"])
    texts = [value.strip() for _, value in sorted(variants.items()) if isinstance(value, str) and value.strip()]
    if not texts:
        return None
    return texts[int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "replace")).digest()[:8]) % len(texts)]


def track_of_column(column: str) -> str:
    """Return the track that a column of audio paths holds: `vocal_abspath` is the track `vocal`."""
    for suffix in ("_abspath", "_file_name", "_filename", "_path"):
        column = column.removesuffix(suffix)
    return column
