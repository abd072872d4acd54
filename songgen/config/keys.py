"""All keys that a configuration file may contain: name, group, type, default and meaning."""

import ast
import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from songgen.config.data_arguments import DataArguments
from songgen.config.ignored import IgnoredArguments
from songgen.config.model_arguments import ModelArguments
from songgen.config.training_arguments import TrainingArguments

GROUPS: dict[str, type] = {"model": ModelArguments, "data": DataArguments, "training": TrainingArguments}
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
