"""Everything in the folders of the page: data sets, runs, models and adapters, as `songgen list` finds them.

Finding them imports torch, which takes seconds the first time; so the imports are inside of functions, and `warm_up`
does them in the background when the page starts.
"""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songgen.jobs.log import read_text_end
from songgen.runtime.json_files import parse_json, read_json_object
from songgen.runtime.model_folders import CHECKPOINT_NAME
from songgen.runtime.status import RUN_CONFIG_FILE
from songgen.train.reporting.milestones import LOSS_METRICS
from songgen.ui.workspace import Workspace

if TYPE_CHECKING:
    from songgen.doctor.listing import Entry

SOURCE_SIGNS = (".git", "pyproject.toml", "setup.py")
"""Files of a folder with source code. Only `LISTED` is searched in it: its tests may contain runs, too."""

LISTED = ("datasets", "models", "outputs")
"""Folders that are searched in a folder with source code."""

FRESH_SECONDS = 2.0
"""Seconds for which a list is used again; two tabs and several parts of the page ask for it."""

MAX_LINES = 200
"""Lines that are read from the end of a file with metrics, which may have a hundred thousand."""

METRICS, ADAPTER_CONFIG = "metrics.jsonl", "adapter_config.json"


@dataclass(frozen=True)
class Item:
    """A data set, run, checkpoint, model or adapter."""

    folder: str
    """Path, as commands take it."""

    kind: str
    """Kind of the entry (`songgen.doctor.listing.Entry.kind`)."""

    state: str
    """State of the entry."""

    detail: str
    """Step and plan of a run, reason of a failure, problem of a file."""

    changed: float
    """Time of the last change, in seconds since 1970."""

    clips: int | None = None
    """Number of clips of a data set."""

    hours: float | None = None
    """Total length of the clips in hours."""

    size: int | None = None
    """Size of the weights in bytes."""

    loss: float | None = None
    """Last training loss of a run."""

    held_out_loss: float | None = None
    """Last loss of a run on held-out clips."""

    data: str = ""
    """Data set that it was trained on; empty if that is not known."""

    base: str = ""
    """Model that it was trained from, or that an adapter needs; empty if that is not known."""

    is_adapter: bool = False
    """Whether it holds an adapter, which needs its base."""

    has_model: bool = False
    """Whether songs can be generated with it."""

    checkpoints: int = 0
    """Number of checkpoints of a run."""

    tracks: tuple[str, ...] = field(default=())
    """Tracks of a data set."""


class Library:
    """The list of a workspace, kept for a moment."""

    def __init__(self, workspace: Workspace) -> None:
        """Search nothing yet."""
        self._workspace = workspace
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._time = float("-inf")

    def items(self) -> list[Item]:
        """Return everything, newest first."""
        with self._lock:
            if time.monotonic() - self._time > FRESH_SECONDS:
                self._items = [self._item(entry) for entry in self._found(searched_folders(self._workspace))]
                self._time = time.monotonic()
            return self._items

    def forget(self) -> None:
        """Search again when the list is needed next."""
        with self._lock:
            self._time = float("-inf")

    def item(self, folder: Path) -> Item | None:
        """Return what a folder is; None if it is not one of a known kind."""
        found = [entry for entry in self._found([folder]) if Path(entry.folder) == folder]
        return self._item(found[0]) if found else None

    def checkpoints(self, run: Path) -> list[Item]:
        """Return the checkpoints of a run, newest first."""
        folders = [path for path in run.glob("checkpoint-*") if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()]
        found = [self._item(entry) for entry in self._found(folders)]
        return [replace(item, data="", base="") for item in found]

    def _found(self, folders: list[Path]) -> "list[Entry]":
        """Return the entries in folders, without those that a link outside of the page's folders leads to."""
        from songgen.doctor.listing import find_entries

        return find_entries(folders, self._workspace.folders)

    def _item(self, entry: "Entry") -> Item:
        folder = Path(entry.folder)
        config = values_of(folder / RUN_CONFIG_FILE)
        is_adapter = (folder / ADAPTER_CONFIG).is_file()
        losses = last_losses(folder / METRICS) if entry.kind == "run" else {}
        return Item(
            folder=self._workspace.shown(folder),
            kind=entry.kind,
            state=entry.state,
            detail=entry.detail,
            changed=entry.changed,
            clips=entry.rows,
            hours=entry.hours,
            size=entry.size,
            loss=losses.get("train"),
            held_out_loss=losses.get("eval"),
            data=self._named(config.get("save_to_disk")),
            base=self._named(_base(folder, config, is_adapter=is_adapter)),
            is_adapter=is_adapter,
            has_model=is_adapter or _has_model(folder),
            checkpoints=sum(1 for path in folder.glob("checkpoint-*") if CHECKPOINT_NAME.fullmatch(path.name)),
            tracks=_texts(values_of(folder / "dataset.json").get("tracks")),
        )

    def _named(self, value: Any) -> str:
        """Return a folder that a configuration names as it is written here; a hub id as it is."""
        if not isinstance(value, str) or not value:
            return ""
        path = self._workspace.root / value
        try:
            return self._workspace.shown(path) if path.exists() or value.startswith(".") else value
        except (OSError, RuntimeError, ValueError):  # too long, a loop of links, or no path
            return value


def searched_folders(workspace: Workspace) -> list[Path]:
    """Return the folders that are searched: those of the page, and in one with source code only its data."""
    found: list[Path] = []
    for folder in workspace.folders:
        if any((folder / sign).exists() for sign in SOURCE_SIGNS):
            found += [folder / name for name in LISTED]
        else:
            found.append(folder)
    # A link may lead out of the folders of the page.
    return [folder for folder in found if folder.is_dir() and workspace.has(folder.resolve())]


def warm_up() -> None:
    """Import what finding entries needs, so that the first page with a list does not wait for it."""
    import songgen.doctor.listing  # noqa: F401


def last_losses(path: Path) -> dict[str, float]:
    """Return the last loss in training (`train`) and on held-out clips (`eval`) in the end of a file with metrics."""
    return last_values(path, {"train": LOSS_METRICS, "eval": ("eval/loss",)})


def last_values(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the last finite values in the end of a file with an object in each line.

    Args:
        path: the file, such as one with metrics.
        wanted: name -> keys, of which the first that is in any of the lines is used.
    """
    lines = read_text_end(path, max_lines=MAX_LINES).text.splitlines()
    found = {name: _last(lines, keys) for name, keys in wanted.items()}
    return {name: value for name, value in found.items() if value is not None}


def _last(lines: Sequence[str], names: Sequence[str]) -> float | None:
    """Return the last finite value of the first of some metrics that is in any line."""
    for name in names:
        for line in reversed(lines):
            value = _metrics(line).get(name) if f'"{name}"' in line else None
            if value is not None and is_number(value):
                return float(value)
    return None


def _metrics(line: str) -> dict[str, Any]:
    try:
        values = parse_json(line, constants=True)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number: damaged files may have other values, and a loss may be NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts; nothing for another value, which a damaged file may have."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def values_of(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is none or it is damaged."""
    try:
        return read_json_object(path) if path.is_file() else {}
    except (OSError, ValueError):
        return {}


def _base(folder: Path, config: dict[str, Any], *, is_adapter: bool) -> Any:
    """Return the base that an adapter names, or the model that a run started from."""
    if is_adapter:
        from songgen.adapters.choice import base_of

        try:
            return base_of(folder)
        except ValueError:  # its weights are damaged or missing: its configuration may still name the base
            return values_of(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return config.get("model_name_or_path")


def _has_model(folder: Path) -> bool:
    from songgen.runtime.model_folders import model_config_file

    return model_config_file(folder) is not None and any(
        next(place.glob("*.safetensors"), None) is not None for place in (folder, folder / "transformer")
    )
