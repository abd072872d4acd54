"""Writing suggestions into a configuration file: only the keys that they name change."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from songgen.config.foreign.ignored import ALIASES
from songgen.config.lora import LORA_FORMS
from songgen.config.recipes import recipe_folder
from songgen.planning.findings import Finding, Severity
from songgen.runtime.files import write_text_atomic
from songgen.runtime.json_files import read_json_object

_INDENT = 2


def suggested_values(findings: Sequence[Finding], given: Collection[str] = ()) -> dict[str, Any]:
    """Return the values that errors and warnings suggest; where two name a key, the worse finding's value.

    Args:
        findings: findings, the worst one first.
        given: keys of the command line, which no file can change.
    """
    values: dict[str, Any] = {}
    for finding in findings:
        if finding.severity is Severity.NOTE or set(finding.suggestion) & set(given):
            continue
        for key, value in finding.suggestion.items():
            values.setdefault(key, value)
    return values


def require_writable(path: Path) -> None:
    """Check that a configuration file is the user's own.

    Raises:
        ValueError: if it is a shipped one.
    """
    if path.resolve().is_relative_to(recipe_folder().resolve()):
        raise ValueError(
            f'{path} is shipped with songgen and is not changed: write a file of your own with {{"base": "{path}"}} '
            "and check that one"
        )


def written(path: Path, values: Mapping[str, Any]) -> str | None:
    """Return the text of a configuration file with other values, or None if it has them; nothing is written.

    The order of the keys stays, and so does `base`. A key with an alias in the file keeps that name; one that the file
    does not have is added at the end.

    Raises:
        ValueError: if the file cannot be read.
    """
    content = read_json_object(path)
    before = dict(content)
    for key in other_forms(values):
        content.pop(key, None)
    for key, value in values.items():
        content[next((alias for alias, real in ALIASES.items() if real == key and alias in content), key)] = value
    return None if content == before else json.dumps(content, indent=_INDENT, ensure_ascii=False) + "\n"


def other_forms(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that say in another form what some of the values say, so that both cannot be given."""
    return tuple(key for key in LORA_FORMS if key not in values) if set(LORA_FORMS) & set(values) else ()


def difference(path: Path, before: str, after: str) -> str:
    """Return the changes of a file as a unified diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), lineterm="", n=1)
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Replace a configuration file."""
    write_text_atomic(path, text)
