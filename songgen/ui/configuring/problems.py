"""Problems of a configuration by the fields that they are shown at."""

from collections.abc import Mapping
from typing import Any

from songgen.config.checks import ConfigError
from songgen.config.loading import BASE_KEY
from songgen.config.run_config import RunConfig
from songgen.ui.configuring.sections import form_keys


def problems_of(merged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return field and text of each problem of a configuration; the field is empty where there is none for it."""
    try:
        RunConfig.from_dict(merged)
    except ConfigError as error:
        found = dict.fromkeys((field_of(problem.keys, problem.message), problem.message) for problem in error.problems)
        return list(found)
    except ValueError as error:
        return [("", str(error))]
    return []


def field_of(keys: tuple[str, ...], message: str) -> str:
    """Return the field that a problem is shown at: the entry of the table `lora` that its message names, or the key."""
    entry = message.split(":")[0]
    return next((name for name in (entry, *keys) if name in form_keys()), "")


def without_name(message: str, name: str) -> str:
    """Return a message without the name of the key that it begins with: the page shows it next to the key."""
    return message.removeprefix(f"{name}: ").removeprefix(f"{name}：") if name else message


def own_fields(values: Mapping[str, Any]) -> set[str]:
    """Return the fields that a file itself sets."""
    table = values.get("lora")
    return {*values} - {BASE_KEY} | ({f"lora.{name}" for name in table} if isinstance(table, dict) else set())
