"""The checkpoints of an output folder: their names, which of them are complete, in which order, and which may go."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from songgen.train.checkpoints.files import Manifest, fault_point, read_manifest, verify

_PREFIX = "checkpoint-"
_TEMPORARY = ".tmp-"


def free_name(output_dir: Path, step: int) -> str:
    """A name for the checkpoint of a step. None is taken twice: replacing a folder cannot be done in one step."""
    name, count = f"{_PREFIX}{step}", 1
    while (output_dir / name).exists():
        count += 1
        name = f"{_PREFIX}{step}-{count}"
    return name


def temporary_name(name: str) -> str:
    """A name under which a checkpoint is written or removed; a folder that bears one is no checkpoint."""
    return name + _TEMPORARY + secrets.token_hex(4)


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Folders with a checkpoint's name."""
    folders = (path for path in output_dir.glob(f"{_PREFIX}*") if _TEMPORARY not in path.name)
    return sorted(path for path in folders if path.is_dir())


def leftovers(output_dir: Path) -> list[Path]:
    """Folders that interrupted saves and removals left; they are no checkpoints."""
    return sorted(output_dir.glob(f"{_PREFIX}*{_TEMPORARY}*"))


def complete_checkpoints(output_dir: Path, *, random_state_optional: bool = False) -> dict[Path, Manifest]:
    """Complete checkpoints with their manifests, the newest first; hashes are not computed."""
    found = {}
    for folder in checkpoint_folders(output_dir):
        try:
            found[folder] = read_manifest(folder, random_state_optional=random_state_optional)
        except ValueError:
            continue
    return dict(sorted(found.items(), key=lambda entry: entry[1].serial, reverse=True))


def candidates(output_dir: Path, *, random_state_optional: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield each checkpoint with what is wrong with it: incomplete ones, then the newest first, read as it is yielded.

    The first one with nothing wrong (empty) is the one to go on from.
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
    """Those of the complete checkpoints, given from the newest to the oldest, that need not be kept.

    Args:
        complete: with their manifests.
        limit: how many of the newest are kept (at least one); the latest best one is kept besides.
    """
    kept = set(list(complete)[: max(1, limit)])
    kept.update([folder for folder, manifest in complete.items() if manifest.best][:1])
    return [folder for folder in complete if folder not in kept]


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; it loses its name first, so that however far the removal gets, no half of one is left.

    Raises:
        OSError: it cannot be removed.
    """
    retired = folder.with_name(temporary_name(folder.name))
    folder.rename(retired)
    fault_point("after_retire")
    shutil.rmtree(retired)
