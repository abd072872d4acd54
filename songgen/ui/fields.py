"""Fields of forms, made from what the program declares: keys of configurations and options of commands."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from songgen.config.keys import ConfigKey
from songgen.config.types import Range, describe

Kind = Literal["text", "area", "integer", "number", "switch", "choice", "choices", "path", "list", "json"]
"""Kind of an input: a line of text, several lines, a number without or with decimals, on or off, one or several of some
values, a file or folder, a list of texts with one on each line, any JSON value."""

AREAS = frozenset({"lyrics", "caption"})
"""Options with texts of several lines."""

PATHS = frozenset({"model", "adapter", "source", "base", "config"})
"""Options that name a folder or a hub id, and are declared as texts."""


@dataclass(frozen=True)
class Field:
    """An input of a form."""

    name: str
    """Name of the key or option."""

    kind: Kind
    """Kind of the input."""

    default: Any = None
    """Value that is used if nothing is entered."""

    help: str = ""
    """Meaning, in English."""

    choices: tuple[Any, ...] = ()
    """Values to choose from."""

    minimum: float | None = None
    """Smallest value; None for no bound."""

    maximum: float | None = None
    """Largest value; None for no bound."""

    can_be_empty: bool = True
    """Whether nothing may be entered."""

    group: str = ""
    """Heading that the field is shown under."""

    expected: str = ""
    """Description of the values that are accepted."""

    flag: str = ""
    """Option as typed on a command line, such as `--seed`; empty for an argument without one, and for keys."""


def field_of_key(key: ConfigKey, group: str = "") -> Field:
    """Return the field of a key of a configuration.

    Args:
        key: the key.
        group: heading; the group of the key if empty.
    """
    kind, choices, bounds, can_be_empty = _kind_of(key.annotation)
    low = bounds.at_least if bounds.at_least is not None else bounds.above
    high = bounds.at_most if bounds.at_most is not None else bounds.below
    return Field(
        key.name, kind, key.default, key.help, choices, low, high, can_be_empty,
        group or key.group, describe(key.annotation),
    )  # fmt: skip


def fields_of_parser(parser: argparse.ArgumentParser) -> list[Field]:
    """Return the fields of the options of a command, in the order in which it declares them."""
    return [
        _field_of_action(action, group.title or "")
        for group in parser._action_groups
        for action in group._group_actions
        if not isinstance(action, argparse._HelpAction) and action.dest not in ("help", "overrides")
        and action.help is not argparse.SUPPRESS
    ]  # fmt: skip


def _kind_of(annotation: Any) -> tuple[Kind, tuple[Any, ...], Range, bool]:
    """Return kind, choices and bounds of the values of a type, and whether there may be none."""
    members = list(_members(annotation))
    can_be_empty = any(member is type(None) for member, _ in members)
    members = [(member, bounds) for member, bounds in members if member is not type(None)]
    choices = tuple(choice for member, _ in members if get_origin(member) is Literal for choice in get_args(member))
    plain = {get_origin(member) or member for member, _ in members}
    bounds = next((bounds for _, bounds in members if bounds is not None), Range())
    if plain == {Literal}:
        return "choice", choices, bounds, can_be_empty
    if plain == {list, Literal} and all(_is_choices(member) for member, _ in members):
        return "choices", choices, bounds, can_be_empty
    if plain == {bool}:
        return "switch", (True, False), bounds, can_be_empty
    if plain <= {int, float}:
        return ("number" if float in plain else "integer"), (), bounds, can_be_empty
    if plain == {str}:
        return "text", (), bounds, can_be_empty
    if plain <= {int, float, Literal}:
        return "text", choices, bounds, can_be_empty
    if plain <= {list, tuple, str} and all(_is_texts(member) for member, _ in members):
        return "list", (), bounds, can_be_empty
    return "json", choices, bounds, can_be_empty


def _members(annotation: Any) -> Iterable[tuple[Any, Range | None]]:
    """Yield the members of a union, each with its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from ((member, arguments[1]) for member, _ in _members(arguments[0]))
    elif origin is Union or (origin is not None and getattr(origin, "__name__", "") == "UnionType"):
        for member in arguments:
            yield from _members(member)
    else:
        yield annotation, None


def _is_choices(member: Any) -> bool:
    items = get_args(member) if get_origin(member) is list else (member,)
    return all(get_origin(item) is Literal for item in items)


def _is_texts(member: Any) -> bool:
    return member is str or get_args(member) in ((str,), (str, ...))


def _field_of_action(action: argparse.Action, group: str) -> Field:
    """Return the field of one option."""
    is_switch = action.nargs == 0
    is_list = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    kinds: dict[Any, Kind] = {int: "integer", float: "number", Path: "path"}
    kind = kinds.get(action.type, "text")
    if is_switch:
        kind = "switch"
    elif is_list:
        kind = "list"
    elif action.choices is not None:
        kind = "choice"
    elif action.dest in AREAS:
        kind = "area"
    elif action.dest in PATHS:
        kind = "path"
    return Field(
        name=action.dest,
        kind=kind,
        default=action.default if action.default not in ([], None) else None,
        help=(action.help or "").replace("%(default)g", str(action.default)).replace("%%", "%"),
        choices=tuple(action.choices or ()),
        can_be_empty=not action.required or action.nargs in ("?", "*"),
        group=group,
        flag=action.option_strings[-1] if action.option_strings else "",
    )
