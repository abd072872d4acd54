"""Checks that all processes of a run train the same: configuration, data, model, program, and later the weights.

Processes that differ would train on without an error: DDP averages the gradients of whatever they compute. On a
difference every process raises the same error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from songgen import __version__
from songgen.config import RunConfig
from songgen.config.changes import KIND_OF, Change
from songgen.data.schema import DATASET_FILE
from songgen.runtime.files import file_sha256
from songgen.runtime.json_files import json_sha256
from songgen.runtime.model_folders import MODEL_CONFIG_FILES
from songgen.runtime.processes.agreement import gather_lists
from songgen.runtime.processes.group import is_started
from songgen.train.checkpoints.manager import CheckpointError

_PACKAGE = Path(__file__).resolve().parents[1]

_MOST_LISTED = 12
"""Maximum number of differences that a message lists."""

_ABSENT = "absent"

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Size of a number in bytes -> integers as which its bits are read."""


def require_same_run(config: RunConfig, task: str) -> None:
    """Check before any data is opened that all processes were given the same run. Every process must call this.

    Paths may differ between machines, so the files that they name are compared instead.

    Args:
        config: resolved configuration of this process.
        task: name of the task.

    Raises:
        ValueError: if they differ; the message says which process differs in what.
    """
    facts = {
        key: value
        for key, value in config.to_dict().items()
        if key != "output_dir" and KIND_OF.get(key) is not Change.CONTENT
    }
    files = {
        f"{DATASET_FILE} of save_to_disk": [Path(folder, DATASET_FILE) for folder in config.data.dataset_folders()],
    }
    for name in MODEL_CONFIG_FILES:
        files[f"{name} of model_name_or_path"] = [Path(config.model.model_name_or_path, name)]
    for name, paths in files.items():
        facts[name] = [file_sha256(path) if path.is_file() else _ABSENT for path in paths]
    versions = {"songgen": f"{__version__} {_code_sha256()}", "torch": torch.__version__}
    _require_same({**facts, **versions, "task": task}, "their configuration, files or program")


def require_same_model(content: Mapping[str, Any], core: nn.Module) -> None:
    """Check that all processes have opened the same data and the same model. Every process must call this.

    Args:
        content: identity of the data and of the frozen weights.
        core: model of this process.

    Raises:
        ValueError: if they differ; the message says which process differs in what.
    """
    shapes = {f"shape of {name}": list(parameter.shape) for name, parameter in core.named_parameters()}
    _require_same({**content, **shapes}, "their data or model")


def require_same_weights(parameters: Mapping[str, Tensor], step: int) -> None:
    """Check that the processes have not drifted apart: of replicated weights, every bit is the same everywhere.

    Every process must call this. Sums of the bits are compared, one for each tensor, which reads the weights once;
    sharded weights exist only once, and are not compared.

    Args:
        parameters: trained parameters by name.
        step: completed steps, for the message.

    Raises:
        CheckpointError: if they differ, on every process: no checkpoint must be written from them.
    """
    replicated = {name: tensor.detach() for name, tensor in parameters.items() if not isinstance(tensor, DTensor)}
    if not is_started() or distributed.get_world_size() == 1 or not replicated:
        return
    sums = torch.stack([_sum_of_bits(tensor) for tensor in replicated.values()])
    extremes = torch.cat([sums, ~sums])  # ~x is -x - 1: the maximum of it gives the minimum of x, without overflow
    distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
    if torch.equal(extremes[: len(sums)], ~extremes[len(sums) :]):
        return
    shares = gather_lists([sums.tolist()])
    lines = []
    for rank, (share,) in enumerate(shares):
        different = [name for name, own, first in zip(replicated, share, shares[0][0], strict=True) if own != first]
        if different:
            rest = f" and {len(different) - 1} more" if len(different) > 1 else ""
            lines.append(f"process {rank}: {different[0]}{rest}")
    raise CheckpointError(
        f"the weights of the processes differ after step {step}, so no checkpoint is saved from them. Not those of "
        f"process 0: {'; '.join(lines[:_MOST_LISTED])}. They were the same when the latest checkpoint was saved: start "
        "again to resume from there. If it happens again, suspect the memory of that device, or an operation that is "
        "not computed alike on all of them"
    )


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's numbers, read as integers; it wraps around (scalar int64)."""
    return tensor.reshape(-1).view(_WORDS[tensor.element_size()]).sum(dtype=torch.int64)


def _require_same(facts: Mapping[str, Any], what: str) -> None:
    """Compare named facts of all processes.

    Raises:
        ValueError: if any differs from that of the main process.
    """
    hashes = gather_lists([json_sha256(dict(facts))])
    if all(entry == hashes[0] for entry in hashes):
        return
    # Only now are the facts themselves exchanged: a model has thousands of shapes.
    first, *others = [entries[0] for entries in gather_lists([dict(facts)])]
    lines = [
        f"- {name}: {_shown(own.get(name, _ABSENT))} on process {rank}, {_shown(first.get(name, _ABSENT))} on process 0"
        for rank, own in enumerate(others, 1)
        for name in dict.fromkeys([*first, *own])
        if own.get(name, _ABSENT) != first.get(name, _ABSENT)
    ]
    rest = [f"- and {len(lines) - _MOST_LISTED} more"] if len(lines) > _MOST_LISTED else []
    raise ValueError(
        f"the processes of this run differ in {what}; give all of them the same:\n"
        + "\n".join([*lines[:_MOST_LISTED], *rest])
    )


def _shown(value: Any) -> str:
    """Return a value for a message."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _code_sha256() -> str:
    """Return the hash of the program's source text, shortened."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
