"""Checkpoint folders of an output folder: their names, which are complete, their order, and which may be removed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from songgen.train.checkpoints.files import Manifest, fault_point, read_manifest, verify

_PREFIX = "checkpoint-"
_TEMPORARY = ".tmp-"


def has_checkpoint_name(folder: Path) -> bool:
    """Return whether the name of a folder is one of a checkpoint, or of what an interrupted save or removal left."""
    return folder.name.startswith(_PREFIX)


def free_name(output_dir: Path, step: int) -> str:
    """Return a free name for a step's checkpoint. No name is used twice: a folder cannot be replaced atomically."""
    name, count = f"{_PREFIX}{step}", 1
    while (output_dir / name).exists():
        count += 1
        name = f"{_PREFIX}{step}-{count}"
    return name


def temporary_name(name: str) -> str:
    """Return a name under which a checkpoint is written or removed; such a folder is not a checkpoint."""
    return name + _TEMPORARY + secrets.token_hex(4)


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Return the folders with a checkpoint's name."""
    folders = (path for path in output_dir.glob(f"{_PREFIX}*") if _TEMPORARY not in path.name)
    return sorted(path for path in folders if path.is_dir())


def leftovers(output_dir: Path) -> list[Path]:
    """Return the folders left by interrupted saves and removals; they are not checkpoints."""
    return sorted(output_dir.glob(f"{_PREFIX}*{_TEMPORARY}*"))


def complete_checkpoints(output_dir: Path, *, random_state_optional: bool = False) -> dict[Path, Manifest]:
    """Return the complete checkpoints with their manifests, newest first; hashes are not computed."""
    found = {}
    for folder in checkpoint_folders(output_dir):
        try:
            found[folder] = read_manifest(folder, random_state_optional=random_state_optional)
        except ValueError:
            continue
    return dict(sorted(found.items(), key=lambda entry: entry[1].serial, reverse=True))


def candidates(output_dir: Path, *, random_state_optional: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield each checkpoint with its problem: first the incomplete ones, then the complete ones, newest first.

    Each is only verified when it is yielded. The first one without a problem (empty text) is the one to resume from.
    """
    complete = complete_checkpoints(output_dir, random_state_optional=random_state_optional)
    incomplete = [folder for folder in checkpoint_folders(output_dir) if folder not in complete]
    for folder in [*incomplete, *complete]:
        try:
            verify(folder, random_state_optional=random_state_optional)
        except ValueError as error:
            yield folder, str(error)
        else:
            yield folder, ""


def expendable_checkpoints(complete: Mapping[Path, Manifest], limit: int) -> list[Path]:
    """Return the complete checkpoints that need not be kept.

    Args:
        complete: complete checkpoints with their manifests, newest first.
        limit: number of newest checkpoints to keep (at least one); the latest best one is kept in addition.
    """
    # Retention: the newest ones to resume from, and the latest one marked best, which earlier best ones were until it.
    kept = set(list(complete)[: max(1, limit)])
    kept.update([folder for folder, manifest in complete.items() if manifest.best][:1])
    return [folder for folder in complete if folder not in kept]


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that an interrupted removal leaves no incomplete checkpoint.

    Raises:
        OSError: if it cannot be removed.
    """
    retired = folder.with_name(temporary_name(folder.name))
    folder.rename(retired)
    fault_point("after_retire")
    remove_leftover(retired)


def remove_leftover(folder: Path) -> None:
    """Remove a folder that is not a checkpoint; of a link, such as to another disk, only the link.

    Raises:
        OSError: if it cannot be removed.
    """
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)
