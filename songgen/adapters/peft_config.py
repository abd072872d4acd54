"""`adapter_config.json`: how an adapter is attached, checked before peft sees it, since it may come from anyone.

peft builds modules of the ranks that the file names, matches regular expressions in it against module names, imports
libraries that it names (`auto_mapping`), and changes the base model for some ways to initialize. So only known keys
with values in known ranges are passed on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import LoraConfig

MAX_RANK = 4096
"""Largest rank that is read. A rank at or above the width of a layer has no use; published widths are up to 1,536."""

_MAX_ALPHA = 1_000_000
_MAX_NAMES = 20_000
_MAX_TEXT = 512
_MAX_REPETITIONS = 4

_REPETITION = re.compile(r"[*+]|\{\d")
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")

_PLAIN_NAME = re.compile(r"[\w.]+")

_HARMLESS_INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to initialize that leave the base model as it is; `pissa`, `olora`, `loftq` and others subtract from it."""

_IGNORED = frozenset(
    {
        "auto_mapping",  # names a class and a library to import
        "task_type",  # chooses a wrapper class of peft, which is not used
        "peft_version",
        "revision",
        "inference_mode",
        "runtime_config",
        "megatron_core",  # the name of a library, used only with `megatron_config`
        "qalora_group_size",
        "loftq_config",
        "eva_config",  # data-driven initialization, which is over
    }
)
"""Keys that have no effect on an adapter that is trained."""


def config_json(config: LoraConfig, base_model: str) -> str:
    """Return a configuration as the text of `adapter_config.json`; the same bytes for the same configuration."""
    values = {
        # Sets have another order in every process.
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    # `PeftModel.from_pretrained` works without them, and a library to import has no place in a shared file.
    values |= {"base_model_name_or_path": base_model, "auto_mapping": None}
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def parse_config(values: Mapping[str, Any], where: str) -> LoraConfig:
    """Check the content of `adapter_config.json` and return it as peft's object.

    Args:
        values: the JSON object.
        where: name of the file, for messages.

    Raises:
        ValueError: if it is not a LoRA (or rsLoRA, DoRA) adapter, or a value is of another kind or out of range; the
            message lists all problems.
    """
    kind = values.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{where}: peft_type {_shown(kind)} is not read; adapters of the type LORA are")
    problems = []
    for key, value in values.items():
        if key in _CHECKS:
            if key in _REQUIRED or value not in (None, [], {}):
                problems += [f"{key}: {problem}" for problem in [_CHECKS[key](value)] if problem]
        elif key not in _IGNORED and key != "peft_type" and value not in (None, False, [], {}):
            problems.append(f"{key}: {_shown(value)} is not supported; train the adapter without it")
    problems += [f"{key}: missing" for key in sorted(_REQUIRED - set(values))]
    if problems:
        raise ValueError(f"{where} cannot be used:\n" + "\n".join(f"- {problem}" for problem in problems))
    known = {key: value for key, value in values.items() if key in _CHECKS and value not in (None, [], {})}
    return lora_config_class()(**known)


def adapter_scale(config: LoraConfig, module: str, rank: int) -> float:
    """Return the factor of what an adapter adds to a layer, as peft computes it.

    Args:
        config: configuration of the adapter.
        module: name of the layer.
        rank: rank of its adapter.
    """
    from peft.utils.other import get_pattern_key

    patterns = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(list(patterns), module), config.lora_alpha)
    return float(alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)


def lora_config_class() -> type[LoraConfig]:
    """Return peft's class; imported here, since most commands need neither it nor what it loads.

    Raises:
        ValueError: if peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError(f'adapters need peft ({error}): pip install ".[adapters]" in songgen\'s folder') from error
    return LoraConfig


def _rank(value: Any) -> str:
    return "" if _is_integer(value) and 1 <= value <= MAX_RANK else f"{_shown(value)} is not from 1 to {MAX_RANK}"


def _alpha(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if is_number and 0 < value <= _MAX_ALPHA else f"{_shown(value)} is not above 0 and up to {_MAX_ALPHA}"


def _share(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if is_number and 0 <= value < 1 else f"{_shown(value)} is not from 0 to below 1"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else f"{_shown(value)} is neither true nor false"


def _text(value: Any) -> str:
    is_text = isinstance(value, str) and len(value) <= 4096 and "\0" not in value
    return "" if is_text else f"{_shown(value)} is not a name"


def _names(value: Any) -> str:
    if isinstance(value, list) and 0 < len(value) <= _MAX_NAMES and all(_is_name(entry) for entry in value):
        return ""
    return f"{_shown(value)} is not a list of up to {_MAX_NAMES:,} module names"


def _plain_names(value: Any) -> str:
    """Return what is wrong with names that peft uses inside of regular expressions, or nothing."""
    listed = [value] if isinstance(value, str) else value
    if problem := _names(listed):
        return problem
    odd = next((name for name in listed if not _PLAIN_NAME.fullmatch(name)), None)
    return f"{_shown(odd)} is not the name of a module" if odd is not None else ""


def _names_or_pattern(value: Any) -> str:
    return _pattern(value) if isinstance(value, str) else _names(value)


def _pattern(value: str) -> str:
    """Return what is wrong with a regular expression, or nothing.

    Expressions with nested or many repetitions can take years to match, so only simple ones are passed on. Module names
    have fewer than 100 letters, and the time grows with the power of the number of repetitions.
    """
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        return f"{_shown(value)} is not a regular expression"
    repetitions = len(_REPETITION.findall(re.sub(r"\\.", "x", value)))
    if len(value) > _MAX_TEXT or repetitions > _MAX_REPETITIONS or _REPEATED_GROUP.search(value):
        return (
            f"the pattern {_shown(value)} has more than {_MAX_TEXT} characters, more than {_MAX_REPETITIONS} "
            "repetitions, or a repeated group; list the names of the modules instead"
        )
    return ""


def _layers(value: Any) -> str:
    listed = value if isinstance(value, list) else [value]
    if len(listed) <= _MAX_NAMES and all(_is_integer(entry) and 0 <= entry <= _MAX_NAMES for entry in listed):
        return ""
    return f"{_shown(value)} is neither a layer's index nor a list of them"


def _by_pattern(check: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return the check of an object whose keys are patterns of module names, and whose values pass another check."""

    def checked(value: Any) -> str:
        if not isinstance(value, dict) or len(value) > _MAX_NAMES:
            return f"{_shown(value)} is not an object of up to {_MAX_NAMES:,} patterns"
        problems = (_pattern(pattern) or check(entry) for pattern, entry in value.items())
        return next((problem for problem in problems if problem), "")

    return checked


def _initialization(value: Any) -> str:
    if isinstance(value, bool | str) and value in _HARMLESS_INITS:
        return ""
    return (
        f"{_shown(value)} changes the base model too; convert the adapter with peft's "
        "`save_pretrained(..., path_initial_model_for_weight_conversion=...)` first"
    )


def _only(*allowed: Any) -> Callable[[Any], str]:
    """Return the check of a value that must be one of a few."""

    def checked(value: Any) -> str:
        return "" if value in allowed else f"{_shown(value)} is not supported"

    return checked


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


_REQUIRED = frozenset({"r", "target_modules"})

_CHECKS: dict[str, Callable[[Any], str]] = {
    "base_model_name_or_path": _text,
    "r": _rank,
    "target_modules": _names_or_pattern,
    "exclude_modules": _names_or_pattern,
    "lora_alpha": _alpha,
    "lora_dropout": _share,
    "fan_in_fan_out": _only(False),
    "bias": _only("none"),
    "use_rslora": _flag,
    "use_dora": _flag,
    "lora_bias": _flag,
    "modules_to_save": _plain_names,
    "init_lora_weights": _initialization,
    "layers_to_transform": _layers,
    "layers_pattern": _plain_names,
    "rank_pattern": _by_pattern(_rank),
    "alpha_pattern": _by_pattern(_alpha),
}
"""Key -> function that returns what is wrong with its value, or nothing."""
