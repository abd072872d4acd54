"""Keys of other programs that mean what keys here mean: accepted in files and on the command line, and said.

Only what means the same is translated; what does not exist here is refused with the reason.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from songgen.config.checks import Problem
from songgen.config.types import coerce
from songgen.runtime.status import RUN_CONFIG_FILE


@dataclass(frozen=True)
class Spelling:
    """Key of another program."""

    annotation: Any
    """Type of its value."""

    keys: Callable[[Any], dict[str, Any]]
    """Function that returns the keys here for a value; raises a ValueError for one without an equivalent."""

    meaning: str
    """Keys here, as words."""

    without_keys: str = ""
    """What is said of a value for which no key is set; `{value}` is replaced."""


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
        here = here or SPELLINGS[self.name].without_keys.format(value=self.value)
        return f"{self.name} {json.dumps(self.value)} is read as {here}"


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


MODEL_FILE = "model_index.json"
"""File by which the folder of a diffusers pipeline is known. It is that of `songgen.runtime.model_folders`, which loads
torch; reading a command line does not."""


def _checkpoint_folder(value: str | None) -> dict[str, Any]:
    if value is None:
        return {}
    folder = Path(value).expanduser()
    # In the program of ACE-Step this is the folder of the model to start from; in its instructions, that of the output.
    if (folder / RUN_CONFIG_FILE).is_file():
        return {"output_dir": value}
    if (folder / MODEL_FILE).is_file():
        return {"model_name_or_path": value}
    if any(folder.glob("*/config.json")):
        raise ValueError(
            f"has models, but no {MODEL_FILE} of a diffusers pipeline; as the model to start from, give such a folder "
            "(or its hub id) as model_name_or_path; as the folder of the run, name another one as output_dir"
        )
    return {"output_dir": value}


def _repetitions(value: int) -> dict[str, Any]:
    if value < 1:
        raise ValueError("must be 1 or more")
    return {}


def _validation(value: int | float | None) -> dict[str, Any]:
    if value is None:
        return {"eval_strategy": "no"}
    if value <= 0:
        raise ValueError("must be positive: a number of steps or, below 1.0, a share of an epoch")
    if isinstance(value, float):
        return {"do_eval": True, "eval_strategy": "epoch", "eval_epochs": value}
    return {"do_eval": True, "eval_strategy": "steps", "eval_steps": value}


SPELLINGS: dict[str, Spelling] = {
    "epochs": Spelling(
        int,
        _epochs,
        "`num_train_epochs`; -1: `max_steps` ends the run, and must be given",
        "no limit: max_steps ends the run",
    ),
    "num_workers": Spelling(int, _renamed("dataloader_num_workers"), "`dataloader_num_workers`"),
    "every_n_train_steps": Spelling(
        int, lambda value: {"save_steps": value, "logging_steps": value}, "`save_steps` and `logging_steps`"
    ),
    "dataset_path": Spelling(str, _renamed("save_to_disk"), "`save_to_disk`"),
    "exp_name": Spelling(
        str,
        _renamed("wandb_run_name"),
        "`wandb_run_name` and, without `output_dir`, the folder of the run in `logger_dir`",
    ),
    "precision": Spelling(
        int | str, _precision, "`dtype`: 32, 16-mixed or bf16-mixed; with 16-true and bf16-true also `weights_dtype`"
    ),
    "accumulate_grad_batches": Spelling(int, _renamed("gradient_accumulation_steps"), "`gradient_accumulation_steps`"),
    "gradient_clip_val": Spelling(float, _renamed("max_grad_norm"), "`max_grad_norm`"),
    "logger_dir": Spelling(str, _renamed("output_dir"), "`output_dir`, which has logs and checkpoints"),
    "checkpoint_dir": Spelling(
        str | None,
        _checkpoint_folder,
        "`model_name_or_path` if it is the folder of a diffusers pipeline, otherwise `output_dir`",
        "the default: checkpoints are in output_dir",
    ),
    "ckpt_path": Spelling(
        str | None, lambda value: {"resume": value or "never"}, "`resume`; null: `never`, that is from the beginning"
    ),
    "val_check_interval": Spelling(
        int | float | None,
        _validation,
        "`eval_steps` with `eval_strategy` steps; a fraction: `eval_epochs`; null: no evaluation in training",
    ),
    "data_dir": Spelling(
        str,
        lambda value: {"train_dataset_name": value, "preprocessing_only": True},
        "`train_dataset_name`, with `preprocessing_only`",
    ),
    "repeat_count": Spelling(
        int,
        _repetitions,
        "nothing: clips are stored once, and `num_train_epochs` or `max_steps` says how often they are trained",
        "{value} visits to each clip in an epoch: here clips are stored once, so train {value} times as many epochs "
        "(num_train_epochs {value} for one epoch of there); max_steps stays the same",
    ),
    "output_name": Spelling(str, _renamed("save_to_disk"), "`save_to_disk`"),
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


DEFAULT_LOGGER_DIR = "exps/logs"
"""Folder of the runs of ACE-Step's trainer if none is given."""


def experiment_folder(values: Mapping[str, Any], uses: Sequence[Use]) -> Use | None:
    """Return the use of `exp_name` with the output folder of its run, `logger_dir`/`exp_name`.

    Without it, two experiments with one `logger_dir` would be one run here: the second would resume the first.

    Args:
        values: values of the run by keys here, of files and command line.
        uses: spellings that were used, the last of a name counts.

    Raises:
        ValueError: if the name cannot be that of a folder.
    """
    last = {use.name: use for use in uses}
    use, logger_dir = last.get("exp_name"), last.get("logger_dir")
    folder = logger_dir.value if logger_dir is not None else DEFAULT_LOGGER_DIR
    given = values.get("output_dir")
    if use is None or values.get("preprocessing_only") or given and (logger_dir is None or given != folder):
        return None
    name = PurePath(use.value)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise ValueError(f"{json.dumps(use.value)} is the name of the run's folder too, and must be one inside of it")
    return replace(use, keys={**use.keys, "output_dir": str(PurePath(folder) / name)})


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
