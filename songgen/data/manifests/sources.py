"""Sources of manifest rows: a table (JSON, CSV, Parquet), a folder of songs, a list, a saved or hub data set.

Each source is an iterator over raw rows. Nothing here decodes audio.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from songgen.data.manifests.findings import Notices
from songgen.data.manifests.folders.song_folder import AUDIO_SUFFIXES, TENSOR_SUFFIXES, read_song_folder
from songgen.data.manifests.ljspeech import find_list, read_list
from songgen.data.manifests.raw_rows import ColumnNames, RawRow, caption_of_variants, join_tags
from songgen.data.manifests.tables import FOLDER_TABLES, TABLE_SUFFIXES, has_header, read_table
from songgen.runtime.files import file_sha256

ARROW_BATCH_ROWS = 32
"""Rows of a hub or saved data set in memory at once, each of which may contain whole audio files."""


@dataclass(frozen=True)
class ManifestSpec:
    """A manifest to read."""

    name: str
    """Path of a table, folder of songs, LJSpeech list or `save_to_disk` folder, or id of a hub data set."""

    config_name: str | None = None
    """Configuration of a hub data set."""

    split: str = "train"
    """Split of a saved or hub data set."""

    max_rows: int | None = None
    """Number of first rows to read; None for all."""

    annotations: str | None = None
    """Another manifest, whose columns are merged by id."""

    method: str = "auto"
    """Format: "json" (a table, whether JSON, CSV or Parquet), "folder", "ljspeech" or "hf" (a saved or hub data set);
    "auto" detects it."""


@dataclass
class RowSource:
    """An open manifest."""

    rows: Iterator[RawRow]
    """Rows, read on demand."""

    base_folders: tuple[Path, ...]
    """Folders to which audio paths are relative, and which may contain audio."""

    may_repeat_rows: bool = False
    """Whether identical rows count as one (the ACE-Step converter repeats every row `repeat_count` times)."""

    notices: Notices = field(default_factory=Notices)
    """Oddities that are not errors; filled while rows are read."""


def open_source(spec: ManifestSpec, columns: ColumnNames, spool_folder: Path) -> RowSource:
    """Open a manifest of any kind.

    Args:
        spec: Manifest to read.
        columns: Column names for the rows of a folder, so that all sources look the same.
        spool_folder: Folder for audio that is stored inside a data set.

    Raises:
        ValueError: if the manifest does not exist.
    """
    path = Path(spec.name)
    method = _find_method(path, spec) if spec.method == "auto" else spec.method
    if method == "json":
        return _open_table(path, columns, spool_folder)
    if method == "folder":
        if not path.is_dir():
            raise ValueError(f"there is no folder {path} (looked from {Path.cwd()})")
        source = RowSource(iter(()), (path.resolve(),))
        source.rows = read_song_folder(path, columns, source.notices)
        return source
    if method == "ljspeech":
        listing = find_list(path) if path.is_dir() else path
        if listing is None or not listing.is_file():
            raise ValueError(f"there is no list of path|text at {path} (looked from {Path.cwd()})")
        return RowSource(read_list(listing, columns), (listing.parent.resolve(),))
    if path.is_dir():
        rows = _read_saved(path, spec, columns, spool_folder)
        return RowSource(rows, (path.resolve(), path.resolve().parent, spool_folder.resolve()), may_repeat_rows=True)
    return _open_hub(spec, columns, spool_folder)


def _open_table(path: Path, columns: ColumnNames, spool_folder: Path) -> RowSource:
    """Open a manifest, or the manifest in a folder."""
    manifest = _table_in(path) if path.is_dir() else path
    if manifest is None:
        names = ", ".join(FOLDER_TABLES)
        raise ValueError(
            f"there is no manifest in the folder {path} ({names}), but loading_method (`method` of an input in songgen "
            'prepare) is "json"; "auto" or "folder" reads a folder of songs'
        )
    if not manifest.is_file():
        raise ValueError(f"there is no manifest {manifest} (looked from {Path.cwd()})")
    rows = (_converted(row, columns, spool_folder) for row in read_table(manifest))
    holds_audio = manifest.suffix.lower() == ".parquet"
    return RowSource(rows, (manifest.parent.resolve(), *([spool_folder.resolve()] if holds_audio else [])))


def _table_in(folder: Path) -> Path | None:
    return next((path for name in FOLDER_TABLES if (path := folder / name).is_file() and _is_table(path)), None)


def _is_table(path: Path) -> bool:
    """Return whether a file is a manifest, and not a list of path|text."""
    return path.suffix.lower() not in (".csv", ".tsv", ".txt") or has_header(path)


def _find_method(path: Path, spec: ManifestSpec) -> str:
    if path.is_file():
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            return "json" if _is_table(path) else "ljspeech"
        if path.suffix.lower() in TENSOR_SUFFIXES:
            raise ValueError(f"{spec.name} has tensors that another program made, and is never opened; name its songs")
        if path.suffix.lower() not in TABLE_SUFFIXES:
            raise ValueError(
                f"manifest {spec.name} must be a .jsonl file (one JSON object a line), JSON, CSV with a header, "
                "Parquet, or a list of path|text; save another table as CSV"
            )
        return "json"
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return "hf"
        if _table_in(path) is not None:
            return "json"
        return "folder" if find_list(path) is None else "ljspeech"
    looks_local = path.is_absolute() or spec.name.startswith(".") or spec.name.count("/") > 1
    if looks_local or path.suffix.lower() in TABLE_SUFFIXES:
        raise ValueError(f"there is no manifest {spec.name} (looked from {Path.cwd()})")
    return "hf"


def _read_saved(path: Path, spec: ManifestSpec, columns: ColumnNames, spool_folder: Path) -> Iterator[RawRow]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"data set folder {path} cannot be opened: {error}") from error
    if isinstance(dataset, DatasetDict):
        if spec.split not in dataset:
            raise ValueError(f"data set folder {path} has no split {spec.split!r}; it has {', '.join(dataset)}")
        dataset = dataset[spec.split]
    yield from _read_arrow(dataset, str(path), columns, spool_folder)


def _open_hub(spec: ManifestSpec, columns: ColumnNames, spool_folder: Path) -> RowSource:
    from datasets import config, load_dataset

    try:
        dataset = load_dataset(spec.name, spec.config_name, split=spec.split)
    except Exception as error:  # the client raises many types with the same meaning for the user
        raise ValueError(
            f"{spec.name} is neither a file or folder here nor a data set that can be loaded from the hub: {error}"
        ) from error
    folders = (spool_folder.resolve(), Path(config.HF_DATASETS_CACHE).resolve(), Path(config.HF_CACHE_HOME).resolve())
    return RowSource(_read_arrow(dataset, spec.name, columns, spool_folder), folders, may_repeat_rows=True)


def _read_arrow(dataset: Any, name: str, columns: ColumnNames, spool_folder: Path) -> Iterator[RawRow]:
    number = 0
    # The arrow format returns the stored values: an Audio column is {bytes, path} and is never decoded.
    for table in dataset.with_format("arrow").iter(batch_size=ARROW_BATCH_ROWS):
        for values in table.to_pylist():
            number += 1
            yield _converted(RawRow(name, number, values), columns, spool_folder)


def _converted(row: RawRow, columns: ColumnNames, spool_folder: Path) -> RawRow:
    """Return a row with audio that is inside of it as a file, and the columns of ACE-Step under their usual names."""
    if row.values is None:
        return row
    values = {
        column: _spool(value, spool_folder) if isinstance(value, dict) and set(value) == {"bytes", "path"} else value
        for column, value in row.values.items()
    }
    if {"keys", "filename", "tags"} <= set(values):
        values = _from_ace_layout(values, columns)
    return replace(row, values=values)


def _spool(audio: dict[str, Any], folder: Path) -> str | None:
    """Write audio that is stored in a row to a file named by its content, and return the path."""
    content, path = audio["bytes"], audio["path"]
    if content is None:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        raise ValueError("a column of audio must contain bytes and path")
    suffix = Path(path or "").suffix.lower()
    # The suffix comes from the data set, so only known ones are used; decoders detect the format by content.
    sha256 = hashlib.sha256(content).hexdigest()
    target = folder / (sha256 + (suffix if suffix in AUDIO_SUFFIXES else ""))
    # A file of an earlier run may be damaged since; its size and time would not show it.
    if not target.is_file() or target.stat().st_size != len(content) or file_sha256(target) != sha256:
        partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        partial.write_bytes(content)
        os.utime(partial, (0, 0))  # equal times: a file that is written again counts as unchanged
        partial.replace(target)
    return str(target)


def _from_ace_layout(values: dict[str, Any], columns: ColumnNames) -> dict[str, Any]:
    """Rename the columns of an ACE-Step data set; speaker_emb_path is dropped, and recaption used only without tags."""
    tags = values["tags"]
    if isinstance(tags, list):
        caption: Any = join_tags(str(tag) for tag in tags)
        if not caption and isinstance(values.get("recaption"), dict):
            caption = caption_of_variants(values["recaption"], str(values["keys"]))
    else:
        caption = tags
    renamed = {
        columns.id or "id": values["keys"],
        columns.target: values["filename"],
        columns.caption: caption,
        columns.lyrics: values.get("norm_lyrics"),
    }
    taken = {"keys", "filename", "tags", "norm_lyrics", "recaption", "speaker_emb_path"}
    return renamed | {column: value for column, value in values.items() if column not in taken}
