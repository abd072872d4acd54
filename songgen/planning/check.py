"""Checks of a planned run: all rules, and the result as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from songgen.planning.facts import RunFacts
from songgen.planning.findings import Finding, Severity, by_severity
from songgen.planning.memory import shown_bytes
from songgen.planning.resource_rules import RESOURCE_RULES
from songgen.planning.run_rules import RUN_RULES
from songgen.planning.speed import CERTAINTY, shown_seconds


def check_run(facts: RunFacts) -> list[Finding]:
    """Apply all rules; the worst findings are first."""
    return by_severity([finding for rule in (*RUN_RULES, *RESOURCE_RULES) for finding in rule(facts)])


def size_line(facts: RunFacts) -> str:
    """Return data, epochs and steps in one line."""
    clips, length, training = facts.clips, facts.length, facts.config.training
    if clips is None or length is None:
        return "size: not known"
    held_out = f", {facts.held_out.count} held out" if facts.held_out else ""
    frames = facts.config.data.max_frames_per_batch
    batch = f"{frames:,} frames" if frames else f"{training.per_device_train_batch_size} clips"
    resumed = f" ({length.done:,} done)" if length.done else ""
    return (
        f"size: {clips.count:,} clips, {clips.hours:.2g} h{held_out}; {batch} x {training.gradient_accumulation_steps} "
        f"x {facts.processes.count} a step; {length.epochs:.3g} epochs of {length.steps_per_epoch:,} steps = "
        f"{length.total_steps:,} steps{resumed}"
    )


def memory_line(facts: RunFacts) -> str:
    """Return the memory in one line."""
    if facts.memory is None:
        return "memory: not known"
    machine, estimate = facts.machine, facts.memory
    where = machine.devices[0].name if machine.devices else "main memory"
    largest = sorted((row for row in estimate.rows() if row[2]), key=lambda row: -row[1])[:3]
    parts = ", ".join(f"{name} {shown_bytes(size)}" for name, size, _ in largest)
    room = machine.room(facts.processes.count)
    return f"memory: about {shown_bytes(estimate.total)} of {shown_bytes(room)} free ({where}), mostly {parts}"


def time_line(facts: RunFacts, findings: Sequence[Finding]) -> str:
    """Return time, disk space and the worst finding in one line."""
    parts = []
    if facts.time is not None:
        parts.append(
            f"time: about {shown_seconds(facts.time.seconds)} ({facts.time.step:.2g} s a step, within a factor of "
            f"{CERTAINTY:g})"
        )
    if facts.disk is not None:
        parts.append(f"disk: up to {shown_bytes(facts.disk.total)} of {shown_bytes(facts.disk.free)} free")
    worst = next((finding for finding in findings if finding.severity is not Severity.NOTE), None)
    parts.append("nothing to change" if worst is None else worst.text())
    return "; ".join(parts)


def three_lines(facts: RunFacts) -> list[str]:
    """Return what is shown at the start of a run."""
    return [size_line(facts), memory_line(facts), time_line(facts, check_run(facts))]


def report_lines(facts: RunFacts, findings: Sequence[Finding]) -> list[str]:
    """Return everything that is known of a planned run as lines of text."""
    lines = [f"machine: {facts.machine.describe()}", size_line(facts)]
    if facts.memory is not None:
        lines.append(memory_line(facts))
        moment = facts.memory.peak_moment
        lines += [
            f"  {shown_bytes(size):>9}  {name}" + ("" if counted else f" (not {moment}, when it is highest)")
            for name, size, counted in facts.memory.rows()
        ]
        unknown = [name for name, size in facts.costs.encoders.items() if size is None] if facts.costs else []
        lines += [f"  not counted: {name}, whose size is not known here" for name in unknown]
    if facts.time is not None or facts.disk is not None:
        lines.append(time_line(facts, ()).removesuffix("; nothing to change"))
    if facts.disk is not None:
        disk = facts.disk
        lines.append(
            f"  {disk.checkpoints} checkpoints of {shown_bytes(disk.checkpoint)}, the model {shown_bytes(disk.model)}, "
            f"songs {shown_bytes(disk.songs)}, metrics {shown_bytes(disk.metrics)}"
        )
    lines += [finding.text() for finding in findings] or ["nothing to change"]
    return lines


def report_record(facts: RunFacts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return everything that is known of a planned run, for JSON."""
    length, memory, time, disk = facts.length, facts.memory, facts.time, facts.disk
    return {
        "machine": {"description": facts.machine.describe(), "devices": len(facts.machine.devices)},
        "processes": facts.processes.count,
        "clips": None if facts.clips is None else facts.clips.count,
        "held_out": None if facts.held_out is None else facts.held_out.count,
        "steps_per_epoch": None if length is None else length.steps_per_epoch,
        "total_steps": None if length is None else length.total_steps,
        "epochs": None if length is None else round(length.epochs, 3),
        "memory": None
        if memory is None
        else {
            "total": memory.total,
            "free": facts.machine.room(facts.processes.count),
            "highest": memory.peak_moment,
            "parts": {name: {"bytes": size, "counted": counted} for name, size, counted in memory.rows()},
        },
        "seconds": None if time is None else round(time.seconds, 1),
        "seconds_per_step": None if time is None else round(time.step, 4),
        "disk": None if disk is None else {"total": disk.total, "free": disk.free},
        "findings": [
            {
                "severity": str(finding.severity),
                "key": finding.key,
                "message": finding.message,
                "suggestion": dict(finding.suggestion),
            }
            for finding in findings
        ],
    }
