"""Comparison of a model or data set folder with the hashes recorded when it was written, and accepting it as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from songgen.adapters.folder import ADAPTER_FILES, SHARED_FILES, is_adapter_folder, require_complete
from songgen.data.schema import DATASET_FILE, DatasetInfo
from songgen.doctor.findings import Finding, error, ok, warning
from songgen.families.registry import DEFAULT_MODEL_TYPE, FAMILIES, family_of
from songgen.lyrics import VOCABULARY_FILES
from songgen.prepare.output.writers import INFO_FILE
from songgen.prepare.output.writers import hashed_files as prepared_files
from songgen.runtime.file_hashes import HASHES_FILE, changed_files, read_hashes, record_hashes
from songgen.runtime.json_files import read_json_object
from songgen.runtime.model_folders import PIPELINE_FILE, model_config_file, part_files
from songgen.tokenize.finalize import hashed_files

TOKENIZER_FILE = "tokenizer.json"
"""File in the folder of a caption tokenizer."""

WRITE_AGAIN = "restore it from a copy, or write it again"

_ACCEPT = "if you changed it on purpose, accept it with --accept; otherwise {fix}"


def examine_hashes(
    folder: Path, fix: str = WRITE_AGAIN, is_needed: Callable[[str], bool] = lambda name: True
) -> Iterator[Finding]:
    """Read every file that a folder's manifest lists, and compare it with its hash.

    Args:
        folder: folder of a model, a part of one, or a data set.
        fix: what to do about a change that was not made on purpose.
        is_needed: function that tells by its name whether a file is needed to use the folder; damage to others is a
            warning.
    """
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
        level = error if is_needed(name) else warning
        yield level(name, f"it is not as it was written: {reason}", _ACCEPT.format(fix=fix))
    if not problems:
        size = sum(entry.size for entry in files.values()) / 2**20
        yield ok(HASHES_FILE, f"{len(files)} files, {size:,.1f} MiB; every byte is as written")


def accept(folder: Path) -> list[str]:
    """Record the present hashes of a model folder, an adapter's, one of a network or tokenizers, or a data set.

    Returns:
        Paths of the files in the folder.

    Raises:
        ValueError: if the folder is not one of these.
    """
    config = model_config_file(folder)
    if (folder / DATASET_FILE).is_file():
        (folder / HASHES_FILE).unlink(missing_ok=True)  # otherwise the changed description could not be read
        names = hashed_files(folder, DatasetInfo.read(folder))
    elif (folder / INFO_FILE).is_file():
        names = prepared_files(folder)
    elif config is not None and _is_model(config):
        names = family_of(folder).model_files.names(folder)
    elif config is None and is_adapter_folder(folder):
        require_complete(folder)
        names = [*ADAPTER_FILES, *(name for name in SHARED_FILES if (folder / name).is_file())]
    elif config is not None or any((folder / name).is_file() for name in (*VOCABULARY_FILES, TOKENIZER_FILE)):
        names = [file.relative_to(folder).as_posix() for file in part_files(folder, folder)]
    else:
        raise ValueError(
            f"{folder} is not the folder of a model, an adapter, a network, tokenizers or a data set: there is nothing "
            "to accept"
        )
    record_hashes(folder, names)
    return names


def _is_model(config: Path) -> bool:
    """Return whether a configuration is that of a model, and not of a network in a folder of its own."""
    return config.name == PIPELINE_FILE or read_json_object(config).get("model_type", DEFAULT_MODEL_TYPE) in FAMILIES
