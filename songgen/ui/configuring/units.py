"""Steps as epochs and epochs as steps, counted as the trainer counts them."""

import math
from collections.abc import Mapping
from typing import Any

from songgen.config.training_arguments import TrainingArguments
from songgen.config.types import coerce
from songgen.ui.configuring.sections import form_keys

WARMUP_KEYS = ("warmup_steps", "warmup_ratio", "warmup_epochs")


def steps_per_epoch(clips: int, batch_size: int, accumulation: int, processes: int) -> int:
    """Return the optimizer steps of an epoch of batches with a fixed number of clips."""
    return math.ceil(math.ceil(clips / batch_size) / (accumulation * processes))


def unit_notes(
    values: Mapping[str, Any], *, clips: int, processes: int, measured_steps: int | None = None
) -> dict[str, Any]:
    """Return what lengths are in the other unit.

    Args:
        values: value of every key, with defaults; those of a wrong type count as the default.
        clips: number of clips to train on.
        processes: number of processes.
        measured_steps: steps of an epoch as the check has counted them, for batches by frames.

    Returns:
        `steps_per_epoch`, `total_steps`, `epochs`, `clips_per_step` (None for batches by frames), and in `keys` steps
        and epochs of each length that is given or follows from "auto".
    """
    right = {name: _right_value(name, value) for name, value in values.items() if "." not in name}
    names = TrainingArguments.__dataclass_fields__
    training = TrainingArguments(**{name: value for name, value in right.items() if name in names})
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    by_frames = right["max_frames_per_batch"] is not None
    if by_frames and measured_steps is None:
        return {}
    epoch = measured_steps if by_frames else steps_per_epoch(clips, batch, accumulation, processes)
    assert epoch is not None
    total = training.max_steps if training.max_steps > 0 else _steps(training.num_train_epochs, epoch)
    lengths = {
        "num_train_epochs": None if training.max_steps > 0 else total,
        "max_steps": training.max_steps if training.max_steps > 0 else None,
        **{key: training.num_warmup_steps(total, epoch) for key in WARMUP_KEYS if getattr(training, key)},
        "eval_generation_steps": training.eval_generation_steps,
    }
    for steps_key, epochs_key, interval in (
        ("save_steps", "save_epochs", training.save_interval(total, epoch)),
        ("eval_steps", "eval_epochs", training.eval_interval(total, epoch)),
        ("logging_steps", "logging_epochs", training.logging_interval(total, epoch)),
        ("every_plot_step", "plot_epochs", training.plot_interval(total, epoch)),
    ):
        lengths[epochs_key if getattr(training, epochs_key) is not None else steps_key] = interval
    return {
        "steps_per_epoch": epoch,
        "total_steps": total,
        "epochs": total / epoch,
        "clips_per_step": None if by_frames else batch * accumulation * processes,
        "keys": {
            name: {"steps": steps, "epochs": steps / epoch} for name, steps in lengths.items() if steps is not None
        },
    }


def _steps(epochs: float, epoch: int) -> int:
    """Return the steps of a number of epochs; a fraction of an epoch is rounded up."""
    whole = int(epochs)
    return whole * epoch + math.ceil((epochs - whole) * epoch)


def _right_value(name: str, value: Any) -> Any:
    key = form_keys()[name]
    try:
        return coerce(value, key.annotation)
    except ValueError:
        return key.default
