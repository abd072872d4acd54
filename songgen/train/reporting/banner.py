"""Known causes of failures (memory, values that are not finite, lost processes, a full disk) and their banner."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from songgen.config import RunConfig
from songgen.data.loader import LoaderError
from songgen.data.schema import DEFAULT_MAX_SECONDS, DatasetInfo
from songgen.runtime.private_names import is_lost_connection
from songgen.runtime.status import RUN_STATUS_FILE, Diagnosis, Remedy
from songgen.train.optimization.anomalies import NON_FINITE_FILE, NonFiniteError
from songgen.train.reporting.trackers import METRICS_FILE

WIDTH = 100
"""Width of the rules above and below the banner."""

SHOWN_REMEDIES = 2

_NO_MEMORY = ("can't allocate memory", "not enough memory", "cuda out of memory", "cublas_status_alloc_failed")
"""Texts of errors of torch that have no type of their own, in lower case."""


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


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, says that the disk or a quota is used up."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def diagnose(error: BaseException, config: RunConfig) -> Diagnosis | None:
    """Return the cause of a failure and what to change first; None for errors without a known cause.

    Args:
        error: error that ended the run.
        config: configuration of the run.
    """
    found = _diagnosis(error, config)
    if found is None:
        return None
    title, logs, remedies = found
    now = config.to_dict()
    first = [replace(each, now={key: now.get(key) for key in each.changes}) for each in remedies[:SHOWN_REMEDIES]]
    return Diagnosis(title, list(logs), first)


def banner(diagnosis: Diagnosis, error: BaseException, folder: Path, step: int | None) -> str:
    """Return what happened, where the log is and what to change first, as lines of text.

    Args:
        diagnosis: what `diagnose` found.
        error: error that ended the run.
        folder: output folder of the run.
        step: completed steps; None if training had not begun.
    """
    title = diagnosis.title
    headline = f"{title}, before the first step" if step is None else f"{title}, after step {step}"
    lines = [
        "=" * WIDTH,
        headline,
        f"  {' '.join(str(error).split())[: 2 * WIDTH]}",
        f"log: {', '.join(str(folder / name) for name in diagnosis.logs)}",
        "change first:",
    ]
    for number, remedy in enumerate(diagnosis.remedies, 1):
        changes = ", ".join(
            f'"{key}": {json.dumps(value)} (now {json.dumps(remedy.now[key])})' for key, value in remedy.changes.items()
        )
        lines.append(f"  {number}. {changes}: {remedy.effect}" if changes else f"  {number}. {remedy.effect}")
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
    if is_disk_full(error):
        return "THE DISK IS FULL", (RUN_STATUS_FILE,), list(_for_disk(config))
    return None


def _for_memory(config: RunConfig) -> Iterator[Remedy]:
    """Yield what takes less memory."""
    training = config.training
    if not config.model.gradient_checkpointing:
        effect = "layers are computed again instead of kept, about a third slower"
        yield Remedy(effect, {"gradient_checkpointing": True})
    yield from _smaller_batches(config)
    if training.optimizer == "adamw":
        yield Remedy("a quarter of the optimizer state (needs bitsandbytes)", {"optimizer": "adamw_8bit"})
    if training.dtype == "float32":
        yield Remedy("most activations take half", {"dtype": "bfloat16"})
    longest = config.data.max_duration_in_seconds
    if longest is None:
        with suppress(ValueError, OSError):
            kinds = [DatasetInfo.read(folder).target_kind for folder in config.data.dataset_folders()]
            longest = min((DEFAULT_MAX_SECONDS[kind] for kind in kinds), default=None)
    if longest is not None:
        yield Remedy("longer clips are left out; with a new output_dir", {"max_duration_in_seconds": longest / 2})


def _smaller_batches(config: RunConfig) -> Iterator[Remedy]:
    """Yield half of a micro-batch, twice as often: the same clips a step."""
    training, frames = config.training, config.data.max_frames_per_batch
    accumulation = {"gradient_accumulation_steps": 2 * training.gradient_accumulation_steps}
    if frames is not None:
        yield Remedy("half as much at once, the same in a step", {"max_frames_per_batch": frames // 2, **accumulation})
    elif (size := training.per_device_train_batch_size) > 1:
        changes = {"per_device_train_batch_size": size // 2, **accumulation}
        yield Remedy("half as much at once, about the same in a step", changes)


def _for_numbers(config: RunConfig) -> Iterator[Remedy]:
    """Yield what keeps numbers finite."""
    training = config.training
    if training.dtype == "float16":
        yield Remedy("numbers as large as float32's; float16 ends at 65504", {"dtype": "bfloat16"})
    effect = "smaller updates; resume with allow_config_changes true"
    yield Remedy(effect, {"learning_rate": float(f"{training.learning_rate / 3:.2g}")})
    if not (training.warmup_steps or training.warmup_ratio):
        yield Remedy("the first updates are small", {"warmup_ratio": 0.05})
    if training.max_grad_norm > 0.5:
        yield Remedy("large gradients count less", {"max_grad_norm": 0.5})
    if training.non_finite == "stop":
        yield Remedy("single bad steps are left out", {"non_finite": "skip"})


def _for_disk(config: RunConfig) -> Iterator[Remedy]:
    """Yield what takes less space."""
    yield Remedy("free space on the disk of the output folder, then start the same command again: the run resumes")
    limit = config.training.save_total_limit
    if limit is None or limit > 1:
        yield Remedy("fewer checkpoints are kept", {"save_total_limit": 1})


def _for_workers(config: RunConfig, *, hangs: bool) -> Iterator[Remedy]:
    """Yield what keeps reading processes alive."""
    training = config.training
    if hangs:
        doubled = 2 * training.dataloader_timeout
        yield Remedy("more time for a slow disk", {"dataloader_timeout": doubled})
    if training.dataloader_num_workers:
        fewer = training.dataloader_num_workers // 2
        yield Remedy("fewer processes, less main memory", {"dataloader_num_workers": fewer})
    if training.eval_dataloader_num_workers:
        yield Remedy("no processes that read held-out clips", {"eval_dataloader_num_workers": 0})
    yield from _smaller_batches(config)
    if not config.model.gradient_checkpointing:
        yield Remedy("layers are computed again instead of kept", {"gradient_checkpointing": True})
