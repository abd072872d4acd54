"""Files of a checkpoint folder: written so that they survive a power cut, and checked before anything is read.

A complete folder holds the files of `checkpoint_files` and `manifest.json`, which lists their sizes and hashes. The
manifest is written after all other files, and the folder is renamed to its final name after the manifest. So a folder
with a final name, whose manifest matches its files, is complete. No file is a pickle: tensors are safetensors, the rest
is JSON.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from songgen.runtime import files
from songgen.runtime.file_hashes import FileEntry, describe_files, sealed, unsealed
from songgen.runtime.records import Format
from songgen.runtime.status import RUN_CONFIG_FILE as RUN_CONFIG_FILE
from songgen.runtime.tensor_files import non_finite_tensors
from songgen.train.checkpoints.state import TRAINER_STATE_FILE

MANIFEST_FILE = "manifest.json"
MANIFEST_SCHEMA_VERSION = 1
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
AVERAGE_FILE = "average.safetensors"

FAULT_VARIABLE = "SONGGEN_FAULT"
"""Environment variable for tests: name of the point at which the process kills itself; see `fault_point`."""

_FREE_FACTOR = 1.2
_SHOWN_NAMES = 5
_SPARE_BYTES = 16 * 1024**2
_RANDOM_STATE_PREFIX = "random_state-"


def random_state_file(rank: int) -> str:
    """Return the name of the file with one process's random number generators."""
    return f"{_RANDOM_STATE_PREFIX}{rank:05d}.safetensors"


def is_random_state(name: str) -> bool:
    """Return whether a file of this name holds random number generators."""
    return name.startswith(_RANDOM_STATE_PREFIX)


def checkpoint_files(world_size: int, model_files: Sequence[str] = (MODEL_FILE,)) -> list[str]:
    """Return the names of all files of a checkpoint except the manifest.

    Args:
        world_size: number of processes of the run.
        model_files: files of the trained weights.
    """
    own = [random_state_file(rank) for rank in range(world_size)]
    return [*model_files, OPTIMIZER_FILE, AVERAGE_FILE, TRAINER_STATE_FILE, RUN_CONFIG_FILE, *own]


def fault_point(name: str) -> None:
    """Kill this process at once if the environment variable `SONGGEN_FAULT` names this point (for tests).

    The points of a save, in order: `after_folder`, `after_file:<file name up to its dot>` for each file,
    `after_manifest`, `after_rename`, `after_retire` (an old checkpoint is renamed and not yet removed).
    """
    if os.environ.get(FAULT_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Manifest:
    """Manifest of a complete checkpoint."""

    serial: int
    """Number of the save in its output folder; the newest checkpoint has the highest one."""
    step: int
    """Completed optimizer steps."""
    epoch: int
    """Epoch of the next step."""
    world_size: int
    """Number of processes of the run."""
    best: bool
    """Whether the evaluation loss was the lowest so far."""
    config_sha256: str
    """SHA-256 of the resolved configuration, keys sorted."""
    parameters: list[tuple[str, list[int]]]
    """Names and shapes of the trained parameters, in the model's order."""
    files: dict[str, FileEntry]
    """Entries of all files except the manifest, by name."""
    model_files: list[str] = field(default_factory=lambda: [MODEL_FILE])
    """Files of the trained weights, the one with the tensors first."""
    schema_version: int = MANIFEST_SCHEMA_VERSION
    """Version of this record."""

    def to_json(self) -> str:
        """Return the record as JSON text, with its own hash."""
        return sealed(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest that this or an earlier version wrote.

        Raises:
            ValueError: if it is damaged, or of a newer version.
        """
        return _MANIFEST_FORMAT.read(unsealed(text, MANIFEST_FILE), MANIFEST_FILE)


_MANIFEST_FORMAT = Format(Manifest, MANIFEST_SCHEMA_VERSION, fix="use another checkpoint")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file and flush it to the disk."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    file_written(path)


def file_written(path: Path) -> None:
    """Flush a file of a checkpoint to the disk."""
    files.synchronize(path)
    fault_point(f"after_file:{path.name.split('.')[0]}")


def write_text(path: Path, text: str) -> None:
    """Write a text file and flush it to the disk."""
    files.write_text(path, text)
    fault_point("after_manifest" if path.name == MANIFEST_FILE else f"after_file:{path.name.split('.')[0]}")


def room_needed(tensor_bytes: int) -> int:
    """Return the free bytes to require before a save: a fifth more than its tensors, and a margin for small files."""
    return math.ceil(_FREE_FACTOR * tensor_bytes) + _SPARE_BYTES


def describe_saved(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Return the sizes and hashes of the files of a checkpoint that is being saved.

    Raises:
        ValueError: if a file is missing.
    """
    names = list(names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing in {folder}; with several machines, output_dir must be a folder that all "
            "of them share"
        )
    return describe_files(folder, names)


def read_manifest(folder: Path, *, random_state_optional: bool = False) -> Manifest:
    """Read the manifest of a checkpoint and check that all files exist with their sizes; hashes are not computed.

    Args:
        folder: folder of the checkpoint.
        random_state_optional: whether files with random state may be missing.

    Raises:
        ValueError: if something is missing or wrong; the message says what.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ValueError(f"{MANIFEST_FILE} is missing, so the save did not end")
    try:
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{MANIFEST_FILE} cannot be read ({error})") from error
    expected = checkpoint_files(manifest.world_size, manifest.model_files)
    if not manifest.model_files or any(Path(name).name != name for name in manifest.model_files):
        raise ValueError(f"{MANIFEST_FILE} lists {manifest.model_files} as the files of the weights")
    if sorted(manifest.files) != sorted(expected):
        raise ValueError(f"{MANIFEST_FILE} lists {sorted(manifest.files)}, expected {sorted(expected)}")
    for name, entry in manifest.files.items():
        if not (folder / name).is_file():
            if random_state_optional and is_random_state(name):
                continue
            raise ValueError(f"{name} is missing")
        size = (folder / name).stat().st_size
        if size != entry.size:
            raise ValueError(f"{name} has {size} bytes instead of {entry.size}")
    return manifest


def verify(folder: Path, *, random_state_optional: bool = False) -> Manifest:
    """Read the manifest of a checkpoint and check that every byte is as it was saved, and every value finite.

    A checkpoint with NaN or infinity can only continue as such. Earlier versions saved them; see `CheckpointManager`.

    Args:
        folder: folder of the checkpoint.
        random_state_optional: whether files with random state may be missing.

    Raises:
        ValueError: if something is missing or damaged; the message says what.
    """
    manifest = read_manifest(folder, random_state_optional=random_state_optional)
    try:
        present = describe_files(folder, [name for name in manifest.files if (folder / name).is_file()])
    except OSError as error:
        raise ValueError(f"a file cannot be read ({error})") from error
    for name, entry in manifest.files.items():
        if present.get(name, entry) != entry:
            raise ValueError(f"{name} is damaged (its hash does not fit)")
    for name in (manifest.model_files[0], OPTIMIZER_FILE, AVERAGE_FILE):
        if bad := non_finite_tensors(folder / name):
            raise ValueError(f"{name} holds NaN or infinity in {shown(bad)}")
    return manifest


def shown(names: Sequence[str]) -> str:
    """Return the first names of a list as text, with the number of further ones."""
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
