"""Going on from a checkpoint: which one, what may have changed since, how many steps are left and on which curve."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.config import RunConfig
from songgen.config.changes import KIND_OF, SCHEDULE_KEYS, Change
from songgen.config.keys import all_keys
from songgen.data.batch_plan import BatchPlan
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import CurvePosition, TrainerState

logger = logging.getLogger(__name__)

_EFFECTS = {
    Change.FREE: "takes effect",
    Change.COMPUTATION: "takes effect: from here on this is another run than the one that was begun",
    Change.CONTENT: "what lies there is compared",
}
_FIXES = {
    Change.COMPUTATION: "put it back, or set allow_config_changes to true",
    Change.FIXED: "put it back, or start a new output_dir with this run's folder as model_name_or_path",
}

UNIMPORTANT_KEYS = ("resume", "output_dir", "overwrite_output_dir")
"""Keys whose change is not worth a line."""
PROCESS_KEYS = ("world_size", "accumulation")
"""Parts of `TrainerState.plan` that do not change which clips make a batch."""
ORDER_KEYS = ("batch_size", "max_frames_per_batch", "group_by_length", "order", "seed")
"""Parts that change which clips make a batch, but not the clips."""


@dataclass(frozen=True)
class Resumption:
    """A checkpoint that a run goes on from, and what is other than when it was saved."""

    folder: Path
    """The checkpoint."""
    state: TrainerState
    """Where it stands."""
    world_size: int
    """Processes that saved it."""
    changed: Mapping[str, tuple[Any, Any]]
    """Keys with another value now: (then, now)."""


def find_resumption(config: RunConfig, checkpoints: CheckpointManager) -> Resumption | None:
    """Find what a run goes on from, before any model or data is opened.

    Args:
        config: of this launch.
        checkpoints: of the output folder.

    Returns:
        None if the run starts anew.

    Raises:
        ValueError: no checkpoint is valid, or the configuration or the number of processes is not the one of the
            checkpoint; every difference is named with its way out.
    """
    setting = config.training.resume
    if setting == "never":
        return None
    folder = checkpoints.latest() if setting == "auto" else checkpoints.require(Path(setting))
    if folder is None:
        return None
    saved = checkpoints.describe(folder)
    resumption = Resumption(folder, saved.state, saved.world_size, differences(saved.config, config.to_dict()))
    _require_allowed(resumption, config, checkpoints.world_size)
    return resumption


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys with another value now; a key that the checkpoint does not know had its default."""
    keys = all_keys()
    pairs = {name: (then.get(name, keys[name].default), value) for name, value in now.items()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _require_allowed(resumption: Resumption, config: RunConfig, world_size: int) -> None:
    """Refuse the changes that are not allowed, and name those that are.

    Raises:
        ValueError: listing every one that is not.
    """
    training = config.training
    refused, allowed = [], []
    for name, (then, now) in resumption.changed.items():
        kind, line = KIND_OF[name], f"- {name}: {then} then, {now} now"
        computes_otherwise = kind is Change.COMPUTATION and training.do_train
        if kind is Change.FIXED or (computes_otherwise and not training.allow_config_changes):
            refused.append(f"{line} ({kind.value}: {_FIXES[kind]})")
        elif name not in UNIMPORTANT_KEYS:
            allowed.append(f"{line} ({_EFFECTS[kind]})")
    if resumption.world_size != world_size and training.do_train:
        line = f"- processes: {resumption.world_size} then, {world_size} now"
        if not training.allow_world_size_change:
            refused.append(f"{line} (launch as many as then, or set allow_world_size_change to true)")
    if refused:
        raise ValueError(
            f"the run cannot go on from {resumption.folder} with what changed since:\n" + "\n".join(refused)
        )
    if allowed:
        logger.info("changed since %s was saved:\n%s", resumption.folder, "\n".join(allowed))
    if resumption.world_size != world_size and training.do_train:
        logger.warning(
            "the checkpoint was saved by %d processes, now there are %d: every clip of the epoch still comes once and "
            "the learning rate goes on along its curve; no longer exact: dropout draws other numbers, and a step holds "
            "another number of clips",
            resumption.world_size, world_size,
        )  # fmt: skip


def count_steps(config: RunConfig, plan: BatchPlan, state: TrainerState) -> int:
    """Optimizer steps of the whole run, of which those of `state` lie behind.

    `max_steps`, or what the epochs take; a fraction of an epoch is rounded up. Steps that another number of processes
    or another batch size has made count as they are; what they trained on is not trained on again.
    """
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    whole = int(training.num_train_epochs)
    part = training.num_train_epochs - whole
    last = -int(-part * plan.steps_per_epoch(whole) // 1) if part else 0
    if state.epoch < whole:
        left = plan.steps_per_epoch(state.epoch, state.batches_in_epoch) + last
        if plan.max_frames_per_batch is None:
            left += (whole - state.epoch - 1) * plan.steps_per_epoch(0)
        else:
            left += sum(plan.steps_per_epoch(epoch) for epoch in range(state.epoch + 1, whole))
    else:
        left = last - state.batches_in_epoch // plan.slots_per_step if state.epoch == whole else 0
    return state.step + max(0, left)


def continue_curve(state: TrainerState, total_steps: int, changed: Iterable[str] = ()) -> CurvePosition:
    """Where a run goes on along the curves of its learning rate and codebook weights.

    Args:
        state: of the checkpoint; a new one for a run that starts.
        total_steps: optimizer steps of the whole run, as it is launched now.
        changed: keys that changed since the checkpoint.

    Returns:
        the place and the pace: a key of the schedule draws the curve anew over the whole run; if only the number of
        steps left is another one (more processes, larger batches), the rest of the old curve is walked in these.
    """
    curve = state.curve
    if not curve.length or SCHEDULE_KEYS & set(changed):
        return CurvePosition(length=total_steps, step=float(state.step), update=float(state.updates))
    left_then, left_now = state.total_steps - state.step, total_steps - state.step
    if left_then == left_now or left_now <= 0:
        return curve
    return dataclasses.replace(curve, rate=curve.rate * left_then / left_now)


def require_same_songs(then: Mapping[str, Any], now: Mapping[str, Any], *, mid_epoch: bool) -> None:
    """Compare what a checkpoint's run was made of with what this one is made of.

    Args:
        then: `TrainerState.plan` of the checkpoint.
        now: the same of this run.
        mid_epoch: whether the checkpoint stands inside of an epoch.

    Raises:
        ValueError: other songs, codes or frozen weights; or the checkpoint stands in the middle of an epoch whose
            batches would be others now.
    """
    changed = {name for name in set(then) & set(now) if then[name] != now[name]} - set(PROCESS_KEYS)
    listed = "\n".join(f"- {name}: {then[name]} then, {now[name]} now" for name in sorted(changed))
    if changed - set(ORDER_KEYS):
        raise ValueError(
            f"data or frozen weights are not those that the checkpoint was trained with:\n{listed}\n"
            "Put them back (another folder with the same content will do), or start a new output_dir with this run's "
            "folder as model_name_or_path."
        )
    if changed and mid_epoch:
        raise ValueError(
            "the checkpoint stands in the middle of an epoch, whose batches are not those of this configuration:\n"
            f"{listed}\nPut these back; they can change at the end of an epoch."
        )


def require_same_parameters(saved: Iterable[str], present: Iterable[str]) -> None:
    """Refuse a checkpoint whose parameters stand in another order; names and shapes are compared when they are written.

    Raises:
        ValueError: naming the first parameter that stands elsewhere.
    """
    saved, present = list(saved), list(present)
    if sorted(saved) != sorted(present) or saved == present:
        return
    then, now = next(pair for pair in zip(saved, present, strict=True) if pair[0] != pair[1])
    raise ValueError(
        "the model's parameters stand in another order than in the checkpoint, so sums over them would round "
        f"otherwise: {then} then, {now} now. Use the version of the program that saved it, or start a new output_dir "
        "with the run's folder as model_name_or_path."
    )
