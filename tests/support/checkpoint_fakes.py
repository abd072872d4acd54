"""Tiny checkpoints in which every tensor tells its step, and children that may die while they save one."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch

from songgen.adapters.folder import PEFT_PREFIX, AdapterRecipe
from songgen.families.adapters import AdapterForm
from songgen.families.trainable import WeightForm
from songgen.train.checkpoints.files import checkpoint_files
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.state import CheckpointContents, TrainerState

FORK = multiprocessing.get_context("fork")
NAMES = ("weight", "bias", "attention")
"""Not in alphabetical order: the model's order must come back."""


def weight_form(form: str) -> WeightForm | None:
    """One of `FORMS` as the manager takes it."""
    if form == "model":
        return None
    from peft import LoraConfig

    written = {name: f"{PEFT_PREFIX}layer.{name}" for name in NAMES}
    return AdapterForm(LoraConfig(r=2, target_modules=["layer"]), AdapterRecipe("base", "0", "1"), written)


def files_of(form: str) -> list[str]:
    """Names of the files of a checkpoint of one process, without the manifest."""
    own = weight_form(form)
    return checkpoint_files(1) if own is None else checkpoint_files(1, own.names)


def contents(step: int, rank: int = 0) -> CheckpointContents:
    """Tiny contents in which every tensor tells the step."""
    model = {name: torch.full((2, 3), float(step)) + index for index, name in enumerate(NAMES)}
    model["bias"] = model["bias"].to(torch.bfloat16)
    return CheckpointContents(
        state=TrainerState(step=step, epoch=step // 2, samples_seen=7 * step),
        model=model,
        optimizer={f"{name}.exp_avg": torch.full((2, 3), step / 3) for name in NAMES}
        | {"weight.step": torch.tensor(step)},
        average={name: torch.full((2, 3), -float(step)) for name in NAMES},
        random_state={"torch": torch.tensor([step % 256, rank], dtype=torch.uint8)},
        config={"training": {"learning_rate": 1e-4, "seed": 42}},
    )


def manager(
    folder: Path, limit: int | None = None, rank: int = 0, world_size: int = 1, form: str = "model"
) -> CheckpointManager:
    checkpoints = CheckpointManager(folder, save_total_limit=limit, rank=rank, world_size=world_size)
    checkpoints.form = weight_form(form)
    return checkpoints


def saved(folder: Path, *steps: int, form: str = "model") -> list[Path]:
    """Save checkpoints and return their folders."""
    checkpoints = manager(folder, form=form)
    folders = [checkpoints.save(contents(step)) for step in steps]
    assert all(folders)
    return [path for path in folders if path]


def assert_is_step(loaded: CheckpointContents, step: int) -> None:
    """Every part of the contents belongs to the step."""
    expected = contents(step)
    assert loaded.state == expected.state
    assert loaded.config == expected.config
    for part in ("model", "optimizer", "average", "random_state"):
        found, wanted = getattr(loaded, part), getattr(expected, part)
        assert set(found) == set(wanted)
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), (part, name)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def exit_code(function: Callable[[], None]) -> int:
    """Run a function in a child process that has everything imported; a signal's number is negative."""
    process = FORK.Process(target=function)
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode
