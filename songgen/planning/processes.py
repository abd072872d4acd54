"""Number of processes of a launch, and what they share: from launch options, or from a run that has started."""

from __future__ import annotations

from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType

from songgen.planning.memory import Processes, Sharding
from songgen.runtime.files import read_regular
from songgen.runtime.json_files import MAX_JSON_BYTES
from songgen.runtime.processes.launcher import LaunchOptions


def launched_processes(options: LaunchOptions) -> Processes:
    """Return the processes that launch options start.

    Raises:
        ValueError: if the launch file cannot be read, or a value is not of its type.
    """
    values: dict[str, Any] = {}
    if options.config_file is not None:
        try:
            values = yaml.safe_load(read_regular(options.config_file, MAX_JSON_BYTES)) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"{options.config_file}: not a launch file ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"{options.config_file}: not a launch file; expected keys and values")
    in_file, fsdp = values.get("num_processes") or 1, values.get("fsdp_config") or {}
    if not isinstance(in_file, int) or not isinstance(fsdp, dict):
        raise ValueError(f"{options.config_file}: num_processes must be a number, and fsdp_config a table")
    count = options.num_processes or in_file
    kind = str(values.get("distributed_type", "NO"))
    if kind == DistributedType.FSDP.value:
        return Processes(count, _fsdp(bool(fsdp.get("fsdp_reshard_after_forward", True))))
    is_deepspeed = kind == DistributedType.DEEPSPEED.value
    return Processes(count, "gradients" if is_deepspeed else "none", exchanges_in_buckets=is_deepspeed)


def running_processes(accelerator: Accelerator, *, uses_deepspeed: bool) -> Processes:
    """Return the processes of a run that has started.

    Args:
        accelerator: accelerator of the run.
        uses_deepspeed: whether DeepSpeed trains, which the accelerator is not told.
    """
    count = accelerator.num_processes
    if uses_deepspeed:
        return Processes(count, "gradients", exchanges_in_buckets=True)
    if accelerator.distributed_type == DistributedType.FSDP:
        return Processes(count, _fsdp(bool(accelerator.state.fsdp_plugin.reshard_after_forward)))
    return Processes(count)


def _fsdp(reshards: bool) -> Sharding:
    """Return what FSDP2 shares: without resharding, whole weights stay from the forward to the backward pass."""
    return "weights" if reshards else "gradients"
