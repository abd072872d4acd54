"""Joining the processes of a launch, for training and for other work, and refusing unsupported launches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    parse_flag_from_env,
    set_seed,
)

from songgen.runtime.private_names import is_lost_connection, set_timeouts
from songgen.runtime.processes.deepspeed_launch import deepspeed_plugin
from songgen.runtime.processes.peers import LostProcess, PeerWatch
from songgen.runtime.processes.signals import KEPT, leaving_with_launcher

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""`dtype` of the configuration -> accelerate's name of the precision."""

START_TIMEOUT_SECONDS = 1800
"""Seconds that training processes wait for each other until the first step is completed: one may still be loading or
compiling."""

WAIT_SECONDS = 7 * 24 * 3600
"""Seconds that processes wait for the slowest one outside training, once they have joined. All of them are alive then:
`PeerWatch` ends the others within seconds when one is not."""


def start_processes(*, dtype: str, seed: int, timeout_seconds: int, folder: Path) -> Accelerator:
    """Join the processes of this launch.

    Args:
        dtype: precision of the computation, a key of `MIXED_PRECISION`. It overrides `accelerate config`.
        seed: seed of the random generators; each process has its own random numbers.
        timeout_seconds: seconds after which an operation among processes fails; longer at the start, until
            `songgen.runtime.processes.group.StartPatience.end`.
        folder: folder in which NCCL writes its latest operations when one of them times out.

    Raises:
        ValueError: if several processes were launched but do not know of each other, or the kind of launch is not
            supported.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", MIXED_PRECISION[dtype]):
        warnings.warn(
            f"dtype {dtype} of the configuration overrides mixed precision {launched} of the launch", stacklevel=2
        )
    for name, value in flight_recorder(folder).items() if torch.cuda.is_available() else ():
        os.environ.setdefault(name, value)
    accelerator = Accelerator(
        mixed_precision=MIXED_PRECISION[dtype],
        deepspeed_plugin=deepspeed_plugin(dtype),
        gradient_accumulation_steps=1,  # the training step accumulates by itself, with exact normalization
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=max(timeout_seconds, START_TIMEOUT_SECONDS))),
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
        ],
    )
    require_all_processes(os.environ, accelerator.num_processes)
    _require_supported(accelerator)
    set_seed(seed, device_specific=True)
    return accelerator


@contextmanager
def join_processes() -> Iterator[PartialState]:
    """Join the processes of this launch in this context, for work other than training.

    If another process or the launcher ends, this process ends within seconds, wherever it is: also while the processes
    look for each other.

    Raises:
        ValueError: if several processes were launched but do not know of each other.
        LostProcess: if the connection to another process was lost.
    """
    watch: PeerWatch | None = None
    try:
        with leaving_with_launcher():
            joining = timedelta(seconds=START_TIMEOUT_SECONDS)
            state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=joining)
            require_all_processes(os.environ, state.num_processes)
            if state.num_processes == 1:
                yield state
                return
            set_timeouts(WAIT_SECONDS)
            with PeerWatch(state.process_index, state.num_processes) as watch:
                yield state
            # No process watches any more when the first one leaves. After an error, an orderly end would wait.
            state.wait_for_everyone()
            state.destroy_process_group()
    except (RuntimeError, SystemExit) as error:
        # A launcher ends the other processes when one has died: that is the reason, and not the launcher's SIGTERM.
        is_killed = isinstance(error, SystemExit) and watch is not None and watch.find_killed() is not None
        if not is_killed and not is_lost_connection(error):
            raise
        raise LostProcess(lost_process_message(watch)) from error


def lost_process_message(watch: PeerWatch | None = None) -> str:
    """Return a message for a process whose connection to the others was lost.

    Args:
        watch: watch over the others; None if they were not joined yet, or are not watched.
    """
    who = f"process {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}"
    if watch is not None:
        return f"{who} exits: {watch.find_lost() or 'the connection to another process was lost'}; {KEPT}"
    return (
        f"{who} exits: it could not join the others, or one of them ended before the work began; the output of the "
        "other processes may say why"
    )


def require_all_processes(environment: Mapping[str, str], num_processes: int) -> None:
    """Refuse a launch in which every process would work alone, and all would write the same files.

    Raises:
        ValueError: if this is such a launch; the message says how to launch.
    """
    launched = int(environment.get("WORLD_SIZE", "1"))
    if launched != num_processes:
        raise ValueError(
            f"{launched} processes were launched, but accelerate sees {num_processes}, so each would work alone. "
            "If there is no GPU for each process, set ACCELERATE_USE_CPU=true in the environment:\n"
            "  ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 SCRIPT CONFIG.json\n"
            "or launch with a file of helpers/accelerate_configs/."
        )


def _require_supported(accelerator: Accelerator) -> None:
    """Refuse launches in which weights could not be read by name.

    Raises:
        ValueError: if this is such a launch; the message says what to use instead.
    """
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError(
            "FSDP version 1 hides the parameters' names and is not supported: launch with ddp_8_gpus.yaml of "
            "helpers/accelerate_configs, or fsdp2_zero2_8_gpus.yaml to shard (fsdp_version: 2)"
        )


def flight_recorder(folder: Path) -> dict[str, str]:
    """Return environment variables with which NCCL records its latest operations and writes them when one times out."""
    return {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(folder.absolute() / "flight_recorder-"),
    }
