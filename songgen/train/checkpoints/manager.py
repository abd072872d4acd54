"""Saving, finding, loading and retention of checkpoints. A checkpoint is either complete or does not exist.

Commit protocol of a save:

1. The main process checks that all values are finite and that there is enough free space, and creates
   `checkpoint-<step>.tmp-<token>`.
2. Every process writes its files there and flushes them to the disk.
3. If all processes succeeded, the main process writes the manifest with the hashes of all files, flushes it and the
   folder, renames the folder to `checkpoint-<step>`, and flushes the output folder, which holds the name.
4. Only then are old checkpoints removed.

A kill or power cut at any point leaves the earlier checkpoints unchanged, and at most a temporary folder. The step is
never read from a folder's name: step, epoch and the order of checkpoints are in the files.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from songgen.families.trainable import WeightForm
from songgen.runtime.files import free_bytes, synchronize
from songgen.runtime.json_files import json_sha256, read_json_object
from songgen.runtime.processes.agreement import all_succeeded, from_main
from songgen.runtime.tensor_files import read_tensors
from songgen.train.checkpoints.files import (
    AVERAGE_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    RUN_CONFIG_FILE,
    Manifest,
    checkpoint_files,
    describe_saved,
    fault_point,
    file_written,
    random_state_file,
    read_manifest,
    room_needed,
    save_tensors,
    shown,
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
    remove_leftover,
    temporary_name,
)
from songgen.train.checkpoints.state import (
    TRAINER_STATE_FILE,
    CheckpointContents,
    TrainerState,
    read_trainer_state,
    upgraded_config,
)
from songgen.train.optimization.anomalies import NonFiniteError

logger = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3
"""Failed saves in a row after which a run ends; it continues after fewer."""


class CheckpointError(RuntimeError):
    """Saves failed so often that the run would continue without a recent checkpoint."""


@dataclass(frozen=True)
class SavedRun:
    """Run that a checkpoint belongs to."""

    state: TrainerState
    """Position of the run."""
    config: dict[str, Any]
    """Resolved configuration of the run."""
    world_size: int
    """Number of processes of the run."""


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
        """Take charge of a folder; the main process removes what an interrupted save left there.

        Args:
            output_dir: folder of the run, the same for all processes.
            save_total_limit: number of newest complete checkpoints to keep (at least one); the best one and the one
                resumed from are kept in addition. None: keep all.
            rank: rank of this process.
            world_size: number of processes.
            allow_inexact: whether checkpoints without random state may be used.
        """
        self.output_dir = output_dir
        self.save_total_limit = save_total_limit
        self.rank = rank
        self.world_size = world_size
        self.allow_inexact = allow_inexact
        self.form: WeightForm | None = None
        """Form in which the weights are stored, once the model is open; None: as `MODEL_FILE`."""
        self.failed_saves = 0
        self._protected: Path | None = None
        self._verified: Path | None = None
        self._rejected: set[str] = set()
        if rank == 0:
            for leftover in leftovers(output_dir):
                try:
                    remove_leftover(leftover)
                    logger.warning("removed %s, which an interrupted save left", leftover)
                except OSError as error:
                    logger.warning("%s, which an interrupted save left, could not be removed: %s", leftover, error)

    def save(self, contents: CheckpointContents, *, best: bool = False) -> Path | None:
        """Write a checkpoint.

        Args:
            contents: contents to write: `random_state` of every process, everything else of the main process.
            best: whether this one is the best so far, and is kept instead of the previous best.

        Returns:
            The checkpoint's folder; None if it could not be written. Then the reason is logged, and the earlier
            checkpoints are unchanged.

        Raises:
            CheckpointError: if this is the `MAX_FAILED_SAVES`-th failure in a row.
            NonFiniteError: if weights, optimizer state or average hold NaN or infinity. Nothing is written then: such a
                checkpoint would become the newest one, and push out those that can be resumed from.
        """
        self._require_finite(contents)
        temporary: Path | None = None
        error: Exception | None = None
        try:
            names = from_main(self.rank, lambda: self._begin(contents))
            temporary, final = self.output_dir / names[0], self.output_dir / names[1]
        except ValueError as failure:
            self._failed(contents, temporary, failure)
            return None
        # After each stage the processes agree whether all of them succeeded: the manifest is only written once every
        # file is on the disk, and no process returns before the checkpoint has its name.
        for stage in (
            partial(self._write, contents, temporary),
            partial(self._commit, contents, temporary, final, best),
        ):
            try:
                stage()
            except Exception as failure:  # any error: the other processes wait in `all_succeeded`
                error = failure
            if not all_succeeded(error is None):
                self._failed(contents, temporary, error)
                return None
        self.failed_saves = 0
        self.retain()
        logger.info("saved %s", final)
        return final

    def latest(self) -> Path | None:
        """Find the newest checkpoint of which every byte is as it was saved; each rejected one is logged with a reason.

        Returns:
            The checkpoint's folder; None if no checkpoint was ever completed here.

        Raises:
            ValueError: if there are checkpoints, but none is valid.
        """
        name = from_main(self.rank, self._newest_valid)
        if name is None:
            return None
        self._verified = self.output_dir / name
        return self._verified

    def require(self, folder: Path) -> Path:
        """Verify a checkpoint, in any output folder, and return its folder.

        Raises:
            ValueError: if it is missing or damaged.
        """
        from_main(self.rank, lambda: self._require_valid(folder))
        self._verified = folder
        return folder

    def describe(self, folder: Path) -> SavedRun:
        """Read the run of a verified checkpoint; tensors are not read."""

        def read() -> list[Any]:
            path = folder / RUN_CONFIG_FILE
            config = upgraded_config(read_json_object(path), str(path))
            return [read_trainer_state(folder).to_json(), config, self._manifest(folder).world_size]

        state, config, world_size = from_main(self.rank, read)
        return SavedRun(TrainerState.from_json(state), config, world_size)

    def load(self, folder: Path) -> CheckpointContents:
        """Verify a checkpoint and read it.

        Args:
            folder: folder of the checkpoint, in any output folder.

        Returns:
            The contents, with tensors on the CPU and parameters in their saved order. `random_state` is that of this
            process; it is empty if the number of processes has changed, or it is missing (`allow_inexact`).

        Raises:
            ValueError: if it is missing or damaged.
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
        """Keep a checkpoint (the one resumed from) until this run ends."""
        self._protected = folder.resolve()

    def retain(self) -> None:
        """Remove complete checkpoints beyond `save_total_limit`, as every save does; damaged ones are kept."""
        if self.rank != 0 or self.save_total_limit is None:
            return
        # A damaged checkpoint does not count towards the limit: it must not push out one that can be resumed from.
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

    def _require_finite(self, contents: CheckpointContents) -> None:
        """Check that all values are finite, on the main process, which has them.

        Raises:
            NonFiniteError: if some are not, on every process.
        """
        if bad := from_main(self.rank, contents.non_finite):
            raise NonFiniteError(
                f"step {contents.state.step} is not saved: NaN or infinity in {shown(bad)}. Earlier checkpoints are "
                "unchanged; the same command resumes from the newest of them, with a lower learning_rate "
                "(allow_config_changes), or with non_finite set to stop"
            )

    def _begin(self, contents: CheckpointContents) -> tuple[str, str]:
        """Create the temporary folder; return its name and the final one (main process).

        Raises:
            OSError: if the disk has too little free space.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if free_bytes(self.output_dir) < room_needed(contents.tensor_bytes):
            raise OSError(errno.ENOSPC, "the disk is too full")
        final = free_name(self.output_dir, contents.state.step)
        temporary = temporary_name(final)
        (self.output_dir / temporary).mkdir()
        fault_point("after_folder")
        return temporary, final

    def _write(self, contents: CheckpointContents, temporary: Path) -> None:
        """Write this process's files."""
        if self.rank == 0:
            self._write_model(contents, temporary)
            save_tensors(temporary / OPTIMIZER_FILE, contents.optimizer)
            save_tensors(temporary / AVERAGE_FILE, contents.average)
            write_text(temporary / TRAINER_STATE_FILE, contents.state.to_json())
            write_text(temporary / RUN_CONFIG_FILE, json.dumps(contents.config, indent=2) + "\n")
        save_tensors(temporary / random_state_file(self.rank), contents.random_state)

    def _write_model(self, contents: CheckpointContents, temporary: Path) -> None:
        """Write the trained weights (main process)."""
        if self.form is None:
            save_tensors(temporary / MODEL_FILE, contents.model)
            return
        self.form.write(temporary, contents.model, steps=contents.state.step, plan=contents.state.plan)
        for name in self.form.names:
            file_written(temporary / name)

    @property
    def _model_files(self) -> list[str]:
        """Files of the trained weights."""
        return [MODEL_FILE] if self.form is None else list(self.form.names)

    def _commit(self, contents: CheckpointContents, temporary: Path, final: Path, best: bool) -> None:
        """Write the manifest and rename the folder to its final name (main process)."""
        if self.rank != 0:
            return
        # The highest serial is the newest: clocks of machines may differ, and steps repeat after a rollback.
        serials = [manifest.serial for manifest in self._complete().values()]
        manifest = Manifest(
            serial=max(serials, default=0) + 1,
            step=contents.state.step,
            epoch=contents.state.epoch,
            world_size=self.world_size,
            best=best,
            config_sha256=json_sha256(contents.config),
            parameters=[(name, list(tensor.shape)) for name, tensor in contents.model.items()],
            files=describe_saved(temporary, checkpoint_files(self.world_size, self._model_files)),
            model_files=self._model_files,
        )
        write_text(temporary / MANIFEST_FILE, manifest.to_json())
        # The folder is flushed before the rename, so that its final name can never appear with an entry missing; the
        # parent is flushed after it, since the rename itself is only on the disk then.
        synchronize(temporary)
        temporary.rename(final)
        synchronize(self.output_dir)
        fault_point("after_rename")

    def _failed(self, contents: CheckpointContents, temporary: Path | None, error: Exception | None) -> None:
        """Log a failed save and remove what it wrote.

        Raises:
            CheckpointError: if too many failed in a row.
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
        """Read the manifest of a complete checkpoint.

        Raises:
            ValueError: if it is not complete.
        """
        return read_manifest(folder, random_state_optional=self.allow_inexact)

    def _require_valid(self, folder: Path) -> None:
        """Verify every byte of a checkpoint.

        Raises:
            ValueError: if it is missing or damaged; the message names the folder.
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
        """Return the complete checkpoints, newest first; hashes are not computed."""
        return complete_checkpoints(self.output_dir, random_state_optional=self.allow_inexact)

    def _newest_valid(self) -> str | None:
        """Return the name of the newest valid checkpoint (main process).

        Raises:
            ValueError: if there are checkpoints, but none is valid.
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
                "Nothing was deleted. Restore one of them, or choose another output_dir to start from the "
                "beginning. One that only lacks its random state can be used with allow_inexact_resume."
            )
        return None

    def _read(self, folder: Path) -> CheckpointContents:
        """Read the files of a verified checkpoint.

        Raises:
            ValueError: if a file cannot be read, or two of them disagree.
        """
        manifest = self._manifest(folder)
        if manifest.model_files != self._model_files:
            raise ValueError(f"it holds {manifest.model_files[0]}, this run saves {self._model_files[0]}")
        model = read_tensors(folder / MODEL_FILE) if self.form is None else self.form.read(folder)
        shapes = dict(manifest.parameters)
        state = read_trainer_state(folder)
        config = read_json_object(folder / RUN_CONFIG_FILE)
        if {name: list(tensor.shape) for name, tensor in model.items()} != shapes or state.step != manifest.step:
            raise ValueError(f"{MANIFEST_FILE} does not belong to {manifest.model_files[0]} and {TRAINER_STATE_FILE}")
        if json_sha256(config) != manifest.config_sha256:
            raise ValueError(f"{MANIFEST_FILE} does not belong to {RUN_CONFIG_FILE}")
        # Random state belongs to a rank of a given number of processes; with another number none of it is used.
        own_states = [folder / random_state_file(rank) for rank in range(self.world_size)]
        exact = manifest.world_size == self.world_size and all(path.is_file() for path in own_states)
        return CheckpointContents(
            state=state,
            model={name: model[name] for name in shapes},
            optimizer=read_tensors(folder / OPTIMIZER_FILE),
            average=read_tensors(folder / AVERAGE_FILE),
            random_state=read_tensors(own_states[self.rank]) if exact else {},
            config=upgraded_config(config, str(folder / RUN_CONFIG_FILE)),
        )
