"""Banner at the end of a run that failed for want of memory, by values that are not finite, or by a lost process."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from songgen.config import RunConfig
from songgen.data.loader import LoaderError
from songgen.data.schema import DEFAULT_MAX_SECONDS, DatasetInfo
from songgen.runtime.private_names import is_lost_connection
from songgen.runtime.status import RUN_STATUS_FILE
from songgen.train.optimization.anomalies import NON_FINITE_FILE, NonFiniteError
from songgen.train.reporting.trackers import METRICS_FILE

WIDTH = 100
"""Width of the rules above and below the banner."""

SHOWN_REMEDIES = 2

_NO_MEMORY = ("can't allocate memory", "not enough memory", "cuda out of memory", "cublas_status_alloc_failed")
"""Texts of errors of torch that have no type of their own, in lower case."""


@dataclass(frozen=True)
class Remedy:
    """Change of the configuration that may help."""

    changes: Mapping[str, Any]
    """New values."""
    effect: str
    """What it does."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, says that memory is used up."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def banner(error: BaseException, config: RunConfig, folder: Path, step: int | None) -> str | None:
    """Return what happened, where the log is and what to change first; None for other errors.

    Args:
        error: error that ended the run.
        config: configuration of the run.
        folder: output folder of the run.
        step: completed steps; None if training had not begun.
    """
    found = _diagnosis(error, config)
    if found is None:
        return None
    title, log, remedies = found
    headline = f"{title}, before the first step" if step is None else f"{title}, after step {step}"
    lines = [
        "=" * WIDTH,
        headline,
        f"  {' '.join(str(error).split())[: 2 * WIDTH]}",
        f"log: {', '.join(str(folder / name) for name in log)}",
        "change first:",
    ]
    now = config.to_dict()
    for number, remedy in enumerate(remedies[:SHOWN_REMEDIES], 1):
        changes = ", ".join(
            f'"{key}": {json.dumps(value)} (now {json.dumps(now.get(key))})' for key, value in remedy.changes.items()
        )
        lines.append(f"  {number}. {changes}: {remedy.effect}")
    lines += ["`songgen check` with the same arguments says beforehand what a run needs.", "=" * WIDTH]
    return "\n".join(lines)


def _diagnosis(error: BaseException, config: RunConfig) -> tuple[str, tuple[str, ...], list[Remedy]] | None:
    """Return a title, the names of log files, and remedies, the first ones to try first."""
    if is_out_of_memory(error):
        return "OUT OF MEMORY", (RUN_STATUS_FILE, METRICS_FILE), list(_for_memory(config))
    if isinstance(error, NonFiniteError):
        files = (NON_FINITE_FILE, METRICS_FILE, RUN_STATUS_FILE)
        return "NOT A NUMBER: loss or gradients were not finite", files, list(_for_numbers(config))
    if isinstance(error, LoaderError):
        hangs = "gave no batch" in str(error)
        title = "A READING PROCESS HANGS" if hangs else "A READING PROCESS DIED"
        return title, (RUN_STATUS_FILE,), list(_for_workers(config, hangs=hangs))
    if is_lost_connection(error):
        return "A PROCESS OF THE RUN IS GONE", (RUN_STATUS_FILE,), list(_for_workers(config, hangs=False))
    return None


def _for_memory(config: RunConfig) -> Iterator[Remedy]:
    """Yield what takes less memory."""
    training = config.training
    if not config.model.gradient_checkpointing:
        effect = "layers are computed again instead of kept, about a third slower"
        yield Remedy({"gradient_checkpointing": True}, effect)
    yield from _smaller_batches(config)
    if training.optimizer == "adamw":
        yield Remedy({"optimizer": "adamw_8bit"}, "a quarter of the optimizer state (needs bitsandbytes)")
    if training.dtype == "float32":
        yield Remedy({"dtype": "bfloat16"}, "most activations take half")
    longest = config.data.max_duration_in_seconds
    if longest is None:
        with suppress(ValueError, OSError):
            kinds = [DatasetInfo.read(folder).target_kind for folder in config.data.dataset_folders()]
            longest = min((DEFAULT_MAX_SECONDS[kind] for kind in kinds), default=None)
    if longest is not None:
        yield Remedy({"max_duration_in_seconds": longest / 2}, "longer clips are left out; with a new output_dir")


def _smaller_batches(config: RunConfig) -> Iterator[Remedy]:
    """Yield half of a micro-batch, twice as often: the same clips a step."""
    training, frames = config.training, config.data.max_frames_per_batch
    accumulation = {"gradient_accumulation_steps": 2 * training.gradient_accumulation_steps}
    if frames is not None:
        yield Remedy({"max_frames_per_batch": frames // 2, **accumulation}, "half as much at once, the same in a step")
    elif (size := training.per_device_train_batch_size) > 1:
        changes = {"per_device_train_batch_size": size // 2, **accumulation}
        yield Remedy(changes, "half as much at once, about the same in a step")


def _for_numbers(config: RunConfig) -> Iterator[Remedy]:
    """Yield what keeps numbers finite."""
    training = config.training
    if training.dtype == "float16":
        yield Remedy({"dtype": "bfloat16"}, "numbers as large as float32's; float16 ends at 65504")
    effect = "smaller updates; resume with allow_config_changes true"
    yield Remedy({"learning_rate": float(f"{training.learning_rate / 3:.2g}")}, effect)
    if not (training.warmup_steps or training.warmup_ratio):
        yield Remedy({"warmup_ratio": 0.05}, "the first updates are small")
    if training.max_grad_norm > 0.5:
        yield Remedy({"max_grad_norm": 0.5}, "large gradients count less")
    if training.non_finite == "stop":
        yield Remedy({"non_finite": "skip"}, "single bad steps are left out")


def _for_workers(config: RunConfig, *, hangs: bool) -> Iterator[Remedy]:
    """Yield what keeps reading processes alive."""
    training = config.training
    if hangs:
        doubled = 2 * training.dataloader_timeout
        yield Remedy({"dataloader_timeout": doubled}, "more time for a slow disk")
    if training.dataloader_num_workers:
        fewer = training.dataloader_num_workers // 2
        yield Remedy({"dataloader_num_workers": fewer}, "fewer processes, less main memory")
    if training.eval_dataloader_num_workers:
        yield Remedy({"eval_dataloader_num_workers": 0}, "no processes that read held-out clips")
    yield from _smaller_batches(config)
    if not config.model.gradient_checkpointing:
        yield Remedy({"gradient_checkpointing": True}, "layers are computed again instead of kept")
