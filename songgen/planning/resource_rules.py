"""Rules about the resources of a planned run: devices, memory, precision, workers and disk space."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from songgen.planning.facts import RunFacts, with_estimates
from songgen.planning.findings import Finding, Severity
from songgen.planning.machine import low_precision_problem
from songgen.planning.memory import shown_bytes
from songgen.planning.run_rules import Rule
from songgen.planning.speed import Speed

TIGHT = 0.9
"""Share of the free memory above which an estimate, which may be 15 % too low, is worth a warning."""

WORKER_BYTES = 500 * 2**20
"""Bytes of a process that reads data, most of them its libraries."""

AMPERE = (8, 0)
"""Compute capability of the first GPUs with bfloat16."""

_NO_SPEED = Speed(1e12, 1e10, 1e-6)
"""Any speed: while memory is looked for, time does not matter."""


def devices(facts: RunFacts) -> Iterator[Finding]:
    """Compare the processes with the devices of this machine."""
    count, machine = facts.processes.count, facts.machine
    if machine.devices and count > len(machine.devices):
        yield Finding(
            Severity.ERROR,
            "num_processes",
            f"{count} processes, but this machine has {len(machine.devices)} GPUs; with several machines, check each "
            "with its share",
        )
    elif not machine.devices and count > machine.cores:
        yield Finding(
            Severity.WARNING, "num_processes", f"{count} processes on {machine.cores} cores: they wait for each other"
        )


def memory(facts: RunFacts) -> Iterator[Finding]:
    """Compare the estimated memory with what is free, and look for settings that fit."""
    estimate, machine = facts.memory, facts.machine
    if estimate is None:
        return
    room = machine.room(facts.processes.count)
    if estimate.total <= TIGHT * room:
        return
    where = "GPU memory" if machine.devices else "main memory"
    largest = max(estimate.rows(), key=lambda row: row[1] * row[2])
    message = (
        f"about {shown_bytes(estimate.total)} of {where} for each process, {shown_bytes(room)} are free; the largest "
        f"part is {largest[0]} ({shown_bytes(largest[1])})"
    )
    severity = Severity.ERROR if estimate.total > room else Severity.WARNING
    yield Finding(severity, "memory", message, fitting_changes(facts, round(TIGHT * room)) or {})


def fitting_changes(facts: RunFacts, room: int) -> dict[str, Any] | None:
    """Return changes with which a run fits into `room` bytes; the first ones cost least. None if none are enough.

    Each step is added to those before it: layers computed again, smaller micro-batches of which more are accumulated
    (the same clips a step), and the 8-bit optimizer.
    """
    changes: dict[str, Any] = {}
    for added in _smaller(facts):
        changes |= added
        changed = _changed(facts, changes)
        if changed.memory is not None and changed.memory.total <= room:
            return changes
    return None


def _smaller(facts: RunFacts) -> Iterator[dict[str, Any]]:
    """Yield changes that save memory, one after the other."""
    model, training, data = facts.config.model, facts.config.training, facts.config.data
    if not model.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    size, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    if facts.clips is not None:
        size = min(size, facts.clips.count)
    frames = data.max_frames_per_batch
    while frames is not None and facts.clips is not None and frames // 2 >= facts.clips.largest.frames:
        frames, accumulation = frames // 2, 2 * accumulation
        yield {"max_frames_per_batch": frames, "gradient_accumulation_steps": accumulation}
    while frames is None and size > 1:
        accumulation *= -(-size // (size // 2))
        size //= 2
        yield {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    if training.optimizer == "adamw" and low_precision_problem("adamw_8bit", facts.machine) is None:
        yield {"optimizer": "adamw_8bit"}


def _changed(facts: RunFacts, changes: dict[str, Any]) -> RunFacts:
    """Return the facts of a run with other values; the data and the number of steps stay as they are."""
    config = type(facts.config).from_dict(facts.config.to_dict() | changes)
    assert facts.costs is not None
    costs = facts.costs.with_settings(config)
    return with_estimates(dataclasses.replace(facts, config=config, costs=costs), _NO_SPEED)


def precision(facts: RunFacts) -> Iterator[Finding]:
    """Check the precision and the 8-bit optimizer on this machine, by a tiny computation."""
    training, machine = facts.config.training, facts.machine
    first = machine.devices[0].capability if machine.devices else None
    if first is not None and first >= AMPERE and training.dtype == "float32":
        message = f'{machine.devices[0].name} computes bfloat16 several times faster, with less memory ("bfloat16")'
        yield Finding(Severity.NOTE, "dtype", message, {"dtype": "bfloat16"})
    if first is not None and (0, 0) < first < AMPERE and training.dtype == "bfloat16":
        message = f"{machine.devices[0].name} has no bfloat16: it is computed as float32, with conversions"
        yield Finding(Severity.WARNING, "dtype", message, {"dtype": "float16"})
    if training.optimizer == "adamw_8bit":
        problem = low_precision_problem("adamw_8bit", machine)
        if problem is None:
            yield Finding(Severity.NOTE, "optimizer", "the 8-bit optimizer works on this machine (tried)")
        else:
            yield Finding(Severity.ERROR, "optimizer", problem, {"optimizer": "adamw"})
    lora = facts.config.adapter.lora_arguments()
    if lora is not None and lora.quantization != "none":
        problem = low_precision_problem(lora.quantization, machine)
        if problem is None:
            yield Finding(Severity.NOTE, "lora", f"{lora.quantization} works on this machine (tried)")
        else:
            without = {**(facts.config.adapter.lora or {}), "quantization": "none"}
            yield Finding(Severity.ERROR, "lora", problem, {"lora": without})


def workers(facts: RunFacts) -> Iterator[Finding]:
    """Compare the processes that read data with cores and main memory."""
    training, machine = facts.config.training, facts.machine
    per_process = training.dataloader_num_workers
    count = per_process * facts.processes.count
    computing = 0 if machine.devices else facts.processes.count
    fitting = max(0, (machine.cores - computing) // facts.processes.count)
    if per_process and count + computing > machine.cores and fitting < per_process:
        yield Finding(
            Severity.WARNING,
            "dataloader_num_workers",
            f"{per_process} for each of {facts.processes.count} processes on {machine.cores} cores; two for each GPU "
            "are usually enough",
            {"dataloader_num_workers": min(2, fitting)},
        )
    elif count * WORKER_BYTES > TIGHT * machine.free_memory:
        fitting = int(TIGHT * machine.free_memory / WORKER_BYTES / facts.processes.count)
        yield Finding(
            Severity.WARNING,
            "dataloader_num_workers",
            f"{count} processes that read data take about {shown_bytes(count * WORKER_BYTES)} of main memory, "
            f"{shown_bytes(machine.free_memory)} are free",
            {"dataloader_num_workers": min(2, fitting)},
        )


def disk(facts: RunFacts) -> Iterator[Finding]:
    """Compare the disk space with what is free."""
    estimate, training = facts.disk, facts.config.training
    if estimate is None:
        return
    if estimate.total > estimate.free:
        smaller = estimate.total - max(0, estimate.checkpoints - 4) * estimate.checkpoint
        suggestion = {"save_total_limit": 2} if training.save_total_limit != 2 and smaller <= estimate.free else {}
        yield Finding(
            Severity.ERROR,
            "output_dir",
            f"about {shown_bytes(estimate.total)} ({estimate.checkpoints} checkpoints of "
            f"{shown_bytes(estimate.checkpoint)}), {shown_bytes(estimate.free)} are free",
            suggestion,
        )
    elif training.save_total_limit is None and estimate.checkpoints > 10:
        yield Finding(
            Severity.NOTE,
            "save_total_limit",
            f"all {estimate.checkpoints} checkpoints are kept, {shown_bytes(estimate.total)} in all",
        )


RESOURCE_RULES: tuple[Rule, ...] = (devices, memory, precision, workers, disk)
"""All rules, in the order in which their findings are shown."""
