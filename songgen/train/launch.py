"""What the training scripts call: processes, checks in the order of their cost, training, exit codes."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from songgen.config import RunConfig, load_run_config
from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_NO_CHECKPOINT, EXIT_NON_FINITE
from songgen.tasks import Task
from songgen.train.anomalies import NonFiniteError
from songgen.train.build import build_trainer
from songgen.train.checkpoint import CheckpointError
from songgen.train.checkpoint_files import CONFIG_FILE as RESOLVED_CONFIG_FILE
from songgen.train.console import Console, route_logging
from songgen.train.determinism import use_deterministic_operations
from songgen.train.distributed import start_processes
from songgen.train.hub import publish, require_account
from songgen.train.output_folder import clear_run, locked, require_usable

QUIET_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Nothing is reported to anyone, and no thread of a library runs unasked, unless the environment says otherwise."""


def run_training(arguments: Sequence[str], task: Task) -> int:
    """Train as a command line says.

    Args:
        arguments: `CONFIG.json [--key value ...]`.
        task: what the model is to write.

    Returns:
        the exit code, one of `songgen.exit_codes`.
    """
    for name, value in QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    is_main = os.environ.get("RANK", "0") == "0"
    console = Console(enabled=is_main)
    route_logging(console)
    logging.captureWarnings(True)
    warnings.simplefilter("default", UserWarning)
    try:
        config = load_run_config(arguments, description=f"Train the task {task.name}.")
        _train(config, task, console)
    except NonFiniteError as error:
        console.warn(str(error))
        return EXIT_NON_FINITE
    except CheckpointError as error:
        console.warn(str(error))
        return EXIT_NO_CHECKPOINT
    except ValueError as error:
        if is_main:
            console.info(f"error: {error}")
        else:
            logging.getLogger(__name__).debug("error on another process: %s", error)
        return EXIT_ERROR
    return EXIT_DONE


def _train(config: RunConfig, task: Task, console: Console) -> None:
    """Check the folder, join the other processes, build, train.

    Raises:
        ValueError: something does not fit; nothing was trained.
        NonFiniteError: training stopped at values that are not finite.
    """
    training = config.training
    folder = Path(training.output_dir)
    if training.push_to_hub:
        require_account()
    require_usable(folder, resume=training.resume, overwrite=training.overwrite_output_dir)
    if training.deterministic:
        use_deterministic_operations()
    accelerator = start_processes(dtype=training.dtype, seed=training.seed, timeout_seconds=training.ddp_timeout)
    accelerator.wait_for_everyone()
    try:
        with locked(folder) if accelerator.is_main_process else nullcontext():
            if accelerator.is_main_process:
                if training.overwrite_output_dir:
                    clear_run(folder)
                config.save(folder / RESOLVED_CONFIG_FILE)
            accelerator.wait_for_everyone()
            trainer = build_trainer(config, task, accelerator, console)
            if not training.do_train:
                trainer.evaluate_only()
                return
            state = trainer.train()
            if training.push_to_hub and accelerator.is_main_process and state.step >= trainer.total_steps:
                publish(folder, training.hub_model_id, private=training.hub_private)
    finally:
        accelerator.end_training()
