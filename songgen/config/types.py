"""Types of configuration keys, and the validation of values.

The type of a key is its dataclass annotation: ``bool``, ``int``, ``float``, ``str``, ``Literal``, ``list``, ``dict``,
``tuple[X, ...]`` (a list in JSON), unions of these, and ``Annotated`` with a `Range`. The same annotation is used to
validate JSON, to parse the command line and to write the documentation.
"""

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from songgen.runtime.files import expand_home
from songgen.runtime.json_files import parse_json


@dataclass(frozen=True)
class Range:
    """Bounds of a number; None for no bound."""

    at_least: float | None = None
    """Smallest allowed value."""

    above: float | None = None
    """Exclusive lower bound."""

    at_most: float | None = None
    """Largest allowed value."""

    below: float | None = None
    """Exclusive upper bound."""

    def holds(self, value: float) -> bool:
        """Return whether a number is within the bounds."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return the bounds as text, for example ``>= 0 and <= 1``."""
        bounds = ((">=", self.at_least), (">", self.above), ("<=", self.at_most), ("<", self.below))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


PositiveInt = Annotated[int, Range(at_least=1)]
NonNegativeInt = Annotated[int, Range(at_least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(at_least=0)]
Probability = Annotated[float, Range(at_least=0, at_most=1)]
Decay = Annotated[float, Range(at_least=0, below=1)]


def coerce(value: Any, annotation: Any) -> Any:
    """Convert a value to the annotated type: only integers change, to floats where the type requires it.

    Raises:
        ValueError: if the value is not of the type; the message describes the type.
    """
    converted = _coerce(value, annotation)
    if converted is _MISMATCH:
        raise ValueError(describe(annotation))
    return converted


def coerce_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a dataclass's fields, converted to the types of the fields.

    Raises:
        ValueError: if a value is not of its type; the message describes the type.
    """
    annotations = get_type_hints(kind, include_extras=True)
    return {name: coerce(value, annotations[name]) for name, value in values.items()}


def parse_text(text: str, annotation: Any) -> Any:
    """Parse a command-line value as the annotated type; lists and dictionaries are written as JSON.

    Raises:
        ValueError: if the text is not a value of the type; the message describes the type.
    """
    for candidate in _readings(text, annotation):
        converted = _coerce(candidate, annotation)
        if converted is not _MISMATCH:
            return converted
    raise ValueError(describe(annotation))


def describe(annotation: Any) -> str:
    """Return a description of a type, for example ``float >= 0 and <= 1, or null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *(str(bounds) for bounds in arguments[1:])])
    if origin is Literal:
        return " or ".join(json.dumps(choice) for choice in arguments)
    if origin in _UNIONS:
        members = [describe(member) for member in arguments]
        return members[0] + "".join(f", or {member}" for member in members[1:])
    if origin in (list, tuple):
        return f"list of {describe(arguments[0])}"
    if origin is dict:
        names = "name" if arguments[0] is str else describe(arguments[0])
        return "table" if arguments[1] is Any else f"table of {names} to {describe(arguments[1])}"
    return "null" if annotation is type(None) else str(annotation.__name__)


def dtype_name(name: str) -> str:
    """Return the name of a number format in PyTorch for a usual other name (`bf16`, `fp16`, `half`); else the name."""
    plain = name.lower().removeprefix("torch.")
    return _DTYPES.get(plain, plain)


def accepts(annotation: Any, kind: type) -> bool:
    """Return whether a type, or a member of a union, is `kind`, regardless of bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return accepts(arguments[0], kind)
    if origin in _UNIONS:
        return any(accepts(member, kind) for member in arguments)
    if origin is Literal:
        return any(type(choice) is kind for choice in arguments)
    return (origin or annotation) is kind


_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}

_MISMATCH = object()
_UNIONS = (Union, types.UnionType)


def _coerce(value: Any, annotation: Any) -> Any:
    """Return the converted value, or `_MISMATCH`."""
    if annotation is Any:
        return _with_home(value)
    origin = get_origin(annotation)
    if origin is None:
        return _coerce_plain(value, annotation)
    read: dict[Any, Callable[[Any, tuple[Any, ...]], Any]] = {
        Annotated: _coerce_bounded,
        Literal: _coerce_choice,
        Union: _coerce_union,
        types.UnionType: _coerce_union,
        list: _coerce_list,
        tuple: _coerce_tuple,
        dict: _coerce_table,
    }
    return read[origin](value, get_args(annotation))


def _with_home(value: Any) -> Any:
    """Return a value of unknown type in which `~/` at the beginning of a text is the home folder."""
    if isinstance(value, str):
        return expand_home(value)
    if isinstance(value, list):
        return [_with_home(item) for item in value]
    return {name: _with_home(item) for name, item in value.items()} if isinstance(value, dict) else value


def _coerce_plain(value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        return _MISMATCH
    return _MISMATCH if isinstance(value, float) and not math.isfinite(value) else _with_home(value)


def _coerce_bounded(value: Any, arguments: tuple[Any, ...]) -> Any:
    converted = _coerce(value, arguments[0])
    if converted is _MISMATCH or not all(bounds.holds(converted) for bounds in arguments[1:]):
        return _MISMATCH
    return converted


def _coerce_choice(value: Any, choices: tuple[Any, ...]) -> Any:
    other_name = dtype_name(value) if isinstance(value, str) else value
    return next((name for name in (value, other_name) if name in choices), _MISMATCH)


def _coerce_union(value: Any, members: tuple[Any, ...]) -> Any:
    return next((read for member in members if (read := _coerce(value, member)) is not _MISMATCH), _MISMATCH)


def _coerce_list(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _MISMATCH
    items = [_coerce(item, arguments[0]) for item in value]
    return _MISMATCH if any(item is _MISMATCH for item in items) else items


def _coerce_tuple(value: Any, arguments: tuple[Any, ...]) -> Any:
    items = _coerce_list(value, arguments)
    return items if items is _MISMATCH else tuple(items)


def _coerce_table(value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, dict) or any(_coerce(name, arguments[0]) is _MISMATCH for name in value):
        return _MISMATCH
    table = {name: _coerce(item, arguments[1]) for name, item in value.items()}
    return _MISMATCH if any(item is _MISMATCH for item in table.values()) else table


_SPELLINGS = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}


def _readings(text: str, annotation: Any) -> list[Any]:
    """Return the possible values of a command-line text for a type, the most likely first."""
    readings: list[Any] = []
    is_list = text.startswith("[") and (accepts(annotation, list) or accepts(annotation, tuple))
    structured = is_list or (accepts(annotation, dict) and text.startswith("{"))
    if not structured and text.lower() in _SPELLINGS and not _is_choice(text, annotation):
        readings.append(_SPELLINGS[text.lower()])
    if structured or not accepts(annotation, str) or accepts(annotation, int) or accepts(annotation, float):
        for read in (parse_json, float):
            try:
                readings.append(read(text))
            except ValueError:
                continue
    return readings if structured else [*readings, text]


def _is_choice(text: str, annotation: Any) -> bool:
    """Return whether a text is one of the words that a type allows ("no", "none")."""
    if get_origin(annotation) is Literal:
        return text in get_args(annotation)
    return any(_is_choice(text, member) for member in get_args(annotation) if get_origin(annotation) in _UNIONS)
