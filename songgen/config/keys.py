"""All keys that a configuration file may contain: name, group, type, default, meaning, and checks of single keys."""

import ast
import dataclasses
import difflib
import inspect
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from songgen.config.adapter_arguments import AdapterArguments
from songgen.config.checks import Problem
from songgen.config.data_arguments import DataArguments
from songgen.config.flow_arguments import FlowArguments
from songgen.config.foreign.ignored import IgnoredArguments
from songgen.config.model_arguments import ModelArguments
from songgen.config.training_arguments import TrainingArguments
from songgen.config.types import coerce, describe, parse_text

GROUPS: dict[str, type] = {
    "model": ModelArguments,
    "data": DataArguments,
    "training": TrainingArguments,
    "adapter": AdapterArguments,
    "flow": FlowArguments,
}
"""Parts of a `RunConfig` -> their dataclasses."""


@dataclass(frozen=True)
class ConfigKey:
    """A key of a configuration file."""

    name: str
    """Name in JSON and, after `--`, on the command line."""

    group: str
    """Part of the `RunConfig` that the key belongs to, or `ignored`."""

    annotation: Any
    """Type annotation of the value."""

    default: Any
    """Value if none is given."""

    help: str
    """Meaning, in one paragraph."""


@cache
def all_keys() -> dict[str, ConfigKey]:
    """Return the keys of all groups, with the ignored ones last."""
    keys: dict[str, ConfigKey] = {}
    for group, arguments in {**GROUPS, "ignored": IgnoredArguments}.items():
        for key in keys_of(group, arguments):
            assert key.name not in keys, f"{key.name} is in two groups"
            keys[key.name] = key
    return keys


def keys_of(group: str, arguments: type) -> list[ConfigKey]:
    """Return the fields of a dataclass as keys; the default of a field without one is None."""
    meanings = _field_docstrings(arguments)
    annotations = get_type_hints(arguments, include_extras=True)
    keys = []
    for field in dataclasses.fields(arguments):
        default = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        keys.append(ConfigKey(field.name, group, annotations[field.name], default, meanings[field.name]))
    return keys


def _field_docstrings(arguments: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(arguments))).body
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for statement, follower in zip(definition.body, definition.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
            meanings[statement.target.id] = " ".join(str(follower.value.value).split())
    return meanings


def unknown_key(name: str, known: Sequence[str], hint: str, *, prefix: str = "") -> Problem:
    """Return the problem of an unknown key, which suggests the nearest known key, or else `hint`.

    Args:
        name: name of the key in its table.
        known: names of the keys that the table may contain.
        hint: text for a name that is not near any of them.
        prefix: name of the table with a dot; empty at the top level.
    """
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return Problem((name,), f"{prefix}{name}: unknown key; {f'did you mean {nearest[0]}?' if nearest else hint}")


def type_problem(key: ConfigKey, name: str, value: Any) -> Problem | None:
    """Return the problem of a value of the wrong type, or None; `name` is the full name of the key."""
    try:
        coerce(value, key.annotation)
    except ValueError as expected:
        message = f"{name}: {json.dumps(value, default=repr)} is not valid, expected {expected}; {_hint(key, value)}"
        return Problem((name,), message)
    return None


def _hint(key: ConfigKey, value: Any) -> str:
    """Return a hint for a wrong value: the nearest choice, surplus quotes, or the default."""
    if isinstance(value, str) and _is_quoted_value(key, value):
        return "write it without quotes"
    if isinstance(value, str):
        choices = re.findall(r'"([^"]+)"', describe(key.annotation))
        nearest = difflib.get_close_matches(value, choices, n=1)
        if nearest:
            return f'did you mean "{nearest[0]}"?'
    return f"the default is {json.dumps(key.default)}"


def _is_quoted_value(key: ConfigKey, text: str) -> bool:
    """Return whether a text would be valid without its quotes."""
    try:
        return not isinstance(parse_text(text, key.annotation), str)
    except ValueError:
        return False
