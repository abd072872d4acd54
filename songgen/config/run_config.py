"""`RunConfig`: the validated configuration of a launch."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from songgen.config.adapter_arguments import AdapterArguments
from songgen.config.checks import ConfigError, Problem, cross_field_problems
from songgen.config.data_arguments import DataArguments
from songgen.config.flow_arguments import FlowArguments
from songgen.config.foreign.ignored import ALIASES, SECRET_KEYS, SECRET_VALUE, USE_INSTEAD
from songgen.config.foreign.spellings import REFUSED, SPELLINGS, translate
from songgen.config.keys import GROUPS, all_keys, type_problem, unknown_key
from songgen.config.lora import adapter_problems, completed, table_problems, with_lora
from songgen.config.model_arguments import ModelArguments
from songgen.config.training_arguments import TrainingArguments
from songgen.config.types import coerce

_NO_CREDENTIALS = (
    "credentials do not belong in a configuration; use `hf auth login` or `wandb login`, or HF_TOKEN or WANDB_API_KEY "
    "in the environment"
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The configuration of one launch.

    Raises:
        ValueError: if values are wrong or contradict each other; the message lists all problems.
    """

    model: ModelArguments = field(default_factory=ModelArguments)
    """Keys of the model."""

    data: DataArguments = field(default_factory=DataArguments)
    """Keys of the data."""

    training: TrainingArguments = field(default_factory=TrainingArguments)
    """Keys of training."""

    adapter: AdapterArguments = field(default_factory=AdapterArguments)
    """Keys of adapters."""

    flow: FlowArguments = field(default_factory=FlowArguments)
    """Keys of flow-matching models."""

    sources: tuple[str, ...] = field(default=(), compare=False)
    """Files that the configuration was read from, the most basic one first."""

    ignored_keys: tuple[str, ...] = field(default=(), compare=False)
    """Keys without effect that were given."""

    def __post_init__(self) -> None:
        """Validate every value, and the keys against each other."""
        values = self.to_dict()
        assert not (values["lora_config_path"] or values["loras"]), "`from_dict` reads other forms of `lora`"
        problems = [problem for key, value in values.items() if (problem := value_problem(key, value))]
        problems += table_problems(values["lora"])
        where = " > ".join(self.sources) or "the configuration"
        raise_problems(problems or self._contradictions(), where)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, sources: tuple[str, ...] = ()) -> Self:
        """Create a configuration from flat keys, as in a JSON file.

        Args:
            values: Values by key.
            sources: Files that the values were read from, for messages.

        Raises:
            ValueError: if there are unknown keys, wrong values or contradictions; the message lists all of them.
        """
        values, problems = _without_aliases(values)
        values, found = with_lora(values)
        problems += [*found, *table_problems(values.get("lora"))]
        groups: dict[str, dict[str, Any]] = {name: {} for name in (*GROUPS, "ignored")}
        for name, value in values.items():
            problem = key_problem(name, value) or value_problem(name, value)
            if problem:
                problems.append(problem)
            elif name in all_keys():
                key = all_keys()[name]
                groups[key.group][name] = coerce(value, key.annotation)
        if values.get("lora") is not None and not any("lora" in problem.keys for problem in problems):
            groups["adapter"]["lora"] = completed(values["lora"])
        parts: dict[str, Any] = {name: arguments(**groups[name]) for name, arguments in GROUPS.items()}
        if problems:
            wrong = {name for problem in problems for name in problem.keys}
            # A contradiction with a key whose value is invalid would be misleading.
            draft = cls._unchecked(parts)
            problems += [problem for problem in draft._contradictions() if not wrong & set(problem.keys)]
            raise_problems(problems, " > ".join(sources) or "the configuration")
        return cls(**parts, sources=sources, ignored_keys=tuple(groups["ignored"]))

    @classmethod
    def _unchecked(cls, parts: Mapping[str, Any]) -> Self:
        draft = object.__new__(cls)
        for name, part in parts.items():
            object.__setattr__(draft, name, part)
        return draft

    def _contradictions(self) -> list[Problem]:
        """Return all contradictions between keys."""
        return [*cross_field_problems(self), *adapter_problems(dataclasses.asdict(self.adapter))]

    def to_dict(self) -> dict[str, Any]:
        """Return all keys with their values, flat and ready for JSON."""
        values: dict[str, Any] = {}
        for group in GROUPS:
            values.update(dataclasses.asdict(getattr(self, group)))
        return values

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the resolved configuration as one flat JSON file, from which an equal one can be loaded."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def key_problem(name: str, value: Any) -> Problem | None:
    """Return the problem of a key that is unknown, renamed or secret, or None. Secret values are not repeated."""
    if name in SECRET_KEYS:
        if value is None:
            return None
        return Problem((name,), f"{name}: {_NO_CREDENTIALS}")
    if name in all_keys():
        return None
    if name in REFUSED:
        return Problem((name,), f"{name}: {REFUSED[name]}")
    if name in USE_INSTEAD:
        return Problem((name,), f"{name}: unknown key; use {USE_INSTEAD[name]}")
    return unknown_key(name, [*all_keys(), *ALIASES, *SPELLINGS], "docs/configuration.md lists all keys")


def value_problem(name: str, value: Any) -> Problem | None:
    """Return the problem of a known key's value, or None."""
    key = all_keys().get(name)
    if key is None:
        return None
    if SECRET_VALUE.search(json.dumps(value, default=repr)):
        return Problem((name,), f"{name}: the value contains a token; {_NO_CREDENTIALS}")
    if name == "trust_remote_code" and value is True:
        return Problem((name,), "trust_remote_code: code from the hub is never run here; remove the key or give false")
    return type_problem(key, name, value)


def _without_aliases(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values under their real names, and a problem for each key with two different values."""
    renamed: dict[str, Any] = {}
    values, _, problems = translate(values)
    for name, value in values.items():
        real = ALIASES.get(name, name)
        if real in renamed and renamed[real] != value:
            problems.append(Problem((name, real), f"{name}: another name of {real}, and both are given; remove one"))
        renamed[real] = value
    return renamed, problems


def raise_problems(problems: list[Problem], where: str) -> None:
    """Raise one error that lists all problems, if there are any.

    Raises:
        ConfigError: if there are problems.
    """
    if problems:
        raise ConfigError(problems, where)
