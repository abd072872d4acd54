"""A new configuration for a data set, a model and this machine, every choice with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from songgen.config import RunConfig
from songgen.data.schema import EVAL_SPLIT, TRAIN_SPLIT, DatasetInfo
from songgen.families.costs import ModelCosts
from songgen.families.registry import family_of
from songgen.planning.check import check_run
from songgen.planning.choices import Choice, Goal, Situation, choices, chosen_goals
from songgen.planning.facts import RunFacts, clip_facts, gather_facts
from songgen.planning.findings import Finding, Severity
from songgen.planning.fixes import other_forms, suggested_values
from songgen.planning.machine import Machine
from songgen.planning.memory import Processes
from songgen.planning.speed import Speed, measured_speed
from songgen.runtime.files import write_text_atomic
from songgen.runtime.model_folders import MODEL_CONFIG_FILES
from songgen.tasks import VOCAL

MAX_ROUNDS = 4
"""Rounds in which suggestions of the checks replace choices."""

SECONDS_PER_HOUR = 3600

_MEMORY = "memory"
"""Key of the finding that a run does not fit into memory."""

_PLACEHOLDERS = {"save_to_disk": "data", "output_dir": "run"}
"""Values of required keys, for configurations from which only the model's costs are computed."""


class ModelNotFound(ValueError):
    """No model near the data fits it, or several do, and none was named."""

    def __init__(self, message: str, fitting: Sequence[Path] = ()) -> None:
        """Keep the folders of the models that fit."""
        super().__init__(message)
        self.fitting = fitting


@dataclass(frozen=True)
class Configured:
    """A new configuration."""

    choices: tuple[Choice, ...]
    """All choices, in the order of the file."""
    facts: RunFacts
    """What the run will need."""
    findings: tuple[Finding, ...]
    """What the checks still say of it."""
    goal: Goal
    """What is trained."""

    def to_json(self) -> str:
        """Return the configuration file."""
        return json.dumps({choice.key: choice.value for choice in self.choices}, indent=2, ensure_ascii=False) + "\n"

    def rows(self) -> list[str]:
        """Return one line for each choice."""
        width = max(len(choice.key) for choice in self.choices)
        return [f"{choice.key:<{width}}  {json.dumps(choice.value)}  ({choice.reason})" for choice in self.choices]

    def to_markdown(self, name: str) -> str:
        """Return the companion of the file: every choice as a row of a table."""
        rows = [f"| `{choice.key}` | `{json.dumps(choice.value)}` | {choice.reason} |" for choice in self.choices]
        return "\n".join([f"# Choices in {name}", "", "| key | value | reason |", "|---|---|---|", *rows, ""])


def configure(
    data: Sequence[Path],
    machine: Machine,
    *,
    model: str | None = None,
    goal: Goal | None = None,
    output_dir: str | None = None,
    processes: int = 1,
    hours: float | None = None,
    speed: Speed | None = None,
) -> Configured:
    """Choose a configuration.

    Args:
        data: folders of the tokenized data set.
        machine: machine of the run.
        model: folder or hub id of the model to start from; None to look for one that fits the data.
        goal: what to train; None to choose it.
        output_dir: folder of the run; None for one named after the data in `./outputs`.
        processes: number of processes.
        hours: most hours of training, by the estimate; None for no limit.
        speed: speed of the machine; None to measure that of this one.

    Raises:
        ValueError: if there is no such data set, or no model fits it.
    """
    infos = [DatasetInfo.read(folder) for folder in data]
    name = model or str(_found_model(data, infos))
    base = {**_PLACEHOLDERS, "model_name_or_path": name, "save_to_disk": [str(folder) for folder in data]}
    costs = _costs(base)
    if misfits := [line for info in infos for line in costs.misfits(info)]:
        raise ValueError(f"the model {name} and the data set do not fit together: {'; '.join(misfits)}")
    # Every clip counts for now, whatever its length: limits are chosen afterwards.
    config = RunConfig.from_dict({**base, "max_duration_in_seconds": 1e6})
    clips = clip_facts(config, TRAIN_SPLIT, costs.data_needs, None)
    held_out = 0
    if all(EVAL_SPLIT in info.splits for info in infos):
        held_out = clip_facts(config, EVAL_SPLIT, costs.data_needs, None).count
    goals = (goal,) if goal else chosen_goals(costs, clips.count)
    situation = Situation(
        data=tuple(data),
        model=name,
        goal=goals[0],
        output_dir="",
        clips=clips,
        held_out=held_out,
        costs=costs,
        machine=machine,
        processes=processes,
        has_vocal_track=_has_vocal_track(base, infos, {TRAIN_SPLIT: clips.count, EVAL_SPLIT: held_out}),
    )
    speed = speed or measured_speed(machine.device_type, "float32")  # once, for all that is tried
    for wanted in goals:
        folder = output_dir or f"./outputs/{data[0].resolve().name}-{wanted}"
        planned = replace(situation, goal=wanted, output_dir=folder)
        chosen, facts, findings = _settled(tuple(choices(planned)), machine, Processes(processes), speed)
        if not any(finding.key == _MEMORY and finding.severity is Severity.ERROR for finding in findings):
            break
    if hours is not None and facts.time is not None and facts.time.seconds > hours * SECONDS_PER_HOUR:
        chosen = _shorter(chosen, hours, facts)
        chosen, facts, findings = _settled(chosen, machine, Processes(processes), speed)
    return Configured(chosen, facts, tuple(findings), wanted)


def write_configuration(configured: Configured, path: Path, *, overwrite: bool) -> Path:
    """Write a configuration and its companion; return the companion.

    Raises:
        ValueError: if the file exists and must not be replaced.
    """
    companion = path.with_suffix(".md")
    if not overwrite and (existing := next((file for file in (path, companion) if file.exists()), None)) is not None:
        raise ValueError(f"{existing} exists; give another --out, or --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, configured.to_json())
    write_text_atomic(companion, configured.to_markdown(path.name))
    return companion


def _settled(
    chosen: tuple[Choice, ...], machine: Machine, processes: Processes, speed: Speed | None
) -> tuple[tuple[Choice, ...], RunFacts, list[Finding]]:
    """Replace choices by what the checks suggest, until they suggest nothing more."""
    facts, findings = _examined(chosen, machine, processes, speed)
    for _ in range(MAX_ROUNDS):
        values = suggested_values(findings)
        if not values:
            break
        chosen = _with_values(chosen, values, findings)
        facts, findings = _examined(chosen, machine, processes, speed)
    return chosen, facts, findings


def _examined(
    chosen: tuple[Choice, ...], machine: Machine, processes: Processes, speed: Speed | None
) -> tuple[RunFacts, list[Finding]]:
    config = RunConfig.from_dict({choice.key: choice.value for choice in chosen})
    facts = gather_facts(config, machine, processes, speed)
    return facts, check_run(facts)


def _with_values(chosen: tuple[Choice, ...], values: dict[str, Any], findings: Sequence[Finding]) -> tuple[Choice, ...]:
    """Return the choices with other values, each with the finding that asked for it."""
    reasons = {key: finding.message for finding in reversed(findings) for key in finding.suggestion}
    changed = {key: Choice(key, value, f"because otherwise: {reasons[key]}") for key, value in values.items()}
    replaced = other_forms(values)
    kept = [changed.pop(choice.key, choice) for choice in chosen if choice.key not in replaced]
    return (*kept, *changed.values())


def _shorter(chosen: tuple[Choice, ...], hours: float, facts: RunFacts) -> tuple[Choice, ...]:
    """Return the choices with as many epochs as fit into the time, at least one."""
    assert facts.time is not None and facts.length is not None
    share = hours * SECONDS_PER_HOUR / facts.time.seconds
    epochs = max(1, int(facts.length.epochs * share))
    reason = f"about {hours:g} h by the estimate; without that limit it would be {facts.length.epochs:.3g} epochs"
    return tuple(
        replace(choice, value=epochs, reason=reason) if choice.key == "num_train_epochs" else choice
        for choice in chosen
    )


def _costs(values: dict[str, Any]) -> ModelCosts:
    """Return the costs of a model.

    Raises:
        ValueError: if they are not known for its family.
    """
    config = RunConfig.from_dict(values)
    family = family_of(config.model.model_name_or_path, config.model.model_revision)
    if family.costs is None:
        raise ValueError(f"{config.model.model_name_or_path}: costs of the family {family.name} are not known")
    return family.costs(config)


def _has_vocal_track(base: dict[str, Any], infos: Sequence[DatasetInfo], counts: Mapping[str, int]) -> bool:
    """Return whether the model has vocal heads, and every clip of every split (with its number of clips) their track.

    The columns of a data set do not say this: clips of songs that were not separated have no vocal track in them.
    """
    if not all(VOCAL in info.tracks for info in infos):  # first: other families do not have the key
        return False
    needs = _costs({**base, "add_vocal_loss": True}).data_needs
    if not needs.auxiliary_tracks:
        return False
    config = RunConfig.from_dict({**base, "max_duration_in_seconds": 1e6})
    try:
        return all(clip_facts(config, split, needs, None).count == count for split, count in counts.items() if count)
    except ValueError:
        return False  # no clip at all


def _found_model(data: Sequence[Path], infos: Sequence[DatasetInfo]) -> Path:
    """Return the only model near the data, or in `./outputs`, that fits it.

    Raises:
        ModelNotFound: if there is none, or more than one.
    """
    fitting = []
    for folder in dict.fromkeys(_model_folders(data)):
        try:
            costs = _costs({**_PLACEHOLDERS, "model_name_or_path": str(folder)})
            if not any(costs.misfits(info) for info in infos):
                fitting.append(folder)
        except ValueError:
            continue  # not a model that can be trained
    if len(fitting) == 1:
        # As a user would write it, so that the configuration still works where the whole project is moved to.
        [folder] = fitting
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    if not fitting:
        raise ModelNotFound(
            f"no model that fits {data[0]} is next to it or in ./outputs: give --model FOLDER or a hub id, or create "
            "one with `songgen init`"
        )
    listed = ", ".join(str(folder) for folder in fitting)
    raise ModelNotFound(f"several models fit {data[0]}: {listed}; choose one with --model", fitting)


def _model_folders(data: Sequence[Path]) -> Iterator[Path]:
    """Yield folders with a configuration next to the data and in `./outputs`, two levels deep."""
    for root in [*(folder.absolute().parent for folder in data), Path("outputs").absolute()]:
        for pattern in ("*", "*/*"):
            for name in MODEL_CONFIG_FILES:
                yield from sorted(path.parent for path in root.glob(f"{pattern}/{name}"))
