"""Findings about a planned run: severity, key, message, and values that would solve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """Severity of a finding, the worst one first."""

    ERROR = "error"
    """The run cannot start, or ends before its first checkpoint."""
    WARNING = "warning"
    """The run can start, and something about it is probably not meant."""
    NOTE = "note"
    """A fact worth knowing; nothing has to change."""


@dataclass(frozen=True)
class Finding:
    """One finding."""

    severity: Severity
    """Severity."""
    key: str
    """Key of the configuration, or option of the launch, that it is about."""
    message: str
    """What is wrong, with the numbers that show it."""
    suggestion: Mapping[str, Any] = field(default_factory=dict)
    """Values of keys that would solve it; empty where only a person can."""

    def text(self) -> str:
        """Return the finding as text, with its suggestion."""
        changes = ", ".join(f"{key} {value!r}" for key, value in self.suggestion.items())
        return f"{self.severity}: {self.key}: {self.message}" + (f" -> {changes}" if changes else "")


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Return findings with the worst ones first, otherwise in their order."""
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))
