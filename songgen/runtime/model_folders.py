"""Files of model folders: which belong to the model, and the only function that copies them.

A model folder may come from anyone, and what is copied from it into a run's folder is published with the run. So a
folder must not reach what is outside of it: neither by a path in its `config.json` nor by a link.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from songgen.runtime.file_hashes import HASHES_FILE, checked
from songgen.runtime.json_files import read_json_object
from songgen.runtime.pretrained import find_folder, is_inside, require_inside
from songgen.runtime.tensor_files import MODEL_CONFIG_FILE

COPIED_ENDINGS = frozenset({".json", ".safetensors", ".txt", ".model", ".md"})
"""File name endings that are copied and published: formats that only hold data, never pickles."""

DOWNLOADED = tuple(f"*{ending}" for ending in sorted(COPIED_ENDINGS))
"""What is taken from a hub repository."""

PIPELINE_FILE = "model_index.json"
"""File in the folder of a model that is a diffusers pipeline: the class of each component, in a folder of its name."""

MODEL_CONFIG_FILES = (PIPELINE_FILE, MODEL_CONFIG_FILE)
"""Files that mark the folder of a model; the first one that a folder has counts."""

CHECKPOINT_NAME = re.compile(r"checkpoint-\d+(-\d+)?")
"""Names of the checkpoints in the output folder of a run."""

_ADAPTER_CONFIG_FILE = "adapter_config.json"
"""File of PEFT's adapter folders."""


def model_config_file(folder: Path) -> Path | None:
    """Return the file that marks a folder as that of a model and says of which kind; None if it has none."""
    return next((path for name in MODEL_CONFIG_FILES if (path := folder / name).is_file()), None)


def resolve_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    patterns: Sequence[str] = DOWNLOADED,
    marks: Sequence[str] = MODEL_CONFIG_FILES,
) -> Path:
    """Return the local folder of a model given by path or hub id, downloading the latter.

    Args:
        name: folder or hub id.
        revision: branch, tag or commit of a hub repository.
        cache_dir: where downloads are kept.
        patterns: files to take from a hub repository.
        marks: files of which the folder must have one.

    Raises:
        ValueError: if there is no such folder, the hub does not hand it over, or it holds none of the files.
    """
    folder = find_folder(name, patterns=patterns, revision=revision, cache_dir=cache_dir)
    if not any((folder / mark).is_file() for mark in marks):
        held = " and no ".join(reversed(marks))
        raise ValueError(f"{folder} is not a model folder: it holds no {held}{_model_nearby(folder)}")
    return folder


def _model_nearby(folder: Path) -> str:
    """Say where the model is if a folder is a checkpoint of a run, or a run that has not written its model yet."""
    if (folder / PIPELINE_FILE).is_file():
        return f", but the {PIPELINE_FILE} of a diffusers pipeline, which is a model of another family"
    if (folder / _ADAPTER_CONFIG_FILE).is_file():
        return (
            ", because it holds an adapter; generate with it and its base (--adapter), or merge both into a model "
            "first (`songgen export FOLDER --merge OUT`)"
        )
    is_checkpoint = CHECKPOINT_NAME.fullmatch(folder.resolve().name) is not None
    run = folder.resolve().parent if is_checkpoint else folder
    if not is_checkpoint and not any(CHECKPOINT_NAME.fullmatch(path.name) for path in run.iterdir()):
        return ""
    what = (
        f", because it is a checkpoint (`songgen export {folder} --model OUT` makes a model of it)"
        if is_checkpoint
        else ""
    )
    if model_config_file(run) is not None:
        return f"{what}; the model that the run has written is {run}"
    return (
        f"{what}; the run in {run} has not written its model yet, which it does at its end, or when it is stopped "
        "(Ctrl-C, or a file named STOP in its folder)"
    )


@dataclass(frozen=True)
class ModelFiles:
    """Files of a family's model folders."""

    weights: Callable[[Path], Sequence[str]]
    """Names of the weight files of a folder, safetensors."""
    files: tuple[str, ...] = ()
    """Other files that belong to the model."""
    folders: tuple[str, ...] = ()
    """Folders of networks and tokenizers, whose data files all belong to the model."""
    config: str = MODEL_CONFIG_FILE
    """Name of the file that marks the folder."""

    def names(self, folder: Path) -> list[str]:
        """Return the paths of the model's files in a folder, without links that lead out of it."""
        single = dict.fromkeys([self.config, *self.weights(folder), *self.files])
        found = [folder / name for name in single if (folder / name).is_file()]
        found += [path for part in self.folders for path in _data_files(folder / part)]
        names = dict.fromkeys(path.relative_to(folder).as_posix() for path in found if is_inside(path, folder))
        return list(names)


def read_model_config(folder: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Read the `config.json` of a model folder, and refuse paths in it that leave the folder.

    Args:
        folder: model folder.
        keys: keys that name a folder in the model's folder, or a hub id: as a text, or as the `path` of an object.

    Raises:
        ValueError: if the file cannot be read, has changed since it was written, or names a place outside of the
            folder.
    """
    path = checked(folder / MODEL_CONFIG_FILE)
    config = read_json_object(path)
    if leaving := leaving_paths(config, keys):
        raise ValueError(
            f"{path} names places outside of the model folder ({'; '.join(leaving)}), and a model folder must not "
            "reach other files. Copy them into the folder and give their names there, give hub ids, or name them in "
            "the configuration of the run"
        )
    return config


def leaving_paths(config: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return `key: path` for each path of a model's configuration that leaves the model's folder."""
    values = {key: config.get(key) for key in keys}
    paths = {key: value.get("path") if isinstance(value, dict) else value for key, value in values.items()}
    return [f"{key}: {path}" for key, path in paths.items() if path is not None and not _stays(path)]


def _stays(path: Any) -> bool:
    """Return whether a path is relative and has no part that leads upwards."""
    if not isinstance(path, str) or "\\" in path or "\0" in path or path.startswith("~"):
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def part_files(part: Path, folder: Path) -> list[Path]:
    """Return the files of a network or tokenizer that are copied and published, sorted.

    Files with other endings, hidden ones, manifests and links to folders are left out.

    Args:
        part: folder of the network or tokenizer.
        folder: folder that links must not leave: the model's folder, or the same one.

    Raises:
        ValueError: if a link leads out of the folder.
    """
    require_inside(part, folder)
    found = list(_data_files(part))
    for path in found:
        require_inside(path, folder)
    return found


def _data_files(part: Path) -> Iterator[Path]:
    """Yield the files with listed endings, sorted, whether or not they are links; links to folders are not followed."""
    for parent, folders, names in os.walk(part):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent) / name
            if path.suffix in COPIED_ENDINGS and not name.startswith(".") and name != HASHES_FILE and path.is_file():
                yield path


def copy_part(part: Path, target: Path, folder: Path) -> None:
    """Copy a network, a tokenizer or a single file of a model folder. Nothing else copies files of models.

    Args:
        part: folder, or single file.
        target: path of the copy; other files in an existing folder are kept.
        folder: folder that links must not leave: the model's folder, or `part` itself.

    Raises:
        ValueError: if a link leads out of the folder; then nothing is copied.
    """
    if part.resolve() == target.resolve():
        return
    if part.is_dir():
        pairs = [(path, target / path.relative_to(part)) for path in part_files(part, folder)]
    else:
        require_inside(part, folder)
        pairs = [(part, target)]
    for source, copy in pairs:
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Written next to its place and renamed: a link that is there already is replaced, not written through.
        partial = copy.with_name(f"{copy.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(source, partial)
            partial.replace(copy)
        finally:
            partial.unlink(missing_ok=True)
