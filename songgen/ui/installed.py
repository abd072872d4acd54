"""Versions of the packages, and the extras of songgen that are installed or missing."""

import importlib.metadata
import platform
import re
from dataclasses import dataclass

SHOWN = ("torch", "transformers", "accelerate", "peft", "diffusers", "bitsandbytes", "datasets", "starlette", "uvicorn")
"""Packages whose versions are shown."""

HIDDEN_EXTRAS = frozenset({"dev"})
"""Extras for those who work on songgen itself."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([\w-]+)['"]""")


@dataclass(frozen=True)
class Extra:
    """Packages for one purpose, which `pip install "songgen[NAME]"` installs."""

    name: str
    """Name of the extra."""

    missing: tuple[str, ...]
    """Packages that are not installed; empty if it can be used."""


def versions() -> dict[str, str | None]:
    """Return package -> version, None for one that is not installed; Python first."""
    return {"Python": platform.python_version(), **{name: _version(name) for name in SHOWN}}


def extras() -> list[Extra]:
    """Return the extras by name; none if songgen was not installed as a package."""
    try:
        requirements = importlib.metadata.requires("songgen") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    packages: dict[str, list[str]] = {}
    for requirement in requirements:
        extra, name = _EXTRA.search(requirement), _REQUIREMENT.match(requirement)
        if extra and name and extra[1] not in HIDDEN_EXTRAS:
            packages.setdefault(extra[1], []).append(name[1])
    return [
        Extra(extra, tuple(name for name in names if name != "songgen" and _version(name) is None))
        for extra, names in sorted(packages.items())
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
