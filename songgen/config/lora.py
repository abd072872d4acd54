"""Reading the description of an adapter in its other forms, and checking the table `lora`.

The forms are a file of ACE-Step (`lora_config_path`), peft's own `adapter_config.json`, and VALL-E's block `loras`.
They are turned into the table `lora`, so that the saved configuration of a run contains what the run was started with,
even if the file changes later.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from songgen.config.adapter_arguments import LoraArguments
from songgen.config.checks import Problem
from songgen.config.keys import ConfigKey, keys_of, type_problem, unknown_key
from songgen.config.recipes import ADAPTING, find_recipe
from songgen.config.types import coerce_fields
from songgen.runtime.json_files import read_json_object

RUN_KEYS = ("lora_learning_rate", "lora_plus_ratio")
"""Keys of the run that a file may also contain."""

LORA_FORMS = ("lora", "lora_config_path", "loras")
"""Keys that describe an adapter, each in its own form; only one of them may be given."""

_WITHOUT_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
    "megatron_core",
    "qalora_group_size",
)
"""Keys of peft's files that say nothing about how an adapter is attached."""

_ONLY = {"peft_type": "LORA", "bias": "none", "init_lora_weights": True}
"""Keys of peft's files that are read with one value only."""

_RENAMED = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "learning_rate": "lora_learning_rate"}


def lora_keys() -> dict[str, ConfigKey]:
    """Return the keys of the table `lora`."""
    return {key.name: key for key in keys_of("lora", LoraArguments)}


def completed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a valid table `lora` with all keys."""
    return dataclasses.asdict(LoraArguments(**coerce_fields(LoraArguments, table)))


def table_problems(table: Any) -> list[Problem]:
    """Return the problems of a table `lora`."""
    if not isinstance(table, Mapping):
        return []  # reported as a value of the wrong type
    known, problems = lora_keys(), []
    for name, value in table.items():
        if name not in known:
            hint = f"known are {', '.join(known)}"
            found: Problem | None = unknown_key(name, list(known), hint, prefix="lora.")
        else:
            found = type_problem(known[name], f"lora.{name}", value)
        if found:
            problems.append(Problem(("lora",), found.message))
    if not problems and not table.get("target_modules", True):
        message = 'lora.target_modules: empty; name layers, for example ["attention", "feed_forward"]'
        problems.append(Problem(("lora",), message))
    if table.get("use_dora") is True and table.get("quantization") == "int8":
        # On the CPU, peft (0.21) then loses the scales of the weights in the first step.
        message = 'lora.use_dora: does not work with quantization "int8"; use "nf4" or "none"'
        problems.append(Problem(("lora",), message))
    return problems


def with_lora(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Turn all forms of an adapter's description into the table `lora`.

    Args:
        values: values of a configuration by key.

    Returns:
        The values, with `lora` alone, and the problems.
    """
    given = [name for name in LORA_FORMS if values.get(name) not in (None, [])]
    if len(given) > 1:
        message = f"{given[1]}: another form of {given[0]}, and both are given; remove one, or set it to null"
        return dict(values), [Problem(tuple(given), message)]
    if not given or given == ["lora"]:
        return dict(values), []
    source = given[0]
    table, problems = _from_file(values[source]) if source == "lora_config_path" else _from_block(values[source])
    if problems:
        return dict(values), [Problem((source,), f"{source}: {problem}") for problem in problems]
    kept = {name: value for name, value in values.items() if name not in LORA_FORMS}
    for name in RUN_KEYS:
        value = table.pop(name, None)
        if value is not None and kept.get(name) is None:
            kept[name] = value
    return {**kept, "lora": table}, []


def _from_file(path: Any) -> tuple[dict[str, Any], list[str]]:
    """Read a file of ACE-Step or peft; return the table and the problems."""
    if not isinstance(path, str):
        return {}, [f"{path!r} is not the path of a file"]
    found = find_recipe(path, ADAPTING)
    try:
        written = read_json_object(Path(found).expanduser())
    except (OSError, ValueError) as error:
        return {}, [str(error)]
    table, problems = {}, []
    for name, value in written.items():
        key = _RENAMED.get(name, name)
        if key in _WITHOUT_EFFECT or (key not in lora_keys() and value in (None, False, [], {})):
            continue
        if key in _ONLY:
            if value not in (None, _ONLY[key]):
                problems.append(f"{found}: {name} {value!r} is not supported; only {_ONLY[key]!r} is")
        elif value is not None or key not in lora_keys():
            table[key] = value
    own = {name: value for name, value in table.items() if name not in RUN_KEYS}
    problems += [f"{found}: {problem.message}" for problem in table_problems(own)]
    return table, problems


def _from_block(block: Any) -> tuple[dict[str, Any], list[str]]:
    """Read VALL-E's block; return the table and the problems."""
    if not isinstance(block, list) or not all(isinstance(entry, Mapping) for entry in block):
        return {}, ['expected a list of tables such as {"rank": 128, "alpha": 128, "training": true}']
    trained = [entry for entry in block if entry.get("training")]
    if len(trained) != 1:
        names = ", ".join(str(entry.get("name", "without a name")) for entry in trained) or "none"
        return {}, [f'one adapter is trained at a time; "training" is true for {names}']
    table, problems = {}, []
    for name, value in trained[0].items():
        if name in ("name", "training"):
            continue
        key = _RENAMED.get(name, name)
        if key in lora_keys() or key in RUN_KEYS:
            table[key] = value
        elif value not in (None, False, [], {}):
            problems.append(f"{name} {value!r} is not supported; a lora has {', '.join(lora_keys())}")
    return table, problems


def adapter_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the contradictions between the keys of adapters.

    Args:
        values: values by key, with the adapter as the table `lora`.
    """
    if values.get("lora") is not None:
        return
    for name, default in (("lora_learning_rate", None), ("lora_plus_ratio", 1.0)):
        if values.get(name, default) != default:
            yield Problem(
                (name, "lora"), f"{name}: has no effect without lora; describe the adapter, or remove the key"
            )
