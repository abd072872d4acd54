"""Numbers that go wrong in a training run, on purpose and at chosen steps, and a record of what each step did."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from songgen.data.collate import Batch
from songgen.train.step import StepResult, TrainingStep
from songgen.train.trainer import Trainer

LOSS_FACTORS = {"nan": float("nan"), "spike": 50.0}
GRADIENT_FACTORS = {"infinite gradient": float("inf")}
NO_TARGETS = "no targets"


@dataclass(frozen=True)
class Fault:
    """Something wrong in one step."""

    kind: str
    """A key of the tables above, or `NO_TARGETS`."""
    ranks: tuple[int, ...] = (0,)
    """Processes that it happens on."""


def break_steps(notes: Path, faults: Mapping[int, Fault]) -> Any:
    """A hook of `forked.fork_run`: break steps, by the steps that lie behind, and note what every step did.

    Args:
        notes: folder; each process writes `steps-RANK.jsonl`.
        faults: what goes wrong in which step.
    """
    notes.mkdir(parents=True, exist_ok=True)

    def hook(rank: int) -> None:
        position = {"step": 0}
        step, run = Trainer.step, TrainingStep.run

        def watched_step(self: Trainer, batches: Any) -> StepResult:
            position["step"] = self.state.step
            return step(self, batches)

        def broken_run(self: TrainingStep, batches: Sequence[Batch], *arguments: Any) -> StepResult:
            fault = faults.get(position["step"])
            kind = fault.kind if fault is not None and rank in fault.ranks else None
            core = self.accelerator.unwrap_model(self.engine.model)
            if kind == NO_TARGETS:
                batches = [replace(batch, frames=torch.zeros_like(batch.frames)) for batch in batches]
            before = weights_sha256(core)
            with _broken(core, kind):
                result = run(self, batches, *arguments)
            note = {
                "step": position["step"],
                "outcome": result.outcome.name,
                "loss": result.loss,
                "rate": self.engine.optimizer.param_groups[0]["lr"],
                "before": before,
                "after": weights_sha256(core),
                "clips": [clip for batch in batches for clip in batch.ids],
            }
            with (notes / f"steps-{rank}.jsonl").open("a") as file:
                file.write(json.dumps(note) + "\n")
            return result

        Trainer.step, TrainingStep.run = watched_step, broken_run  # type: ignore[method-assign]  # in a child process

    return hook


def noted_steps(notes: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What `break_steps` noted."""
    return [json.loads(line) for line in (notes / f"steps-{rank}.jsonl").read_text().splitlines()]


def weights_sha256(model: nn.Module) -> str:
    """Hash of all parameters of a model."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _broken(core: nn.Module, kind: str | None) -> Iterator[None]:
    """Break what a model computes for a while."""

    def scale_loss(module: nn.Module, inputs: Any, output: Any) -> None:
        output.loss = output.loss * LOSS_FACTORS[str(kind)]

    def scale_gradient(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * GRADIENT_FACTORS[str(kind)]

    handles: list[Any] = []
    if kind in LOSS_FACTORS:
        handles.append(core.register_forward_hook(scale_loss))
    if kind in GRADIENT_FACTORS:
        trained = next(parameter for parameter in core.parameters() if parameter.requires_grad)
        handles.append(trained.register_hook(scale_gradient))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
