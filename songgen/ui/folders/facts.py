"""Facts of one folder, from its small files: its configuration, what it was made of, its files and sounds."""

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.runtime.files import read_regular
from songgen.runtime.json_files import MAX_JSON_BYTES
from songgen.runtime.status import RUN_CONFIG_FILE
from songgen.tasks import task_of_layout
from songgen.ui.folders.library import values_of
from songgen.ui.workspace import Workspace
from songgen.web.answers import AUDIO_TYPES

CONFIGURATIONS = (
    RUN_CONFIG_FILE,
    "config.json",
    "model_index.json",
    "adapter_config.json",
    "prepare.json",
    "dataset.json",
    "trainer_state.json",
    "run_status.json",
)
"""Files that are shown as text, if a folder has them."""

SHOWN_CHARACTERS = 60_000
"""Maximum number of characters of a configuration that is shown."""

SHOWN_FILES = 300
"""Maximum number of files that are shown."""

SOUND_TYPES = AUDIO_TYPES | {".m4a": "audio/mp4", ".aac": "audio/aac"}
"""Ending of a sound file that may be sent -> its type."""

SOUNDS = frozenset(SOUND_TYPES) - {".aif", ".aiff"}
"""Endings of sound files that get a player. Chromium and Firefox do not decode AIFF."""

MAX_SONGS = 12
"""Maximum number of songs that are offered on a folder's page."""

_TRACK = re.compile(r"(?P<song>.+)[._](?P<track>mix|vocal|acc)")
"""Stem of the file of one track of a song, as songs are written by `songgen generate` and by runs."""


@dataclass(frozen=True)
class FileEntry:
    """A file or folder in a folder."""

    name: str
    """Its name."""

    path: str
    """Path, as commands take it."""

    size: int | None
    """Size in bytes; None for a folder."""


@dataclass(frozen=True)
class Song:
    """A song in a folder: one sound, or the tracks of it."""

    name: str
    """Its name, with the subfolder that it is in."""

    tracks: tuple[tuple[str, str], ...]
    """Name and path of each track; the name of a single sound is empty."""


@dataclass(frozen=True)
class Facts:
    """Facts from small files about a model, adapter or data set; an empty text or None where they have none."""

    family: str = ""
    """Kind of the model, as its configuration names it."""

    layout: str = ""
    """Token layout."""

    task: str = ""
    """Tracks that are written: `mixed` or `dual_track`."""

    codec: str = ""
    """Kind of the audio codec."""

    base: str = ""
    """Base model that an adapter names."""

    method: str = ""
    """Kind of adapter."""

    rank: int | None = None
    """Rank of an adapter."""

    alpha: int | None = None
    """Alpha of an adapter; alpha / rank is its scale."""

    targets: str = ""
    """Layers that an adapter changes."""

    quantization: str = ""
    """Quantization of the base while the adapter was trained."""

    steps: int | None = None
    """Completed optimizer steps of an adapter."""

    sample_rate: int | None = None
    """Sample rate of a data set in Hz."""

    splits: str = ""
    """Splits of a data set."""


def facts_of(folder: Path) -> Facts:
    """Return the facts of a folder."""
    config = values_of(folder / "config.json") or values_of(folder / "model_index.json")
    data, adapter = values_of(folder / "dataset.json"), values_of(folder / "adapter_config.json")
    recipe = _recipe(folder) if adapter else {}
    layout = _text(config.get("track_pattern"))
    targets = adapter.get("target_modules")
    return Facts(
        family=_text(config.get("model_type") or config.get("_class_name")),
        layout=layout,
        task=_task(layout),
        codec=_codec(config.get("audio_codec") or data.get("codec_spec")),
        base=_text(recipe.get("base_model") or adapter.get("base_model_name_or_path")),
        method="DoRA" if adapter.get("use_dora") is True else _text(adapter.get("peft_type")),
        rank=_count(adapter.get("r")),
        alpha=_count(adapter.get("lora_alpha")),
        targets=", ".join(map(str, targets)) if isinstance(targets, list) else _text(targets),
        quantization=_text(recipe.get("quantization")),
        steps=_count(recipe.get("steps")),
        sample_rate=_count(data.get("sample_rate")),
        splits=", ".join(sorted(data["splits"])) if isinstance(data.get("splits"), dict) else "",
    )


def files_of(folder: Path, workspace: Workspace) -> tuple[list[FileEntry], int]:
    """Return the files of a folder, folders first, and how many more there are than are shown."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths.sort(key=lambda path: (not path.is_dir(), path.name.casefold()))
    shown = [
        FileEntry(path.name, workspace.shown(folder) + "/" + path.name, _size(path)) for path in paths[:SHOWN_FILES]
    ]
    return shown, len(paths) - len(shown)


def configurations_of(folder: Path, workspace: Workspace) -> dict[str, str]:
    """Return the configuration files of a folder as texts, by name; without links to files elsewhere."""
    return dict(_texts(folder, workspace))


def songs_of(folder: Path, workspace: Workspace) -> tuple[list[Song], int]:
    """Return the songs in a folder and directly inside of it, and how many more there are than `MAX_SONGS`.

    Of a song whose vocal and accompaniment are there, the mix is left out: players mix them.
    """
    tracks: dict[str, dict[str, str]] = {}
    shown = workspace.shown(folder)
    for path in _sounds(folder):
        name = os.path.splitext(path)[0]
        match = _TRACK.fullmatch(name)
        song, track = (match["song"], match["track"]) if match else (name, "")
        tracks.setdefault(song, {})[track] = f"{shown}/{path}"
    songs = [Song(name, _layers(files)) for name, files in sorted(tracks.items())]
    return songs[:MAX_SONGS], max(0, len(songs) - MAX_SONGS)


def _layers(files: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the tracks that sound together: vocal and accompaniment, or else all that there are of one kind."""
    if {"vocal", "acc"} <= files.keys():
        return (("vocal", files["vocal"]), ("acc", files["acc"]))
    return tuple(list(files.items())[:1])


def _sounds(folder: Path) -> Iterator[str]:
    """Yield the paths, in a folder, of the sounds in it and directly inside of its folders, without checkpoints.

    They are in the order of names. Names are looked at first, because there may be 50,000 songs.
    """
    entries = _entries(folder)
    yield from (entry.name for entry in entries if _is_sound(entry))
    for place in entries:
        if place.is_dir(follow_symlinks=False) and not place.name.startswith("checkpoint-"):
            yield from (f"{place.name}/{entry.name}" for entry in _entries(Path(place.path)) if _is_sound(entry))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name; nothing if it cannot be read, as one of several inside of another."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError:
        return []


def _is_sound(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in SOUNDS and entry.is_file()


def _texts(folder: Path, workspace: Workspace) -> Iterator[tuple[str, str]]:
    for name in CONFIGURATIONS:
        try:
            real = workspace.path(str(folder / name))
            text = read_regular(real, MAX_JSON_BYTES).decode("utf-8", errors="replace")
        except (OSError, ValueError):  # there is none, it is too large, or a link leads out of the folders of the page
            continue
        yield name, text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "\n…"


def _recipe(folder: Path) -> dict[str, Any]:
    """Return how an adapter was made; nothing if another program wrote it, or it is damaged."""
    from songgen.adapters.folder import read_recipe

    try:
        recipe = read_recipe(folder)
    except ValueError:
        return {}
    return {} if recipe is None else dataclasses.asdict(recipe)


def _task(layout: str) -> str:
    try:
        return task_of_layout(layout).name
    except ValueError:
        return ""


def _codec(spec: Any) -> str:
    return _text(spec.get("type")) if isinstance(spec, dict) else ""


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
