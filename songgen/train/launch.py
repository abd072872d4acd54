"""What the training scripts call: processes, checks in the order of their cost, training, exit codes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from accelerate import Accelerator

from songgen.config import RunConfig, load_run_config
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR
from songgen.runtime.agreement import from_main
from songgen.runtime.processes import start_processes
from songgen.runtime.run_status import EVALUATION_STATUS_FILE, RUN_STATUS_FILE, RunStatus, read_run_status
from songgen.tasks import Task
from songgen.train.build import build_trainer
from songgen.train.checkpoints.files import CONFIG_FILE as RESOLVED_CONFIG_FILE
from songgen.train.optimization.determinism import use_deterministic_operations
from songgen.train.output_folder import back_up_run, locked, require_outside, require_usable, require_way_back
from songgen.train.publishing.hub import publish, require_account
from songgen.train.reporting.console import Console, route_logging, route_warnings
from songgen.train.supervision import Supervision, begin_run, say

logger = logging.getLogger(__name__)


def run_training(arguments: Sequence[str], task: Task, *, description: str = "") -> int:
    """Train as a command line says.

    Args:
        arguments: `CONFIG.json [--key value ...]`.
        task: what the model is to write.
        description: of the program, with its exit codes, for `--help`.

    Returns:
        the exit code, one of `songgen.exit_codes`.
    """
    rank = os.environ.get("RANK", "0")
    is_main = rank == "0"
    console = Console(enabled=is_main)
    route_logging(console)
    route_warnings(console)
    try:
        config = load_run_config(arguments, description=description)
        return _join_and_train(config, task, console)
    except ValueError as error:
        # The processes of a machine share its files and its environment: one of them speaks for all.
        if is_main:
            console.info(f"error: {error}")
        elif os.environ.get("LOCAL_RANK", rank) == "0":
            say(f"error: process {rank}: {error}")
        return EXIT_ERROR


def _join_and_train(config: RunConfig, task: Task, console: Console) -> int:
    """Check the folder, join the other processes, take the folder, train.

    Returns:
        the exit code.

    Raises:
        ValueError: the folder or the launch does not fit; nothing was written.
    """
    training = config.training
    folder = Path(training.output_dir)
    if training.push_to_hub:
        require_account()
    require_usable(folder, resume=training.resume, overwrite=training.overwrite_output_dir)
    if training.overwrite_output_dir:
        data = {f"save_to_disk {number}": path for number, path in enumerate(config.data.dataset_folders(), 1)}
        require_outside(folder, {"model_name_or_path": config.model.model_name_or_path, **data})
    elif training.resume == "auto" and training.do_train:
        require_way_back(folder)
    if training.deterministic:
        use_deterministic_operations()
    accelerator = start_processes(
        dtype=training.dtype, seed=training.seed, timeout_seconds=training.ddp_timeout, folder=folder
    )
    rank, world_size = accelerator.process_index, accelerator.num_processes
    status_file = RUN_STATUS_FILE if training.do_train else EVALUATION_STATUS_FILE
    earlier: RunStatus | None = None
    code = EXIT_ERROR
    try:
        with ExitStack() as stack:

            def take_folder() -> str:
                nonlocal earlier
                stack.enter_context(locked(folder))
                if training.overwrite_output_dir and (backup := back_up_run(folder)) is not None:
                    logger.warning("the earlier run in %s lies in %s now", folder, backup)
                if not (folder / RESOLVED_CONFIG_FILE).exists():  # it says that the folder is a run's
                    config.save(folder / RESOLVED_CONFIG_FILE)
                earlier = read_run_status(folder, status_file)
                return begin_run(folder, status_file)

            run_id = from_main(rank, take_folder)
            with Supervision(
                folder, rank=rank, world_size=world_size, run_id=run_id, status_file=status_file, earlier=earlier
            ) as supervision:
                try:
                    _train(config, task, accelerator, console, supervision, stack)
                    code = EXIT_DONE
                except (Exception, KeyboardInterrupt, SystemExit) as error:
                    code = supervision.fail(error)
    finally:
        if code == EXIT_DONE or world_size == 1:  # leaving in order waits for processes that may be gone
            accelerator.end_training()
    return code


def _train(
    config: RunConfig,
    task: Task,
    accelerator: Accelerator,
    console: Console,
    supervision: Supervision,
    stack: ExitStack,
) -> None:
    """Build, train, publish, and say how the run ended. Stop signals are caught until `stack` ends.

    Raises:
        Exception: whatever goes wrong.
    """
    training = config.training
    trainer = build_trainer(config, task, accelerator, console, supervision.heartbeat)
    supervision.running(trainer.total_steps)
    if not training.do_train:
        trainer.evaluate_only()
        supervision.done(trainer.state.step, stopped=False)
        return
    # Not only while it trains: the launcher passes signals on late, and sends one when another process has failed.
    stack.enter_context(trainer.inbox)
    state = trainer.train()
    if not trainer.stopped and training.push_to_hub and accelerator.is_main_process:
        publish(Path(training.output_dir), training.hub_model_id, private=training.hub_private)
    supervision.done(state.step, stopped=trainer.stopped)
