"""Songs that a run has sampled, with their originals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from songgen.train.reporting.trackers import SAMPLES_FOLDER, samples_folder

_GENERATED = re.compile(r"(?P<song>.+)_generated_(?P<track>[^_]+)\.wav")
_STEP_FOLDER = re.compile(r"step_(\d+)")


@dataclass(frozen=True)
class Song:
    """A song that was sampled."""

    name: str
    """Name of the held-out clip."""
    files: tuple[tuple[str, Path], ...]
    """Label, such as "target, mix" -> file."""


def sampled_steps(folder: Path) -> list[int]:
    """Return the steps at which songs may have been sampled, the latest first."""
    names = (path.name for path in folder.glob(f"{SAMPLES_FOLDER}/*"))
    numbers = {int(match[1]) for name in names if (match := _STEP_FOLDER.fullmatch(name))}
    return sorted((number for number in numbers if number), reverse=True)


def songs_of(folder: Path, step: int) -> list[Song]:
    """Return the songs that were sampled at a step, with their originals.

    Links are left out: a folder that comes from elsewhere must not put other files of this machine into a page.
    """
    files: dict[str, list[tuple[str, Path]]] = {}
    for path in sorted(samples_folder(folder, step).glob("*.wav")):
        if match := _GENERATED.fullmatch(path.name):
            original = samples_folder(folder, 0) / f"{match['song']}_original_{match['track']}.wav"
            pairs = (f"target, {match['track']}", original), (f"generated, {match['track']}", path)
            files.setdefault(match["song"], []).extend(
                (label, file) for label, file in pairs if file.is_file() and not file.is_symlink()
            )
    return [Song(name, tuple(found)) for name, found in files.items() if found]


def latest_songs(folder: Path) -> tuple[int, list[Song]]:
    """Return the latest step at which songs were sampled, and these; 0 and none if there are none."""
    found = ((step, songs_of(folder, step)) for step in sampled_steps(folder))
    return next(((step, songs) for step, songs in found if songs), (0, []))
