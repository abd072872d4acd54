"""Comparison of a model folder with the hashes recorded when it was written, and accepting it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from songgen.adapters.folder import ADAPTER_FILES, is_adapter_folder, require_complete
from songgen.doctor.findings import Finding, error, ok
from songgen.families.registry import DEFAULT_MODEL_TYPE, FAMILIES, family_of
from songgen.lyrics import VOCABULARY_FILES
from songgen.runtime.file_hashes import HASHES_FILE, changed_files, read_hashes, record_hashes
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import part_files
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

TOKENIZER_FILE = "tokenizer.json"
"""File in the folder of a caption tokenizer."""

_ACCEPT = "if you changed it on purpose, accept it with --accept; otherwise restore it from a copy, or write it again"


def examine_hashes(folder: Path) -> Iterator[Finding]:
    """Read every file of a model folder and compare it with its hash."""
    try:
        files = read_hashes(folder)
    except ValueError as problem:
        yield error(HASHES_FILE, str(problem))
        return
    if files is None:
        yield ok(HASHES_FILE, "no hashes: another program or an earlier version wrote this folder")
        return
    problems = changed_files(folder, files)
    for name, reason in problems.items():
        yield error(name, f"it is not as it was written: {reason}", _ACCEPT)
    if not problems:
        size = sum(entry.size for entry in files.values()) / 2**20
        yield ok(HASHES_FILE, f"{len(files)} files, {size:,.1f} MiB; every byte is as written")


def accept(folder: Path) -> list[str]:
    """Record the present hashes of a model folder, of an adapter's, or of one with a codec, a network or tokenizers.

    Returns:
        Paths of the files in the folder.

    Raises:
        ValueError: if the folder is not one of these.
    """
    path = folder / MODEL_CONFIG_FILE
    if path.is_file() and read_json_object(path).get("model_type", DEFAULT_MODEL_TYPE) in FAMILIES:
        names = family_of(folder).model_files.names(folder)
    elif not path.is_file() and is_adapter_folder(folder):
        require_complete(folder)
        names = list(ADAPTER_FILES)
    elif path.is_file() or any((folder / name).is_file() for name in (*VOCABULARY_FILES, TOKENIZER_FILE)):
        names = [file.relative_to(folder).as_posix() for file in part_files(folder, folder)]
    else:
        raise ValueError(
            f"{folder} is not the folder of a model, an adapter, a network or tokenizers: there is nothing to accept"
        )
    record_hashes(folder, names)
    return names
