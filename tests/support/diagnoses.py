"""What the doctor finds in a folder, by level and by place."""

from pathlib import Path
from typing import Any

from songgen.doctor import Finding, Level, examine


def findings(folder: Path, level: Level | None = None, **options: Any) -> list[Finding]:
    """What the doctor finds, of one level or all."""
    found = examine(folder, **options).findings
    return [finding for finding in found if level in (None, finding.level)]


def at(folder: Path, where: str, **options: Any) -> list[Finding]:
    """What the doctor finds at one place."""
    return [finding for finding in findings(folder, **options) if finding.where == where]
