"""Diagnosis of checkpoints: their content, the one that would be resumed, and why others would not be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from songgen.doctor.findings import Finding, error, ok, warning
from songgen.runtime.file_hashes import FileEntry
from songgen.train.checkpoints.files import read_manifest, verify
from songgen.train.checkpoints.folders import candidates, leftovers
from songgen.train.checkpoints.state import read_trainer_state
from songgen.train.output_folder import has_lone_model

FIX_OF_REJECTED = "it is neither used nor deleted: restore its files from a copy, or remove it"


def examine_checkpoint(folder: Path) -> Iterator[Finding]:
    """Check every byte and every value of a checkpoint."""
    try:
        manifest = verify(folder)
    except ValueError as problem:
        yield error(folder.name, str(problem), FIX_OF_REJECTED)
        return
    description, is_readable = describe(folder)
    if not is_readable:
        yield error(folder.name, description, FIX_OF_REJECTED)
        return
    yield ok(folder.name, f"{description}; every byte is as saved, every value finite")
    for name, entry in manifest.files.items():
        yield ok(name, f"{entry.size:,} bytes")


def examine_checkpoints(folder: Path, *, inexact_allowed: bool, deep: bool) -> Iterator[Finding]:
    """Report which checkpoint of an output folder would be resumed, and the problems of newer ones.

    Older ones are read only with `deep`, because they would not be used.
    """
    chosen: Path | None = None
    count = 0
    for path, problem in candidates(folder, random_state_optional=inexact_allowed):
        count += 1
        description, is_readable = describe(path)
        if problem or not is_readable:
            yield error(path.name, f"not used: {problem or description}", FIX_OF_REJECTED)
        elif chosen is None:
            chosen = path
            yield ok(path.name, f"would be resumed: {description}; every byte is as saved, every value finite")
        else:
            yield ok(path.name, f"{description}; older than the one to be resumed")
        if chosen and not deep:
            break
    if has_lone_model(folder):
        yield warning(
            "checkpoints", "none next to the trained model, so a run is refused: it would replace the model",
            "restore one, or train in another output_dir with this folder as model_name_or_path",
        )  # fmt: skip
    elif not count:
        yield ok("checkpoints", "none was completed yet; the run would start from its first step")
    elif chosen is None:
        yield error(
            "checkpoints",
            "none is valid, so the run refuses to start: it never starts over unless told to",
            "restore one of them, or choose another output_dir to start over",
        )
    for path in leftovers(folder):
        yield warning(path.name, "left by an interrupted save or removal", "the next start removes it")


def describe(folder: Path) -> tuple[str, bool]:
    """Return the position of a checkpoint and True, or the problem with its records and False."""
    try:
        manifest, state = read_manifest(folder, random_state_optional=True), read_trainer_state(folder)
    except (ValueError, TypeError, OSError) as problem:
        return str(problem), False
    size = total_size(manifest.files) / 2**20
    processes = f"{manifest.world_size} process{'es' if manifest.world_size > 1 else ''}"
    best = ", the best so far" if manifest.best else ""
    return (
        f"step {state.step} of {state.total_steps}, {state.epoch} complete epochs, {state.updates} updates, "
        f"{processes}, {size:,.1f} MiB{best}"
    ), True


def total_size(files: dict[str, FileEntry]) -> int:
    """Return the total size of a checkpoint's files in bytes."""
    return sum(entry.size for entry in files.values())
