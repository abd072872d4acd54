"""Diagnosis of models that are diffusers pipelines: the index, and each component against its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from songgen.doctor.findings import Finding, error, ok, warning
from songgen.families.flow.model_folder import model_facts
from songgen.families.flow.pipeline import (
    COMPONENTS,
    SCHEDULER,
    TOKENIZER,
    empty_component,
    open_component,
    read_index,
    weights_of,
)
from songgen.runtime.model_folders import PIPELINE_FILE, part_files
from songgen.runtime.tensor_files import non_finite_tensors, shape_problems, stored_shapes

SHOWN_PROBLEMS = 8

_COPY_AGAIN = "restore the component from a copy"

_WRAPPED = ("lm_head.", "model.")
"""Beginnings of names in the file of a text encoder that was saved with the model around it; transformers reads it."""


def examine_pipeline(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """Check a pipeline: names and shapes of all weights; with `deep`, also their values."""
    try:
        present = read_index(folder)
        facts = dict(model_facts(folder).rows)
    except ValueError as problem:
        yield error(PIPELINE_FILE, str(problem), "restore it from a copy, or write the model again")
        return
    lacking = [name for name in COMPONENTS if name not in present]
    what = f"{len(present)} components, {facts['transformer']}"
    what = f"{what}; without {', '.join(lacking)}, so that it makes no covers" if lacking else what
    yield ok(PIPELINE_FILE, what)
    for name in present:
        found = list(_links(folder, name))
        yield from found or (_opened(folder, name) if name in (TOKENIZER, SCHEDULER) else ())
        if name not in (TOKENIZER, SCHEDULER):
            yield from _network(folder, name, deep=deep)


def _links(folder: Path, name: str) -> Iterator[Finding]:
    """Report a link that leads out of the model's folder."""
    try:
        part_files(folder / name, folder)
    except ValueError as problem:
        yield warning(name, str(problem), "no training can start from this model, and this part is not published")


def _opened(folder: Path, name: str) -> Iterator[Finding]:
    """Open the tokenizer or the scheduler."""
    try:
        opened = open_component(folder, name)
    except ValueError as problem:
        yield error(name, str(problem), _COPY_AGAIN)
        return
    yield ok(name, f"{len(opened)} entries" if name == TOKENIZER else type(opened).__name__)


def _network(folder: Path, name: str, *, deep: bool) -> Iterator[Finding]:
    """Compare the weights of a network with its configuration."""
    try:
        network = empty_component(folder, name)
        expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
        files = weights_of(folder, name)
        stored: dict[str, torch.Size] = {}
        for path in files:
            stored |= stored_shapes(path)
        if COMPONENTS[name].module == "transformers":
            stored = _unwrapped(stored)
        problems = shape_problems(stored, expected)
        not_finite = sorted(key for path in files for key in non_finite_tensors(path)) if deep else []
    except ValueError as problem:
        yield error(name, str(problem), _COPY_AGAIN)
        return
    for misfit in problems[:SHOWN_PROBLEMS]:
        yield error(name, misfit, _COPY_AGAIN)
    if len(problems) > SHOWN_PROBLEMS:
        yield error(name, f"and {len(problems) - SHOWN_PROBLEMS} more mismatches")
    if not_finite:
        listed = ", ".join(not_finite[:SHOWN_PROBLEMS])
        yield error(name, f"NaN or infinity in {len(not_finite)}: {listed}", _COPY_AGAIN)
    if not problems and not not_finite:
        count = sum(shape.numel() for shape in stored.values())
        what = f"{count:,} weights, names and shapes match the configuration"
        yield ok(name, f"{what}, all values are finite" if deep else what)


def _unwrapped(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Return the weights of a text encoder under its own names."""
    head, prefix = _WRAPPED
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if not key.startswith(head)}
