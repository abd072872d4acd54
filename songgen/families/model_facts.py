"""Facts about a model for its model card, without paths of the local machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model for its model card."""

    tags: tuple[str, ...]
    """Tags on the hub, in addition to those of all models."""
    introduction: str
    """One sentence about what the model does."""
    size_name: str
    """Name of the table row for the number of parameters."""
    head: tuple[tuple[str, str], ...]
    """Table rows above the number of parameters: name and value, in Markdown."""
    rows: tuple[tuple[str, str], ...]
    """Table rows below the number of parameters: name and value, in Markdown."""


def escaped(text: str) -> str:
    """Return text that stays one line of plain text in Markdown."""
    return re.sub(r"([\[\]<>*`])", r"\\\1", " ".join(text.split()))


def without_folders(value: Any) -> Any:
    """Shorten every absolute path in a JSON value to its last part; lists joined by "+" part by part."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return "+".join(_last_part(part) for part in value.split("+")) if isinstance(value, str) else value


def _last_part(text: str) -> str:
    """Return the name at the end of an absolute path; other text as it is."""
    stripped = text.strip()
    if PurePosixPath(stripped).is_absolute() or stripped.startswith("~"):
        return PurePosixPath(stripped).name
    return PureWindowsPath(stripped).name if PureWindowsPath(stripped).is_absolute() else text
