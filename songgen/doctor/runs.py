"""Diagnosis of the output folder of a run: its activity, what it would resume from, and past problems."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from songgen.adapters.folder import is_adapter_folder
from songgen.config import RunConfig
from songgen.doctor.adapters import examine_adapter
from songgen.doctor.checkpoints import examine_checkpoints, total_size
from songgen.doctor.findings import Finding, error, ok, warning
from songgen.doctor.models import examine_model
from songgen.runtime.files import free_bytes
from songgen.runtime.folder_owner import read_owner
from songgen.runtime.json_files import read_json_object
from songgen.runtime.json_lines import numbered
from songgen.runtime.model_folders import model_config_file
from songgen.runtime.processes.heartbeat import heartbeat_file, read_beat
from songgen.runtime.status import RUN_STATUS_FILE, read_run_status, status_problem
from songgen.train.checkpoints.files import RUN_CONFIG_FILE, room_needed
from songgen.train.checkpoints.folders import complete_checkpoints
from songgen.train.control.journal import JOURNAL_FILE, in_effect, journal_lines
from songgen.train.optimization.anomalies import LOSS_SPIKES_FILE, NON_FINITE_FILE
from songgen.train.output_folder import RUN_LOCK_FILE
from songgen.train.reporting.trackers import METRICS_FILE, metric_lines, read_metrics

SHOWN_METRICS = ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss")


def examine_run(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Check an output folder and, if there is one, the model in it."""
    yield from _activity(folder)
    yield from _processes(folder)
    config, problems = _configuration(folder)
    yield from problems
    yield from examine_checkpoints(
        folder, inexact_allowed=bool(config and config.training.allow_inexact_resume), deep=deep
    )
    if config is not None:
        yield from _resume_setting(config)
        yield from _inputs(config)
    yield from _disk(folder)
    yield from _metrics(folder)
    yield from _anomalies(folder)
    yield from _journal(folder)
    if model_config_file(folder) is not None:
        yield from examine_model(folder, deep=deep)
    elif is_adapter_folder(folder):
        yield from examine_adapter(folder)
    else:
        yield ok("model", "not written yet: configuration and weights are written when the run ends or is stopped")


def _activity(folder: Path) -> Iterator[Finding]:
    """Report whether a process is active in the folder, and the status that the run itself has written."""
    try:
        owner = read_owner(folder / RUN_LOCK_FILE)
    except ValueError as problem:
        yield warning(RUN_LOCK_FILE, str(problem), f"remove {folder / RUN_LOCK_FILE} if no run is active")
        owner = None
    if owner is None:
        yield ok("activity", "no run is active")
    elif owner.is_alive:
        yield ok("activity", f"a run is active: {owner}")
    elif owner.is_here:
        yield warning("activity", f"the lock was left by {owner}, which has ended", "the next start replaces it")
    else:
        yield warning(
            "activity", f"the lock is held by {owner}, which cannot be checked from this machine",
            f"if that process has ended, remove {folder / RUN_LOCK_FILE}",
        )  # fmt: skip
    yield from _status(folder, may_be_active=owner is not None and owner.may_hold)


def _status(folder: Path, *, may_be_active: bool) -> Iterator[Finding]:
    """Report the status that the run itself has written; a run that is not active any more cannot be running."""
    status = read_run_status(folder)
    if status is None:
        if problem := status_problem(folder):
            yield warning(
                RUN_STATUS_FILE, problem, f"remove {folder / RUN_STATUS_FILE}; the next start writes it again"
            )
        return
    step = "" if status.step is None else f" after step {status.step}"
    if step and status.total_steps is not None:
        step = f" after step {status.step} of {status.total_steps}"
    if status.status == "failed":
        what = f"the run failed{step}" if step else "the latest start failed before its first step"
        if status.exit_code is not None and status.reason:
            what = f"{what} with exit code {status.exit_code}: {status.reason}"
        elif status.exit_code is not None:
            what = f"{what} with exit code {status.exit_code}"
        yield error(RUN_STATUS_FILE, what, "fix the cause and run the command again")
    elif status.status == "running" and not may_be_active:
        yield warning(RUN_STATUS_FILE, f"the run was killed{step} without a message", "run the command again to resume")
    elif status.status == "running":
        yield ok(RUN_STATUS_FILE, f"the run is in progress{step}")
    elif status.status == "stopped":
        yield ok(RUN_STATUS_FILE, f"stopped by a signal{step}; the same command resumes it")
    else:
        yield ok(RUN_STATUS_FILE, f"the run finished{step}")


def _processes(folder: Path) -> Iterator[Finding]:
    """Report the latest heartbeat of each process; a run that ends normally leaves none."""
    status = read_run_status(folder)
    told = "" if status is None else str(status.reason)
    for rank in range(len(list(folder.glob(heartbeat_file(0).replace("0", "*"))))):
        beat = read_beat(folder, rank)
        if beat is None:
            continue
        who = f"pid {beat.pid} on {beat.host}"
        last = f"after step {beat.step}, {beat.doing}, {time.time() - beat.time:,.0f} s ago ({who})"
        if beat.error is not None and not beat.is_victim:
            reason = "for the reason above" if beat.error in told else beat.error
            yield error(f"process {rank}", f"failed {last}: {reason}")
        else:
            yield ok(f"process {rank}", f"last heartbeat {last}")


def _configuration(folder: Path) -> tuple[RunConfig | None, list[Finding]]:
    """Read the configuration of the last launch."""
    path = folder / RUN_CONFIG_FILE
    try:
        values: Any = read_json_object(path)
        config = RunConfig.from_dict(values, sources=(str(path),))
    except (OSError, ValueError, AttributeError, TypeError) as problem:
        fix = "launching the run again writes it again; checkpoints have a copy of their own"
        return None, [error(RUN_CONFIG_FILE, str(problem), fix)]
    return config, [ok(RUN_CONFIG_FILE, f"{len(config.to_dict())} keys, all valid")]


def _resume_setting(config: RunConfig) -> Iterator[Finding]:
    """Report a `resume` setting other than "auto"."""
    setting = config.training.resume
    if setting == "never":
        yield warning("resume", "resume is 'never': no checkpoint would be used", "set resume to 'auto' to resume")
    elif setting != "auto":
        known = Path(setting).is_dir()
        what = (
            f"the configuration names {setting}" if known else f"the configuration names {setting}, which is not there"
        )
        yield ok("resume", what) if known else error("resume", what, "correct it, or set resume to 'auto'")


def _inputs(config: RunConfig) -> Iterator[Finding]:
    """Check that the data sets of the run are there; relative paths are relative to the folder of the launch."""
    for folder in config.data.dataset_folders():
        if not Path(folder).is_dir():
            what = f"there is no data set folder {folder}"
            what = what if Path(folder).is_absolute() else f"{what} (looked from {Path.cwd()})"
            yield warning("save_to_disk", what, "the run needs it to resume")
        else:
            yield ok("save_to_disk", folder)


def _disk(folder: Path) -> Iterator[Finding]:
    """Compare the free space with that needed by the next save."""
    free = free_bytes(folder)
    complete = complete_checkpoints(folder, random_state_optional=True)
    if not complete:
        yield ok("disk", f"{free:,} bytes free")
        return
    needed = room_needed(total_size(next(iter(complete.values())).files))
    what = f"{free:,} bytes free, the next save needs about {needed:,}"
    if free < needed:
        yield error("disk", what, "free some space, or the next save fails (earlier checkpoints are not affected)")
    else:
        yield ok("disk", what)


def _metrics(folder: Path) -> Iterator[Finding]:
    """Report the latest metrics."""
    path = folder / METRICS_FILE
    lines = metric_lines(path)
    if lines.damaged:
        fix = "the next launch moves them aside"
        yield warning(METRICS_FILE, f"damaged {numbered(lines.damaged)}; training is not affected", fix)
    records = lines.values
    if not records:
        yield ok(METRICS_FILE, "no line yet")
        return
    latest = {name: value for record in records for name, value in record.items()}
    shown = [f"{name} {latest[name]:.4g}" for name in SHOWN_METRICS if latest.get(name) is not None]
    minutes = (time.time() - float(records[-1].get("time") or 0.0)) / 60
    yield ok(METRICS_FILE, f"step {records[-1]['step']}, {minutes:,.0f} minutes ago: {', '.join(shown) or 'no loss'}")
    bad = [name for name in SHOWN_METRICS if name in latest and latest[name] is None]
    if bad:
        yield warning(METRICS_FILE, f"the latest {', '.join(bad)} was not finite", f"see {NON_FINITE_FILE}")


def _anomalies(folder: Path) -> Iterator[Finding]:
    """Report the number of steps that were not finite or had loss spikes."""
    for name, kind in ((NON_FINITE_FILE, "steps with values that are not finite"), (LOSS_SPIKES_FILE, "loss spikes")):
        records = read_metrics(folder / name) if (folder / name).is_file() else []
        if records:
            what = f"{len(records)} {kind}, the latest at step {records[-1]['step']}"
            yield warning(name, what, "their clips are listed there; listen to them, or lower learning_rate")
        else:
            yield ok(name, f"no {kind}")


def _journal(folder: Path) -> Iterator[Finding]:
    """Report the commands that the run has received, if there were any."""
    lines = journal_lines(folder / JOURNAL_FILE)
    if lines.damaged:
        fix = "remove them, and their commands are lost; or resume with replay never"
        yield error(JOURNAL_FILE, f"damaged {numbered(lines.damaged)}: the run does not resume", fix)
    elif lines.values:
        latest = in_effect(lines.values)[-1:]
        shown = f", the last in effect: {latest[0].command} after step {latest[0].step}" if latest else ""
        yield ok(JOURNAL_FILE, f"{len(lines.values)} commands{shown}")
