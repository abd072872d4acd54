"""Versioned records: dataclasses stored as JSON, whose fields can change between versions.

- A new field with a default needs nothing more: files that lack it get the default.
- A field that is renamed or changes its meaning raises the version of the format, with a named function that upgrades
  the previous version.
- A file of a newer version, or with an unknown field, is refused: ignoring the field could change the record's meaning.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from songgen.runtime.json_files import parse_json

_Record = TypeVar("_Record")

VERSION_KEY = "schema_version"
"""Name of the field that holds the version of a record's format."""

_MAX_SHOWN = 60

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""Function that converts the JSON object of a version to that of the next one."""


@dataclass(frozen=True)
class Format(Generic[_Record]):
    """Format of a record in JSON."""

    record: type[_Record]
    """Dataclass of the record; fields may be dataclasses, and tuples, lists and dictionaries of them."""
    version: int
    """Version that is written."""
    fix: str
    """Suggested fix for a file that cannot be read, at the end of the message."""
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    """Version -> function that converts an object to the next version; versions without one are not read."""
    required: frozenset[str] = frozenset()
    """Fields that every file must have, although they have defaults in the program."""
    unversioned: int | None = None
    """Version of files without a version; None to refuse them."""
    is_checked: bool = False
    """Whether texts, numbers and choices must have the type of their field, for files that may come from anyone."""

    def parse(self, text: str, where: str) -> _Record:
        """Read JSON text.

        Args:
            text: content of a file.
            where: name of the file, for messages.

        Raises:
            ValueError: if it is not JSON, or for the reasons of `read`.
        """
        try:
            # Records of our own may hold numbers that are not finite.
            values = parse_json(text, constants=True)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error}); {self.fix}") from error
        return self.read(values, where)

    def read(self, values: Any, where: str) -> _Record:
        """Read a JSON object.

        Raises:
            ValueError: if it is of a newer version, or of one that is not read any more; fields are missing or
                unknown; or a value has the wrong form.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{where} holds no JSON object; {self.fix}")
        upgraded = self.upgraded(values, where)
        fields = {entry.name: entry for entry in dataclasses.fields(self.record)}  # type: ignore[arg-type]
        needed = {name for name, entry in fields.items() if _has_no_default(entry)} | self.required
        missing, unknown = sorted(needed - set(upgraded)), sorted(set(upgraded) - set(fields))
        if unknown and not missing:
            raise ValueError(
                f"{where}: unknown keys {unknown}, written by a newer version: update songgen, or {self.fix}"
            )
        if missing:
            raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}; {self.fix}")
        try:
            return typing.cast(_Record, _built(self.record, upgraded, is_checked=self.is_checked))
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where} does not have the expected form ({error}); {self.fix}") from error

    def upgraded(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a JSON object as the current version would have written it.

        Raises:
            ValueError: if it is of a newer version, or of one that is not read any more.
        """
        version = values.get(VERSION_KEY, self.unversioned)
        if not isinstance(version, int) or isinstance(version, bool):
            raise ValueError(f"{where} has schema version {version!r}, which is none; {self.fix}")
        if version > self.version:
            raise ValueError(
                f"{where} has schema version {version}, and this version of songgen reads up to {self.version}: update "
                f"songgen, or {self.fix}"
            )
        upgraded = dict(values)
        for older in range(version, self.version):
            if older not in self.upgrades:
                raise ValueError(f"{where} has schema version {version}, which is not read any more; {self.fix}")
            upgraded = self.upgrades[older](upgraded)
        return {**upgraded, VERSION_KEY: self.version}


def _has_no_default(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def checked_record(record: type[_Record], values: Any) -> _Record:
    """Return a record without a version that is made of a JSON value, which may come from anyone.

    Raises:
        TypeError: if fields are missing or unknown, or a value is of another type than its field.
    """
    return typing.cast(_Record, _built(record, values, is_checked=True))


def _built(kind: Any, value: Any, *, is_checked: bool) -> Any:
    """Convert a JSON value to a type: dataclasses, and tuples, lists and dictionaries of them; others are unchanged.

    Raises:
        TypeError: if the value has the wrong form or, where they are checked, is of another type.
    """
    build = functools.partial(_built, is_checked=is_checked)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is not an object")
        hints = _hints(typing.cast(type, kind))
        return kind(**{name: build(hints.get(name), entry) for name, entry in value.items()})  # type: ignore[operator]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is not an object")
        return {key: build(arguments[1], entry) for key, entry in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise TypeError(f"{value!r} is not a list")
        if origin is list:
            return [build(arguments[0], entry) for entry in value]
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(build(each, entry) for each, entry in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        (kind,) = (argument for argument in arguments if argument is not types.NoneType)
        return None if value is None and types.NoneType in arguments else build(kind, value)
    if is_checked:
        _require_type(kind, value)
    return value


def _require_type(kind: Any, value: Any) -> None:
    """Check a value that is no object or list.

    Raises:
        TypeError: if it is not of this type.
    """
    if typing.get_origin(kind) is typing.Literal:
        fits = isinstance(value, str) and value in typing.get_args(kind)
    elif kind in (int, float):
        fits = isinstance(value, int | kind) and not isinstance(value, bool)
    else:
        fits = kind not in (str, bool) or isinstance(value, kind)
    if not fits:
        name = " or ".join(map(str, typing.get_args(kind))) or kind.__name__
        raise TypeError(f"{str(value)[:_MAX_SHOWN]!r} is not {name}")
