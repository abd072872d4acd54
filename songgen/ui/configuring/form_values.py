"""Values of a configuration as texts of form fields, and back."""

import json
from collections.abc import Mapping
from typing import Any

from songgen.config.foreign.ignored import ALIASES
from songgen.config.lora import LORA_FORMS
from songgen.config.types import parse_text
from songgen.runtime.json_files import parse_json
from songgen.ui.configuring.sections import LORA_PREFIX, form_field, form_keys

MAX_DIGITS = 16
"""Digits of an integer that a float does not hold exactly any more."""


def shown_text(name: str, value: Any) -> str:
    """Return a value as the text of its field; an empty text for the default of a key whose default is null.

    Args:
        name: key.
        value: any value, also one of a wrong type.
    """
    key, kind = form_keys()[name], form_field(name).kind
    if name == "lora":  # a switch: the entries of the table have fields of their own
        return json.dumps(value is not None)
    if value is None:
        return "" if key.default is None else "null"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        plain = value
    elif kind in ("list", "choices") and isinstance(value, list) and all(isinstance(item, str) for item in value):
        plain = "\n".join(value)
    else:
        return text
    return plain if plain == key.default == "" or _is_read_as(name, plain, value) else text


def _is_read_as(name: str, text: str, value: Any) -> bool:
    """Return whether the text of a field is read as a value."""
    try:
        read = read_text(name, text, value) if text.strip() else None
    except ValueError:
        return False
    return read == value or (form_field(name).kind == "choices" and read == [value])


def read_text(name: str, text: str, current: Any = None) -> Any:
    """Return the value of the text of a field; a text that is not of the key's type as it is.

    Args:
        name: key.
        text: text of the field, not empty. It may be JSON: a list, a table, or a text in quotes.
        current: value before, which says whether one line is a text or a list of one text.

    Raises:
        ValueError: if it begins like JSON and is not.
    """
    key, kind, plain = form_keys()[name], form_field(name).kind, text.strip()
    if name == "lora":
        return (current if isinstance(current, dict) else {}) if plain == "true" else None
    if plain[0] == '"' or (plain[0] in "[{" and kind in ("json", "list", "choices")):
        return parse_json(plain)
    if kind in ("list", "choices"):
        lines = [line.strip() for line in plain.split("\n") if line.strip()]
        is_text = isinstance(current, str) or (current is None and not isinstance(key.default, list))
        return lines[0] if is_text and len(lines) == 1 and kind == "list" else lines
    try:
        value = parse_text(plain, key.annotation)
    except ValueError:
        return plain
    return int(plain) if isinstance(value, float) and plain.isdecimal() and len(plain) < MAX_DIGITS else value


def with_typed(values: Mapping[str, Any], standard: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of a configuration file after some fields were edited.

    Args:
        values: content before.
        standard: value of every key if the file does not have it.
        typed: text of each edited field by key. An empty one, and one with the standard value, leaves the key out.

    Raises:
        ValueError: if there is no such key, or a text begins like a list or a table and is not JSON.
    """
    changed = dict(values)
    for name, text in typed.items():
        if name not in form_keys():
            raise ValueError(f"{name}: there is no such key")
        for alias in (alias for alias, real in ALIASES.items() if real == name and alias in changed):
            changed[name] = changed.pop(alias)
        if name.startswith(LORA_PREFIX):
            table = changed.get("lora", standard["lora"])
            table = dict(table) if isinstance(table, dict) else {}
            _set(table, name.removeprefix(LORA_PREFIX), name, text, form_keys()[name].default)
            changed["lora"] = table
        else:
            _set(changed, name, name, text, standard[name])
    return changed


def _set(table: dict[str, Any], entry: str, name: str, text: str, standard: Any) -> None:
    """Set or remove an entry of a table."""
    try:
        value = read_text(name, text, table.get(entry, standard)) if text.strip() else standard
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON: {error}") from error
    if json.dumps(value) == json.dumps(standard):
        table.pop(entry, None)
    else:
        table[entry] = value


def effective_values(merged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every field: what a configuration says, or else the default."""
    values = {name: key.default for name, key in form_keys().items()}
    values |= {name: value for name, value in merged.items() if name in values}
    if isinstance(merged.get("lora"), dict):
        known = {LORA_PREFIX + entry: value for entry, value in merged["lora"].items()}
        values |= {name: value for name, value in known.items() if name in values}
    return values


def without_adapter(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without any description of an adapter."""
    return {name: value for name, value in values.items() if name not in LORA_FORMS}
