"""Checkpoints that are complete or not there: saved in one rename, checked before they are used, kept by rules.

A save writes `checkpoint-<step>.tmp-<token>`: files, then their manifest, each of them flushed to the disk; then the
folder gets its name `checkpoint-<step>`, if every process succeeded. Names say nothing to the program: step, epoch and
which checkpoint is the newest stand in the files.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from songgen.runtime.files import free_bytes, synchronize
from songgen.runtime.json_files import json_sha256, read_json_object
from songgen.runtime.processes.agreement import all_succeeded, from_main
from songgen.runtime.tensor_files import read_tensors
from songgen.train.checkpoints.files import (
    AVERAGE_FILE,
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    Manifest,
    checkpoint_files,
    describe_files,
    fault_point,
    random_state_file,
    read_manifest,
    room_needed,
    save_tensors,
    verify,
    write_text,
)
from songgen.train.checkpoints.folders import (
    candidates,
    complete_checkpoints,
    expendable_checkpoints,
    free_name,
    leftovers,
    remove_checkpoint,
    temporary_name,
)
from songgen.train.checkpoints.state import (
    TRAINER_STATE_FILE,
    CheckpointContents,
    TrainerState,
    read_trainer_state,
    upgraded_config,
)

logger = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3
"""A run goes on after a failed save; after this many in a row it ends."""


class CheckpointError(RuntimeError):
    """Saves failed so often that the run would go on without a way back."""


@dataclass(frozen=True)
class SavedRun:
    """The run that a checkpoint belongs to."""

    state: TrainerState
    """Where it stands."""
    config: dict[str, Any]
    """Its resolved configuration."""
    world_size: int
    """Its processes."""


class CheckpointManager:
    """Saves, finds and loads the checkpoints of one output folder. Every method is called by all processes together."""

    def __init__(
        self,
        output_dir: Path,
        *,
        save_total_limit: int | None,
        rank: int,
        world_size: int,
        allow_inexact: bool = False,
    ) -> None:
        """Look after a folder; what an interrupted save left there is removed by the main process.

        Args:
            output_dir: folder of the run, the same for all processes.
            save_total_limit: complete checkpoints to keep, the newest ones (at least one); the best one and the one
                resumed from are kept besides. None: all.
            rank: of this process.
            world_size: number of processes.
            allow_inexact: use checkpoints whose random state is missing, too.
        """
        self.output_dir = output_dir
        self.save_total_limit = save_total_limit
        self.rank = rank
        self.world_size = world_size
        self.allow_inexact = allow_inexact
        self.failed_saves = 0
        self._protected: Path | None = None
        self._verified: Path | None = None
        self._rejected: set[str] = set()
        if rank == 0:
            for leftover in leftovers(output_dir):
                logger.warning("removed %s, which an interrupted save left", leftover)
                shutil.rmtree(leftover, ignore_errors=True)

    def save(self, contents: CheckpointContents, *, best: bool = False) -> Path | None:
        """Write a checkpoint.

        Args:
            contents: `random_state` of every process, everything else of the main process.
            best: keep this one as the best so far, instead of the one before.

        Returns:
            its folder, or None if it could not be written: then the reason is logged, and the earlier checkpoints are
            as they were.

        Raises:
            CheckpointError: this is the `MAX_FAILED_SAVES`-th failure in a row.
        """
        temporary: Path | None = None
        error: Exception | None = None
        try:
            names = from_main(self.rank, lambda: self._begin(contents))
            temporary, final = self.output_dir / names[0], self.output_dir / names[1]
        except ValueError as failure:
            self._failed(contents, temporary, failure)
            return None
        for stage in (
            partial(self._write, contents, temporary),
            partial(self._commit, contents, temporary, final, best),
        ):
            try:
                stage()
            except Exception as failure:  # the other processes are waiting, whatever it is
                error = failure
            if not all_succeeded(error is None):
                self._failed(contents, temporary, error)
                return None
        self.failed_saves = 0
        self.retain()
        logger.info("saved %s", final)
        return final

    def latest(self) -> Path | None:
        """The newest checkpoint of which every byte is as it was saved; each rejected one is logged with its reason.

        Returns:
            its folder; None if no checkpoint was ever completed here.

        Raises:
            ValueError: there are checkpoints, and not one of them is valid.
        """
        name = from_main(self.rank, self._newest_valid)
        if name is None:
            return None
        self._verified = self.output_dir / name
        return self._verified

    def require(self, folder: Path) -> Path:
        """Check a checkpoint, in any output folder, and return it.

        Raises:
            ValueError: it is missing or damaged.
        """
        from_main(self.rank, lambda: self._require_valid(folder))
        self._verified = folder
        return folder

    def describe(self, folder: Path) -> SavedRun:
        """What a checkpoint that was checked says of its run; tensors are not read."""

        def read() -> list[Any]:
            path = folder / CONFIG_FILE
            config = upgraded_config(read_json_object(path), str(path))
            return [read_trainer_state(folder).to_json(), config, self._manifest(folder).world_size]

        state, config, world_size = from_main(self.rank, read)
        return SavedRun(TrainerState.from_json(state), config, world_size)

    def load(self, folder: Path) -> CheckpointContents:
        """Read a checkpoint after checking it.

        Args:
            folder: of the checkpoint, in any output folder.

        Returns:
            its contents, tensors on the CPU and parameters in their saved order. `random_state` is this process's own,
            empty if the checkpoint was saved by another number of processes, or has none (`allow_inexact`).

        Raises:
            ValueError: it is missing or damaged.
        """
        if folder != self._verified:
            self.require(folder)
        contents, error = None, None
        try:
            contents = self._read(folder)
        except ValueError as failure:
            error = failure
        if not all_succeeded(error is None) or contents is None:
            raise ValueError(f"checkpoint {folder}: {error or 'another process could not read it'}") from error
        return contents

    def protect(self, folder: Path) -> None:
        """Keep a checkpoint (the one resumed from) for as long as this run lasts."""
        self._protected = folder.resolve()

    def retain(self) -> None:
        """Remove complete checkpoints beyond `save_total_limit`, as every save does; those found damaged stay."""
        if self.rank != 0 or self.save_total_limit is None:
            return
        usable = {
            folder: manifest for folder, manifest in self._complete().items() if folder.name not in self._rejected
        }
        for folder in expendable_checkpoints(usable, self.save_total_limit):
            if folder.resolve() == self._protected:
                continue
            try:
                remove_checkpoint(folder)
            except OSError as error:
                logger.warning("the old checkpoint %s could not be removed: %s", folder, error)

    def _begin(self, contents: CheckpointContents) -> tuple[str, str]:
        """Make the temporary folder; returns its name and the final one.

        Raises:
            ValueError: the disk has no room.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if free_bytes(self.output_dir) < room_needed(contents.tensor_bytes):
            raise ValueError("the disk is too full")
        final = free_name(self.output_dir, contents.state.step)
        temporary = temporary_name(final)
        (self.output_dir / temporary).mkdir()
        fault_point("after_folder")
        return temporary, final

    def _write(self, contents: CheckpointContents, temporary: Path) -> None:
        """Write this process's files."""
        if self.rank == 0:
            save_tensors(temporary / MODEL_FILE, contents.model)
            save_tensors(temporary / OPTIMIZER_FILE, contents.optimizer)
            save_tensors(temporary / AVERAGE_FILE, contents.average)
            write_text(temporary / TRAINER_STATE_FILE, contents.state.to_json())
            write_text(temporary / CONFIG_FILE, json.dumps(contents.config, indent=2) + "\n")
        save_tensors(temporary / random_state_file(self.rank), contents.random_state)

    def _commit(self, contents: CheckpointContents, temporary: Path, final: Path, best: bool) -> None:
        """Write the manifest and give the folder its name (main process)."""
        if self.rank != 0:
            return
        serials = [manifest.serial for manifest in self._complete().values()]
        manifest = Manifest(
            serial=max(serials, default=0) + 1,
            step=contents.state.step,
            epoch=contents.state.epoch,
            world_size=self.world_size,
            best=best,
            config_sha256=json_sha256(contents.config),
            parameters=[(name, list(tensor.shape)) for name, tensor in contents.model.items()],
            files=describe_files(temporary, checkpoint_files(self.world_size)),
        )
        write_text(temporary / MANIFEST_FILE, manifest.to_json())
        synchronize(temporary)
        temporary.rename(final)
        synchronize(self.output_dir)
        fault_point("after_rename")

    def _failed(self, contents: CheckpointContents, temporary: Path | None, error: Exception | None) -> None:
        """Note a failed save and remove what it wrote.

        Raises:
            CheckpointError: it is one too many.
        """
        self.failed_saves += 1
        free, needed = free_bytes(self.output_dir), room_needed(contents.tensor_bytes)
        if temporary is not None and self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        reason = "another process failed" if error is None else f"{type(error).__name__}: {error}"
        message = (
            f"the checkpoint of step {contents.state.step} could not be saved ({reason}); {free} bytes are free in "
            f"{self.output_dir}, a checkpoint needs {needed}. Earlier ones are untouched. "
            f"Failure {self.failed_saves} in a row, the run ends at {MAX_FAILED_SAVES}"
        )
        logger.error(message, exc_info=error)
        if self.failed_saves >= MAX_FAILED_SAVES:
            raise CheckpointError(message) from error

    def _manifest(self, folder: Path) -> Manifest:
        """The manifest of a complete checkpoint.

        Raises:
            ValueError: it is not complete.
        """
        return read_manifest(folder, random_state_optional=self.allow_inexact)

    def _require_valid(self, folder: Path) -> None:
        """Check every byte of a checkpoint.

        Raises:
            ValueError: it is missing or damaged; the message names the folder.
        """
        if not folder.is_dir():
            raise ValueError(
                f"checkpoint {folder}: there is no such folder (resume is auto, never or the folder of a checkpoint)"
            )
        try:
            verify(folder, random_state_optional=self.allow_inexact)
        except ValueError as error:
            raise ValueError(f"checkpoint {folder} is not valid: {error}") from error

    def _complete(self) -> dict[Path, Manifest]:
        """Complete checkpoints, the newest first; hashes are not computed."""
        return complete_checkpoints(self.output_dir, random_state_optional=self.allow_inexact)

    def _newest_valid(self) -> str | None:
        """Name of the newest valid checkpoint (main process).

        Raises:
            ValueError: there are some, none of them valid.
        """
        reasons = {}
        for folder, problem in candidates(self.output_dir, random_state_optional=self.allow_inexact):
            if not problem:
                return folder.name
            reasons[folder.name] = problem
            logger.warning("checkpoint %s is not used: %s", folder, problem)
            self._rejected.add(folder.name)
        if reasons:
            listed = "\n".join(f"- {name}: {reason}" for name, reason in reasons.items())
            raise ValueError(
                f"{self.output_dir} holds checkpoints, but none of them is valid:\n{listed}\n"
                "Nothing was deleted. Restore one of them, or choose another output_dir to start anew. One that lacks "
                "nothing but its random state can be used with allow_inexact_resume."
            )
        return None

    def _read(self, folder: Path) -> CheckpointContents:
        """Read the files of a checkpoint that was verified.

        Raises:
            ValueError: a file cannot be read, or two of them disagree.
        """
        manifest = self._manifest(folder)
        model = read_tensors(folder / MODEL_FILE)
        shapes = dict(manifest.parameters)
        state = read_trainer_state(folder)
        config = read_json_object(folder / CONFIG_FILE)
        if {name: list(tensor.shape) for name, tensor in model.items()} != shapes or state.step != manifest.step:
            raise ValueError(f"{MANIFEST_FILE} does not belong to {MODEL_FILE} and {TRAINER_STATE_FILE}")
        if json_sha256(config) != manifest.config_sha256:
            raise ValueError(f"{MANIFEST_FILE} does not belong to {CONFIG_FILE}")
        own_states = [folder / random_state_file(rank) for rank in range(self.world_size)]
        exact = manifest.world_size == self.world_size and all(path.is_file() for path in own_states)
        return CheckpointContents(
            state=state,
            model={name: model[name] for name in shapes},
            optimizer=read_tensors(folder / OPTIMIZER_FILE),
            average=read_tensors(folder / AVERAGE_FILE),
            random_state=read_tensors(own_states[self.rank]) if exact else {},
            config=upgraded_config(config, str(folder / CONFIG_FILE)),
        )
