"""Sizes and SHA-256 of files, recorded when they were written: the manifests of checkpoints and of model folders.

A manifest is a JSON object with a hash of its own, so that damage to it is not taken for damage to a file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.runtime.files import file_sha256, write_text_atomic
from songgen.runtime.json_files import json_sha256, parse_json
from songgen.runtime.records import Format

HASHES_FILE = "file_hashes.json"
"""Manifest of a model folder. Folders that other programs or earlier versions wrote have none."""

HASHES_SCHEMA_VERSION = 1

_HASHING_THREADS = 4

_LISTED_PROBLEMS = 8

_MANIFEST_LEVELS = 2
"""A file is listed by the manifest of its folder, or by that of the folder above (a network in a model's folder)."""

_compared: dict[Path, tuple[Any, ...]] = {}
"""Files that this process found unchanged -> the evidence, so that a file that is opened twice is hashed once."""


@dataclass(frozen=True)
class FileEntry:
    """Entry of a file in a manifest."""

    size: int
    """Size in bytes."""
    sha256: str
    """SHA-256 of the content, hexadecimal."""


@dataclass(frozen=True)
class FileHashes:
    """Manifest of a model folder."""

    files: dict[str, FileEntry]
    """Entries of the files by their path in the folder."""
    schema_version: int = HASHES_SCHEMA_VERSION
    """Version of this record."""


_FORMAT = Format(FileHashes, HASHES_SCHEMA_VERSION, fix="write the folder again")


def sealed(record: Mapping[str, Any]) -> str:
    """Return a manifest as JSON text, with its own hash."""
    return json.dumps({"sha256": json_sha256(record), "manifest": record}, indent=1) + "\n"


def unsealed(text: str, name: str) -> dict[str, Any]:
    """Return a manifest from the text that `sealed` returned.

    Raises:
        ValueError: if it is damaged; the message begins with `name`.
    """
    try:
        outer = parse_json(text)
        record, sha256 = outer["manifest"], outer["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name} is damaged ({type(error).__name__}: {error})") from error
    if json_sha256(record) != sha256:
        raise ValueError(f"{name} is damaged (its hash does not fit)")
    if not isinstance(record, dict):
        raise ValueError(f"{name} is damaged (it holds no JSON object)")
    return record


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Return the sizes and hashes of files; all of them must exist."""
    paths = {name: folder / name for name in names}
    # hashlib releases the interpreter's lock, so threads hash in parallel.
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        hashes = list(pool.map(file_sha256, paths.values()))
    return {
        name: FileEntry(size=path.stat().st_size, sha256=sha256)
        for (name, path), sha256 in zip(paths.items(), hashes, strict=True)
    }


def record_hashes(folder: Path, names: Iterable[str]) -> None:
    """Write the manifest of a model folder. Call it after all its files have been written."""
    record = FileHashes(describe_files(folder, sorted(names)))
    write_text_atomic(folder / HASHES_FILE, sealed(dataclasses.asdict(record)))


def read_hashes(folder: Path) -> dict[str, FileEntry] | None:
    """Return the manifest of a model folder; None if it has none.

    Raises:
        ValueError: if the manifest is damaged, or of a newer version.
    """
    path = folder / HASHES_FILE
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {_fix(folder)}") from error
    try:
        return _FORMAT.read(unsealed(text, str(path)), str(path)).files
    except ValueError as error:
        raise ValueError(f"{error}; {_fix(folder)}") from error


def changed_files(folder: Path, files: Mapping[str, FileEntry]) -> dict[str, str]:
    """Return the files that are not as they were recorded -> what is wrong with each."""
    problems = {}
    present = {}
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            problems[name] = "it is missing"
        elif path.stat().st_size != entry.size:
            problems[name] = f"it has {path.stat().st_size} bytes instead of {entry.size}"
        elif not _is_known(path, entry):
            present[name] = entry
    found = describe_files(folder, present)
    for name, entry in present.items():
        if found[name] == entry:
            _compared[folder / name] = _evidence(folder / name, entry)
        else:
            problems[name] = "its hash does not fit"
    return problems


def checked(path: Path) -> Path:
    """Return the path of a file of a model folder, after comparing the file with the manifest that lists it, if any.

    The file is about to be read, so hashing it costs no second read from the disk: the first one leaves it in memory.

    Raises:
        ValueError: if the file has changed, or the manifest is damaged.
    """
    for folder in list(path.parents)[:_MANIFEST_LEVELS]:
        entry = (read_hashes(folder) or {}).get(path.relative_to(folder).as_posix())
        if entry is not None and path.is_file():
            _require_unchanged(folder, {path.relative_to(folder).as_posix(): entry})
    return path


def checked_folder(folder: Path) -> Path:
    """Return a folder after comparing all its files with the manifests that list them, if any.

    Raises:
        ValueError: if a file has changed or is missing, or the manifest is damaged.
    """
    for above in (folder, folder.parent):
        prefix = "" if above == folder else f"{folder.name}/"
        listed = {name: entry for name, entry in (read_hashes(above) or {}).items() if name.startswith(prefix)}
        _require_unchanged(above, listed)
    return folder


def _require_unchanged(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Compare files with their entries.

    Raises:
        ValueError: if one differs; the message names the files and says how to accept them.
    """
    if problems := changed_files(folder, files):
        listed = [f"- {folder / name}: {problem}" for name, problem in list(problems.items())[:_LISTED_PROBLEMS]]
        more = [f"and {len(problems) - len(listed)} more"] if len(problems) > len(listed) else []
        raise ValueError("\n".join([f"{folder} is not as it was written:", *listed, *more, _fix(folder)]))


def _fix(folder: Path) -> str:
    return (
        "restore it from a copy, or write it again; if you changed it on purpose, accept it as it is with "
        f"`songgen doctor {folder} --accept`"
    )


def _is_known(path: Path, entry: FileEntry) -> bool:
    """Return whether this process has compared a file with this entry, and it has not been replaced since."""
    return _compared.get(path) == _evidence(path, entry)


def _evidence(path: Path, entry: FileEntry) -> tuple[Any, ...]:
    facts = path.stat()
    return entry, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino
