"""Runs whose weights are sharded over two processes (FSDP2): the same steps, and checkpoints by the same protocol.

See `sharding` for what is different where there is no GPU.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import before_each_step, fork_run, saved_files, signal_at
from launching import make_world, records, write_config
from run_forms import ADAPTER
from safetensors.torch import load_file, save_file
from sharding import shard
from torch import Tensor

from songgen.adapters.folder import read_adapter
from songgen.doctor.hashes import accept
from songgen.exit_codes import EXIT_ERROR
from songgen.models.loading import WEIGHTS_FILE
from songgen.train.checkpoints.files import AVERAGE_FILE, FAULT_VARIABLE, MODEL_FILE, OPTIMIZER_FILE
from songgen.train.checkpoints.folders import candidates
from songgen.train.optimization.engine import AcceleratedEngine
from songgen.train.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "max_steps": 6, "save_steps": 2, "save_total_limit": None, "ema_decay": 0.8, "eval_strategy": "steps",
    "eval_steps": 3, "dataloader_num_workers": 0, "learning_rate_factors": {"heads": 0.5},
}  # fmt: skip


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


def require_same_metrics(sharded: Path, whole: Path) -> None:
    """Compare losses and norms of two runs, step by step."""
    for ours, theirs in zip(records(sharded), records(whole), strict=True):
        assert ours.keys() == theirs.keys()
        compared = ours.keys() & {"train/loss", "train/grad_norm", "eval/loss"}
        assert compared
        for name in compared:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), (ours["step"], name)


@pytest.mark.parametrize("file", ["fsdp2_8_gpus.yaml", "fsdp2_zero2_8_gpus.yaml"])
def test_a_sharded_run_takes_the_steps_of_a_whole_one(world: Path, tmp_path: Path, file: str) -> None:
    """As ZeRO-3 and as ZeRO-2 shard. Checkpoints hold whole tensors under the same names, also behind an evaluation."""
    for name, hook in (("whole", None), ("sharded", shard(file=file))):
        config = write_config(world, output_dir=str(tmp_path / name), **SETTINGS)
        fork_run(config, tmp_path / "log", processes=2, hook=hook).finish()
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    require_same_metrics(sharded, whole)
    saved = [Path("checkpoint-6", name) for name in (MODEL_FILE, OPTIMIZER_FILE, AVERAGE_FILE)]
    for file in [*saved, Path("model.safetensors")]:
        ours, theirs = load_file(sharded / file), load_file(whole / file)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-3, msg=f"{file}: {name}")


@pytest.mark.faults
@pytest.mark.parametrize("file", ["fsdp2_8_gpus.yaml", "fsdp2_zero2_8_gpus.yaml"])
def test_a_sharded_run_in_bfloat16_rounds_as_a_whole_one_does(world: Path, tmp_path: Path, file: str) -> None:
    """Operations are autocast; losses, gradients and weights stay in float32. Rounding alone would differ by 1e-3."""
    settings = SETTINGS | {"dtype": "bfloat16", "gradient_accumulation_steps": 4}
    for name, hook in (("whole", watch_precision), ("sharded", shard(watch_precision, file))):
        config = write_config(world, output_dir=str(tmp_path / name), **settings)
        fork_run(config, tmp_path / "log", processes=2, hook=hook).finish()
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    require_same_metrics(sharded, whole)
    ours, theirs = (load_file(folder / "checkpoint-6" / MODEL_FILE) for folder in (sharded, whole))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.faults
def test_a_sharded_run_trains_an_adapter_as_a_whole_one_does(world: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, **ADAPTER, "learning_rate_factors": {}}
    for name, hook in (("whole", None), ("sharded", shard())):
        config = write_config(world, output_dir=str(tmp_path / name), **settings)
        fork_run(config, tmp_path / "log", processes=2, hook=hook).finish()
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    require_same_metrics(sharded, whole)
    for folder in (Path("checkpoint-6"), Path()):
        ours, theirs = (read_adapter(run / folder).weights for run in (sharded, whole))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_a_quantized_base_is_refused_before_it_is_loaded(world: Path, tmp_path: Path) -> None:
    lora = {"lora": {"quantization": "nf4"}}
    config = write_config(world, output_dir=str(tmp_path / "run"), **SETTINGS | lora, model_name_or_path="nowhere")
    printed = fork_run(config, tmp_path / "log", processes=2, hook=shard()).finish(EXIT_ERROR)
    assert 'lora.quantization: "nf4" does not work with FSDP' in printed and "ddp_8_gpus.yaml" in printed


def watch_precision(rank: int) -> None:
    """A hook that looks at what a run computes with in each step."""

    def require_precision(trainer: Trainer, batches: Any) -> None:
        layer = trainer.core.decoder.model.decoder.layers[0].self_attn.q_proj
        layer.register_forward_hook(lambda module, inputs, output: precisions.add(("layer", output.dtype)))

    def backward(self: AcceleratedEngine, loss: Tensor) -> None:
        precisions.add(("loss", loss.dtype))
        with_scale(self, loss)

    def clip_gradients(self: AcceleratedEngine, max_norm: float) -> Tensor:
        gradients = [entry.grad for entry in self.model.parameters() if entry.grad is not None]
        assert gradients and all(entry.dtype == torch.float32 for entry in gradients)
        assert precisions == {("layer", torch.bfloat16), ("loss", torch.float32)}
        return clip(self, max_norm)

    precisions: set[tuple[str, torch.dtype]] = set()
    with_scale, clip = AcceleratedEngine.backward, AcceleratedEngine.clip_gradients
    AcceleratedEngine.backward = backward  # type: ignore[method-assign]
    AcceleratedEngine.clip_gradients = clip_gradients  # type: ignore[method-assign]
    before_each_step(require_precision)


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


@pytest.mark.faults
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
    step = 4 if point == "after_rename" else 3  # the first evaluation, after step 3, found the best model so far
    assert newest.name == f"checkpoint-{step}" and saved_files(newest) == saved_files(straight / newest.name)
    fork_run(config, tmp_path / "again", processes=2, hook=shard()).finish()
    assert saved_files(tmp_path / "run" / "checkpoint-6") == saved_files(straight / "checkpoint-6")


def test_a_checkpoint_of_a_sharded_run_serves_one_that_is_not(world: Path, straight: Path, tmp_path: Path) -> None:
    config = write_config(world, output_dir=str(tmp_path / "run"), **SETTINGS, resume=str(straight / "checkpoint-4"))
    fork_run(config, tmp_path / "log", processes=2).finish()
    ours = load_file(tmp_path / "run" / "checkpoint-6" / MODEL_FILE)
    for name, value in load_file(straight / "checkpoint-6" / MODEL_FILE).items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_a_sharded_run_leaves_a_model_with_its_stored_positions(tmp_path: Path) -> None:
    """Published models may hold another table than the sinusoids."""
    world = make_world(tmp_path)
    weights = load_file(world / "model" / WEIGHTS_FILE)
    name, width = "decoder.model.decoder.embed_positions.weights", weights["embed_prompts.weight"].shape[1]
    table = torch.randn(512, width, generator=torch.Generator().manual_seed(0))
    save_file(weights | {name: table}, world / "model" / WEIGHTS_FILE, metadata={"format": "pt"})
    accept(world / "model")
    config = write_config(world, output_dir=str(tmp_path / "run"), **SETTINGS | {"max_steps": 1})
    fork_run(config, tmp_path / "log", processes=2, hook=shard()).finish()
    torch.testing.assert_close(load_file(tmp_path / "run" / WEIGHTS_FILE)[name], table, atol=0, rtol=0)
