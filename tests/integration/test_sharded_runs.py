"""Runs whose weights are sharded over two processes (FSDP2): the same steps, and checkpoints by the same protocol.

Accelerate ignores its FSDP plugin where there is no accelerator, so the model is sharded here as the plugin would do
it, with torch's `fully_shard`; everything else is the product's.
"""

import os
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from forked import before_each_step, fork_run, saved_files, signal_at
from launching import make_world, records, write_config
from safetensors.torch import load_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from songgen.train.checkpoint_files import AVERAGE_FILE, FAULT_VARIABLE, MODEL_FILE, OPTIMIZER_FILE
from songgen.train.checkpoint_folders import candidates
from songgen.train.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "max_steps": 6, "save_steps": 2, "save_total_limit": None, "ema_decay": 0.8, "eval_strategy": "steps",
    "eval_steps": 3, "dataloader_num_workers": 0,
}  # fmt: skip


def prepare_sharded(
    accelerator: Accelerator, model: Any, optimizer: Any, *, reshard_after_forward: bool = True
) -> tuple[Any, Any]:
    """Shard a model layer by layer, and let its optimizer hold the shards, in place of `Accelerator.prepare`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for layer in model.decoder.model.decoder.layers:
        fully_shard(layer, reshard_after_forward=reshard_after_forward)
    fully_shard(model, reshard_after_forward=reshard_after_forward)
    shards = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [shards[names[parameter]] for parameter in group["params"]]
    return model, AcceleratedOptimizer(optimizer, device_placement=False)


def shard(then: Callable[[int], None] | None = None, **options: bool) -> Callable[[int], None]:
    """A hook that shards the run's model, and sees at each step that it is."""

    def require_shards(trainer: Trainer, batches: Any) -> None:
        parameters = [entry for entry in trainer.engine.model.parameters() if entry.requires_grad]
        assert all(isinstance(entry, DTensor) for entry in parameters)
        assert any(entry.to_local().numel() < entry.numel() for entry in parameters)

    def hook(rank: int) -> None:
        Accelerator.prepare = partialmethod(prepare_sharded, **options)  # type: ignore[assignment]  # in a child process
        before_each_step(require_shards)
        if then is not None:
            then(rank)

    return hook


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with dropout, and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), dropout=0.2)


@pytest.fixture(scope="module")
def straight(world: Path) -> Path:
    """The folder of an uninterrupted sharded run."""
    folder = world / "straight"
    fork_run(write_config(world, output_dir=str(folder), **SETTINGS), world / "log", processes=2, hook=shard()).finish()
    return folder


@pytest.mark.parametrize("reshard_after_forward", [True, False])
def test_a_sharded_run_takes_the_steps_of_a_whole_one(world: Path, tmp_path: Path, reshard_after_forward: bool) -> None:
    """As ZeRO-3 and as ZeRO-2 shard. Checkpoints hold whole tensors under the same names, also behind an evaluation."""
    for name, hook in (("whole", None), ("sharded", shard(reshard_after_forward=reshard_after_forward))):
        config = write_config(world, output_dir=str(tmp_path / name), **SETTINGS)
        fork_run(config, tmp_path / "log", processes=2, hook=hook).finish()
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    for ours, theirs in zip(records(sharded), records(whole), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() & {"train/loss", "train/grad_norm", "eval/loss"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (ours["step"], name)
    saved = [Path("checkpoint-6", name) for name in (MODEL_FILE, OPTIMIZER_FILE, AVERAGE_FILE)]
    for file in [*saved, Path("model.safetensors")]:
        ours, theirs = load_file(sharded / file), load_file(whole / file)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-3, msg=f"{file}: {name}")


def test_a_sharded_run_that_is_stopped_and_resumed_equals_an_uninterrupted_one(
    world: Path, straight: Path, tmp_path: Path
) -> None:
    config = write_config(world, output_dir=str(tmp_path / "run"), **SETTINGS)

    def stop(rank: int) -> None:
        if rank == 1:
            before_each_step(lambda trainer, _: signal_at(trainer, 3))

    fork_run(config, tmp_path / "log", processes=2, hook=shard(stop)).finish()
    printed = fork_run(config, tmp_path / "log", processes=2, hook=shard()).finish()
    assert f"resumed from {tmp_path / 'run' / 'checkpoint-3'}" in printed
    assert saved_files(tmp_path / "run" / "checkpoint-6") == saved_files(straight / "checkpoint-6")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


@pytest.mark.parametrize("point", [f"after_file:{MODEL_FILE.split('.')[0]}", "after_manifest", "after_rename"])
def test_a_sharded_run_killed_in_a_save_goes_on_from_a_complete_checkpoint(
    world: Path, straight: Path, tmp_path: Path, point: str
) -> None:
    config = write_config(world, output_dir=str(tmp_path / "run"), **SETTINGS)

    def arm(trainer: Trainer, batches: Any) -> None:
        if trainer.state.step == 3:
            os.environ[FAULT_VARIABLE] = point

    killed = fork_run(config, tmp_path / "log", processes=2, hook=shard(lambda rank: before_each_step(arm)))
    assert killed.wait_for_a_kill()
    newest = next(path for path, problem in candidates(tmp_path / "run") if not problem)
    step = 4 if point == "after_rename" else 2
    assert newest.name == f"checkpoint-{step}" and saved_files(newest) == saved_files(straight / newest.name)
    fork_run(config, tmp_path / "again", processes=2, hook=shard()).finish()
    assert saved_files(tmp_path / "run" / "checkpoint-6") == saved_files(straight / "checkpoint-6")


def test_a_checkpoint_of_a_sharded_run_serves_one_that_is_not(world: Path, straight: Path, tmp_path: Path) -> None:
    config = write_config(world, output_dir=str(tmp_path / "run"), **SETTINGS, resume=str(straight / "checkpoint-4"))
    fork_run(config, tmp_path / "log", processes=2).finish()
    ours = load_file(tmp_path / "run" / "checkpoint-6" / MODEL_FILE)
    for name, value in load_file(straight / "checkpoint-6" / MODEL_FILE).items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-3, msg=name)
