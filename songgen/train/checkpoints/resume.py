"""Resuming from a checkpoint: which one, what may have changed since, how many steps are left and on which curve."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songgen.config import RunConfig
from songgen.config.changes import KIND_OF, SCHEDULE_KEYS, Change, has_changed
from songgen.config.keys import all_keys
from songgen.data.batch_plan import BatchPlan
from songgen.data.curriculum.growth import HASH_KEY, ROWS_KEY
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import CurvePosition, TrainerState

logger = logging.getLogger(__name__)

_EFFECTS = {
    Change.FREE: "takes effect",
    Change.COMPUTATION: "takes effect: the run computes differently from here on",
    Change.CONTENT: "its content is compared",
}
_REFUSED = {
    Change.COMPUTATION: "{} (changes what is computed: put it back, or set allow_config_changes to true)",
    Change.FIXED: "{} (cannot change within a run: put it back, or start a new output_dir with this run's folder as "
    "model_name_or_path)",
}

UNIMPORTANT_KEYS = ("resume", "output_dir", "overwrite_output_dir")
"""Keys whose change is not reported."""
PROCESS_KEYS = ("world_size", "accumulation")
"""Parts of `TrainerState.plan` that do not change which clips are in a batch."""
DATA_KEY = "data_sha256"
"""Part with the hashes of the shards."""
ORDER_KEYS = ("batch_size", "max_frames_per_batch", "group_by_length", "order", "seed")
"""Parts that change which clips are in a batch, but not the set of clips."""


@dataclass(frozen=True)
class Resumption:
    """Checkpoint that a run resumes from, with the changes since it was saved."""

    folder: Path
    """Folder of the checkpoint."""
    state: TrainerState
    """Position of the checkpoint in the run."""
    world_size: int
    """Number of processes that saved the checkpoint."""
    changed: Mapping[str, tuple[Any, Any]]
    """Changed keys of the configuration -> (value in the checkpoint, value now)."""


def find_resumption(config: RunConfig, checkpoints: CheckpointManager) -> Resumption | None:
    """Find the checkpoint that a run resumes from, before any model or data is opened.

    Args:
        config: configuration of this launch.
        checkpoints: manager of the output folder.

    Returns:
        The checkpoint; None if the run starts from the beginning.

    Raises:
        ValueError: if no checkpoint is valid, or the configuration or the number of processes has changed in a way that
            is not allowed; the message lists every difference with a suggested fix.
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
    """Return the keys whose value has changed; a key that the checkpoint lacks had its default."""
    keys = all_keys()
    pairs = {name: (then.get(name, keys[name].default), value) for name, value in now.items()}
    return {name: pair for name, pair in pairs.items() if has_changed(name, *pair)}


def _require_allowed(resumption: Resumption, config: RunConfig, world_size: int) -> None:
    """Refuse the changes that are not allowed, and log those that are.

    Raises:
        ValueError: if a change is not allowed; the message lists all of them.
    """
    training = config.training
    refused, allowed = [], []
    for name, (then, now) in resumption.changed.items():
        kind = KIND_OF[name]
        lines = [f"- {change}" for change in _shown_changes(name, then, now)]
        computes_otherwise = kind is Change.COMPUTATION and training.do_train
        if kind is Change.FIXED or (computes_otherwise and not training.allow_config_changes):
            refused += [_REFUSED[kind].format(line) for line in lines]
        elif name not in UNIMPORTANT_KEYS:
            allowed += [f"{line} ({_EFFECTS[kind]})" for line in lines]
    if resumption.world_size != world_size and training.do_train:
        line = f"- processes: {resumption.world_size} then, {world_size} now"
        if not training.allow_world_size_change:
            refused.append(f"{line} (launch as many as then, or set allow_world_size_change to true)")
    if refused:
        raise ValueError(f"the run cannot resume from {resumption.folder} with these changes:\n" + "\n".join(refused))
    if allowed:
        logger.info("changed since %s was saved:\n%s", resumption.folder, "\n".join(allowed))
    if resumption.world_size != world_size and training.do_train:
        logger.warning(
            "the checkpoint was saved by %d processes, now there are %d: each clip of the epoch is still read once and "
            "the learning rate continues along its curve; no longer exact: dropout samples other numbers, and a step "
            "holds another number of clips",
            resumption.world_size, world_size,
        )  # fmt: skip


def _shown_changes(name: str, then: Any, now: Any) -> list[str]:
    """Return a changed key as text; of two tables, each key that differs."""
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        return [f"{name}: {then} then, {now} now"]
    keys = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key)]
    return [f"{name}.{key}: {then.get(key)} then, {now.get(key)} now" for key in keys]


def count_steps(config: RunConfig, plan: BatchPlan, state: TrainerState) -> int:
    """Count the optimizer steps of the whole run, including the completed ones of `state`.

    The count is `max_steps`, or the steps of the epochs; a fraction of an epoch is rounded up. Completed steps with
    another number of processes or another batch size count as they are; their clips are not read again.
    """
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    # Total = completed steps + rest of the current epoch + further whole epochs + the fraction of a last one, e.g. for
    # 2.5 epochs, resumed in epoch 0: rest of epoch 0 + epoch 1 + half of epoch 2, rounded up.
    whole = int(training.num_train_epochs)
    part = training.num_train_epochs - whole
    last = -int(-part * plan.steps_per_epoch(whole) // 1) if part else 0
    if state.epoch < whole:
        left = plan.steps_per_epoch(state.epoch, state.batches_in_epoch) + last
        # With a fixed number of clips per batch, all epochs have the same number of steps. Batches by frames are packed
        # from each epoch's own order, so their number must be counted.
        if plan.max_frames_per_batch is None:
            left += (whole - state.epoch - 1) * plan.steps_per_epoch(0)
        else:
            left += sum(plan.steps_per_epoch(epoch) for epoch in range(state.epoch + 1, whole))
    else:
        left = last - state.batches_in_epoch // plan.slots_per_step if state.epoch == whole else 0
    return state.step + max(0, left)


def count_epochs(plan: BatchPlan, state: TrainerState, total_steps: int) -> float:
    """Count the passes over the data at the end of a run, including the completed ones of `state`.

    Steps before `state` may have read more or fewer clips than those of `plan`, so only the steps that are left are
    converted: the rest of the current epoch, then further epochs.
    """
    share = state.batches_in_epoch / len(plan.batches(state.epoch)) if state.batches_in_epoch else 0.0
    left, rest = max(0, total_steps - state.step), plan.steps_per_epoch(state.epoch, state.batches_in_epoch)
    if left <= rest:
        return state.epoch + share + (1 - share) * left / max(1, rest)
    return state.epoch + 1 + (left - rest) / plan.steps_per_epoch(state.epoch + 1)


def continue_curve(
    state: TrainerState, total_steps: int, steps_per_epoch: int, changed: Iterable[str] = ()
) -> CurvePosition:
    """Return the position of a run on the curves of its learning rate and loss weights.

    The curve has the length that was planned when the run started. If a key of the schedule changed, a new curve over
    the whole run replaces it. If only the number of remaining steps changed (more processes, larger batches), the rest
    of the old curve is covered by the new number of steps. For example, a curve of 1,000 steps left at step 400 with
    300 steps to go has `rate` 600 / 300 = 2: each step of the run advances the curve by two, and both end together.

    Args:
        state: state of the checkpoint; a new state for a new run.
        total_steps: optimizer steps of the whole run, as it is launched now.
        steps_per_epoch: optimizer steps of an epoch, as it is launched now.
        changed: keys that changed since the checkpoint.

    Returns:
        The position and its rate.
    """
    curve = state.curve
    # A new curve is entered at the number of completed steps, at rate 1.
    if not curve.length or SCHEDULE_KEYS & set(changed):
        return CurvePosition(total_steps, float(state.step), float(state.updates), steps_per_epoch=steps_per_epoch)
    left_then, left_now = state.total_steps - state.step, total_steps - state.step
    if left_then == left_now or left_now <= 0:
        return curve
    # Multiplied, not replaced: the number of processes may have changed before. (steps left) x rate, the part of the
    # curve that is left, stays the same.
    return dataclasses.replace(curve, rate=curve.rate * left_then / left_now)


def require_same_songs(then: Mapping[str, Any], now: Mapping[str, Any], *, mid_epoch: bool) -> None:
    """Check that a run uses the same data and frozen weights as the checkpoint that it resumes from.

    Args:
        then: `TrainerState.plan` of the checkpoint.
        now: `TrainerState.plan` of this run.
        mid_epoch: whether the checkpoint is in the middle of an epoch.

    Raises:
        ValueError: if songs, targets or frozen weights differ; or the checkpoint is in the middle of an epoch whose
            batches would be different now.
    """
    # Keys of only one side were added or removed by another version, and say nothing about a change of the data.
    changed = {name for name in set(then) & set(now) if then[name] != now[name]} - set(PROCESS_KEYS)
    # A data set that has grown has other shards; its rows that this run reads were compared one by one.
    if HASH_KEY in then and then[HASH_KEY] == now.get(HASH_KEY):
        changed -= {DATA_KEY, ROWS_KEY}
    listed = "\n".join(f"- {name}: {then[name]} then, {now[name]} now" for name in sorted(changed))
    if changed - set(ORDER_KEYS):
        raise ValueError(
            f"data or frozen weights are not those that the checkpoint was trained with:\n{listed}\n"
            "Put them back (another folder with the same content will do), or start a new output_dir with this run's "
            "folder as model_name_or_path."
        )
    if changed and mid_epoch:
        raise ValueError(
            "the checkpoint is in the middle of an epoch, whose batches are not those of this configuration:\n"
            f"{listed}\nPut these back; they can change at the end of an epoch."
        )


def require_same_parameters(saved: Iterable[str], present: Iterable[str]) -> None:
    """Check the order of a checkpoint's parameters; names and shapes are compared when the weights are loaded.

    Raises:
        ValueError: if the order differs; the message names the first difference.
    """
    saved, present = list(saved), list(present)
    if sorted(saved) != sorted(present) or saved == present:
        return
    then, now = next(pair for pair in zip(saved, present, strict=True) if pair[0] != pair[1])
    raise ValueError(
        "the model's parameters are in another order than in the checkpoint, so sums over them would round "
        f"differently: {then} then, {now} now. Use the version of the program that saved it, or start a new output_dir "
        "with the run's folder as model_name_or_path."
    )
