"""What `songgen check` and `songgen configure` say, for the page: requests as JSON in, answers as JSON out.

This module runs in a process of its own (`songgen.ui.configuring.worker`): asking a GPU for its memory takes some of
it until the process ends, which the page must not do while models train, and only a process can be given a time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from songgen.config.checks import ConfigError, Problem
from songgen.config.loading import planned_config
from songgen.config.run_config import RunConfig
from songgen.doctor.listing import find_entries
from songgen.families.registry import family_of
from songgen.planning.check import check_run, report_record
from songgen.planning.configure import ModelNotFound, configure
from songgen.planning.facts import RunFacts, gather_facts
from songgen.planning.findings import Severity
from songgen.planning.machine import this_machine
from songgen.planning.memory import Processes
from songgen.planning.speed import Speed
from songgen.ui.configuring.files import adapter_presets, from_preset, training_presets, with_adapter

_ANY_SPEED = Speed(1e12, 1e10, 1e-6)
"""Speed where time does not matter."""

MAX_PLACES = 500
"""Maximum number of folders of each kind in lists of choices."""


def check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Check a configuration that is not written yet.

    Args:
        request: `path` and `values` of the file, and the number of `processes`.

    Returns:
        `songgen check --json`, with `family`, `unused_keys` of the model, and `machine`. Errors of the configuration
        are findings too.
    """
    try:
        config = planned_config(Path(request["path"]), dict(request["values"]))
    except ConfigError as error:
        return {"findings": [_as_finding(problem) for problem in error.problems]}
    except ValueError as error:
        return {"findings": [_as_finding(Problem((), str(error)))]}
    if config.training.preprocessing_only:
        return {"findings": []}
    facts = gather_facts(config, this_machine(), Processes(int(request["processes"])))
    return report_record(facts, check_run(facts)) | _about_model(facts) | {"machine": facts.machine.describe()}


def _as_finding(problem: Problem) -> dict[str, Any]:
    key = problem.keys[0] if problem.keys else ""
    return {"severity": str(Severity.ERROR), "key": key, "message": problem.message, "suggestion": {}}


def _about_model(facts: RunFacts) -> dict[str, Any]:
    """Return name of the family, and the keys that mean nothing for the model."""
    if facts.costs is None:
        return {"family": None, "unused_keys": []}
    model = facts.config.model
    family = family_of(model.model_name_or_path, model.model_revision)
    return {"family": family.name, "unused_keys": sorted(facts.costs.unused_keys)}


def advise(request: Mapping[str, Any]) -> dict[str, Any]:
    """Choose a configuration for data; only `fitting`, a list of models, if none is given and there is not just one.

    Args:
        request: `data` (folders), and optionally `model`, `goal`, `hours`, `processes`.

    Raises:
        ValueError: as `songgen configure` does.
    """
    try:
        configured = configure(
            [Path(folder) for folder in request["data"]],
            this_machine(),
            model=request.get("model") or None,
            goal=request.get("goal") or None,
            hours=request.get("hours"),
            processes=int(request.get("processes") or 1),
        )
    except ModelNotFound as error:
        return {"fitting": [str(folder) for folder in error.fitting]}
    return {
        "values": {choice.key: choice.value for choice in configured.choices},
        "reasons": {choice.key: choice.reason for choice in configured.choices},
        "goal": configured.goal,
    }


def presets(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return every shipped configuration with its memory for a model and data.

    Args:
        request: `model`, `data` and `processes`. A preset that does not fit them says why.
    """
    machine, processes = this_machine(), Processes(int(request.get("processes") or 1))
    found = []
    for name in training_presets():
        values = dict(from_preset(name, model=request["model"], data=request["data"]).values)
        entry: dict[str, Any] = {"name": name, "adapter": values.get("lora") is not None, "memory": None, "problem": ""}
        try:
            facts = gather_facts(RunConfig.from_dict(values), machine, processes, _ANY_SPEED)
            problems = [text for _, text in facts.problems]
            entry |= {"memory": facts.memory.total if facts.memory else None, "problem": "; ".join(problems)}
        except ValueError as error:
            entry["problem"] = str(error)
        found.append(entry)
    return {"presets": found, "free": machine.room(processes.count)}


def adapters(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return every shipped adapter with its memory in a configuration.

    Args:
        request: as for `check`.
    """
    machine, processes = this_machine(), Processes(int(request["processes"]))
    found: dict[str, int | None] = {}
    for name in adapter_presets():
        try:
            config = planned_config(Path(request["path"]), with_adapter(request["values"], name))
            facts = gather_facts(config, machine, processes, _ANY_SPEED)
            found[name] = facts.memory.total if facts.memory else None
        except ValueError:
            found[name] = None
    return {"adapters": found, "free": machine.room(processes.count)}


def places(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data sets, models, adapters and runs in folders, newest first, relative to the current folder.

    Args:
        request: `roots`, the folders that are searched; `within`, real paths of the folders that links may lead into.
    """
    found: dict[str, list[dict[str, Any]]] = {"tokens": [], "model": [], "run": []}
    roots, within = ([Path(folder) for folder in request[name]] for name in ("roots", "within"))
    for entry in find_entries(roots, within):
        if entry.kind in found and len(found[entry.kind]) < MAX_PLACES:
            found[entry.kind].append({**asdict(entry), "progress": None})
    return found


ANSWERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "check": check,
    "advise": advise,
    "presets": presets,
    "adapters": adapters,
    "places": places,
}
"""Kind of request -> function that answers it."""


def answer(kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request.

    Raises:
        ValueError: if it cannot be answered; the message is for the user.
    """
    return ANSWERS[kind](request)
