"""Keys of other programs that mean what keys here mean: accepted in files and on the command line, and said.

Only what means the same is translated; what does not exist here is refused with the reason.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from songgen.config.checks import Problem
from songgen.config.types import coerce


@dataclass(frozen=True)
class Spelling:
    """Key of another program."""

    annotation: Any
    """Type of its value."""

    keys: Callable[[Any], dict[str, Any]]
    """Function that returns the keys here for a value; raises a ValueError for one without an equivalent."""

    meaning: str
    """Keys here, as words."""


@dataclass(frozen=True)
class Use:
    """Use of a spelling."""

    name: str
    """Key of the other program."""

    value: Any
    """Value that was given."""

    keys: Mapping[str, Any]
    """Keys here with their values."""

    def __str__(self) -> str:
        """Return one line that says what was understood."""
        here = ", ".join(f"{key} {json.dumps(value)}" for key, value in self.keys.items())
        return f"{self.name} {json.dumps(self.value)} is read as {here or 'no limit: max_steps ends the run'}"


def _renamed(key: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {key: value}


PRECISIONS = {
    "32": "float32",
    "32-true": "float32",
    "16": "float16",
    "16-mixed": "float16",
    "16-true": "float16",
    "bf16": "bfloat16",
    "bf16-mixed": "bfloat16",
    "bf16-true": "bfloat16",
}
"""Values of `precision` -> `dtype`."""


def _precision(value: int | str) -> dict[str, Any]:
    if str(value) not in PRECISIONS:
        raise ValueError(f"has no equivalent here; those that have one: {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[str(value)]
    is_true = str(value).endswith("-true") and dtype != "float32"
    return {"dtype": dtype, "weights_dtype": dtype} if is_true else {"dtype": dtype}


def _epochs(value: int) -> dict[str, Any]:
    if value == 0 or value < -1:
        raise ValueError("must be positive, or -1 to train until max_steps")
    return {} if value == -1 else {"num_train_epochs": float(value)}


def _validation(value: int | float | None) -> dict[str, Any]:
    if value is None:
        return {"eval_strategy": "no"}
    if value <= 0:
        raise ValueError("must be positive: a number of steps or, below 1.0, a share of an epoch")
    if isinstance(value, float):
        return {"do_eval": True, "eval_strategy": "epoch", "eval_epochs": value}
    return {"do_eval": True, "eval_strategy": "steps", "eval_steps": value}


SPELLINGS: dict[str, Spelling] = {
    "epochs": Spelling(int, _epochs, "`num_train_epochs`; -1: `max_steps` ends the run, and must be given"),
    "num_workers": Spelling(int, _renamed("dataloader_num_workers"), "`dataloader_num_workers`"),
    "every_n_train_steps": Spelling(
        int, lambda value: {"save_steps": value, "logging_steps": value}, "`save_steps` and `logging_steps`"
    ),
    "dataset_path": Spelling(str, _renamed("save_to_disk"), "`save_to_disk`"),
    "exp_name": Spelling(str, _renamed("wandb_run_name"), "`wandb_run_name`"),
    "precision": Spelling(
        int | str, _precision, "`dtype`: 32, 16-mixed or bf16-mixed; with 16-true and bf16-true also `weights_dtype`"
    ),
    "accumulate_grad_batches": Spelling(int, _renamed("gradient_accumulation_steps"), "`gradient_accumulation_steps`"),
    "gradient_clip_val": Spelling(float, _renamed("max_grad_norm"), "`max_grad_norm`"),
    "logger_dir": Spelling(str, _renamed("output_dir"), "`output_dir`, which has logs and checkpoints"),
    "checkpoint_dir": Spelling(
        str | None,
        lambda value: {} if value is None else {"output_dir": value},
        "`output_dir`, which has logs and checkpoints",
    ),
    "ckpt_path": Spelling(
        str | None, lambda value: {"resume": value or "never"}, "`resume`; null: `never`, that is from the beginning"
    ),
    "val_check_interval": Spelling(
        int | float | None,
        _validation,
        "`eval_steps` with `eval_strategy` steps; a fraction: `eval_epochs`; null: no evaluation in training",
    ),
}
"""Keys of other programs that are accepted."""

REFUSED = {
    "num_nodes": "machines are an option of the launch and no key: `songgen train CONFIG --num_nodes 2 --devices 8`",
    "devices": "processes are an option of the launch and no key: `songgen train CONFIG --devices 8`, one for each GPU",
}
"""Keys of other programs that are refused, with the reason."""


def translate(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Use], list[Problem]]:
    """Replace the keys of other programs.

    Args:
        values: values by key, as in a file.

    Returns:
        Values by keys here, the spellings that were used, and a problem for each value that cannot be used.
    """
    translated = {name: value for name, value in values.items() if name not in SPELLINGS}
    origin = dict.fromkeys(translated, "")
    uses, problems = [], []
    for name in (name for name in values if name in SPELLINGS):
        use, problem = read_spelling(name, values[name])
        if problem is not None:
            problems.append(problem)
        if use is None:
            continue
        uses.append(use)
        for key, value in use.keys.items():
            if key in translated and translated[key] != value:
                other = origin[key] or key
                message = (
                    f"{name}: means {key} {json.dumps(value)} here, but {other} gives it another value; remove one"
                )
                problems.append(Problem((name, key), message))
            translated[key], origin[key] = value, name
    return translated, uses, problems


def read_spelling(name: str, value: Any) -> tuple[Use | None, Problem | None]:
    """Return what a key of another program means here, or its problem."""
    spelling = SPELLINGS[name]
    shown = json.dumps(value, default=repr)
    try:
        known = coerce(value, spelling.annotation)
    except ValueError as expected:
        return None, Problem((name,), f"{name}: {shown} is not valid, expected {expected}")
    try:
        return Use(name, known, spelling.keys(known)), None
    except ValueError as error:
        return None, Problem((name,), f"{name}: {shown} {error}")
