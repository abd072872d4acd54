"""DeepSpeed's ZeRO-2 in two processes: the same steps as DDP, the same decisions, the same checkpoints."""

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_numbers import NO_TARGETS, Fault, break_steps, noted_steps
from forked import fork_run, saved_files, stop_at
from launching import make_world, records, write_config
from run_forms import ADAPTER
from safetensors.torch import load_file

from songgen.exit_codes import EXIT_DONE, EXIT_ERROR, EXIT_NON_FINITE
from songgen.models.modeling_songgen import SongGenForConditionalGeneration

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (the extra `deepspeed`)")

UNTIMED = {"time", "train/tokens_per_second", "train/samples_per_second"}
SETTINGS: dict[str, Any] = {
    "ema_decay": 0.8, "warmup_steps": 2, "eval_strategy": "steps", "eval_steps": 3,
    "learning_rate_factors": {"heads": 0.5},
}  # fmt: skip
Train = Callable[..., str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def train(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run training in two processes, with DeepSpeed unless told otherwise, and return what it printed."""
    # It would compile reductions in shared memory first, for minutes; gloo has its own.
    monkeypatch.setattr(importlib.import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)

    def run(
        output: str,
        returncode: int = EXIT_DONE,
        *,
        zero: bool = True,
        faults: Mapping[int, Fault] | None = None,
        hook: Callable[[int], None] | None = None,
        **keys: Any,
    ) -> str:
        config = write_config(world, output_dir=str(tmp_path / output), **SETTINGS | keys)
        watch = break_steps(tmp_path / f"{output}-notes", faults or {})

        def hooks(rank: int) -> None:
            if zero:
                os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
            watch(rank)
            if hook is not None:
                hook(rank)

        return fork_run(config, tmp_path / f"{output}.log", processes=2, hook=hooks).finish(returncode)

    return run


def require_same_runs(one: Path, two: Path, *, tolerance: float) -> None:
    """Compare metrics, and the last checkpoints' weights, averages and optimizer state."""
    for first, second in zip(records(one), records(two), strict=True):
        assert first.keys() == second.keys()
        numbers = {name for name in first.keys() - UNTIMED if first[name] is not None}  # None: no step was finite
        assert numbers == {name for name in second.keys() - UNTIMED if second[name] is not None}
        for name in numbers:
            assert second[name] == pytest.approx(first[name], rel=tolerance, abs=1e-6), (first["step"], name)
    checkpoint = max((folder.name for folder in one.glob("checkpoint-*")), key=lambda name: int(name.split("-")[1]))
    files = sorted(path.name for path in (one / checkpoint).glob("*.safetensors") if "random" not in path.name)
    assert len(files) == 3
    for file in files:
        ours, theirs = load_file(one / checkpoint / file), load_file(two / checkpoint / file)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, atol=1e-5, rtol=1e-3, msg=f"{file}: {name}")


@pytest.mark.faults
def test_an_adapter_is_trained_as_with_ddp(train: Train, tmp_path: Path) -> None:
    keys = {**ADAPTER, "lora": {**ADAPTER["lora"], "lora_dropout": 0.0}, "learning_rate_factors": {}}
    train("ddp", zero=False, **keys)
    train("zero", **keys)
    require_same_runs(tmp_path / "ddp", tmp_path / "zero", tolerance=1e-5)


def test_a_quantized_base_is_refused_before_it_is_loaded(train: Train) -> None:
    printed = train("run", EXIT_ERROR, lora={"quantization": "nf4"}, model_name_or_path="nowhere")
    assert 'lora.quantization: "nf4" does not work with DeepSpeed' in printed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_steps_are_those_of_ddp(train: Train, tmp_path: Path, dtype: str) -> None:
    train("plain", zero=False, max_steps=8, dtype=dtype, max_grad_norm=0.5, save_steps=8)
    train("zero", max_steps=8, dtype=dtype, max_grad_norm=0.5, save_steps=8)
    norms = [record["train/grad_norm"] for record in records(tmp_path / "zero") if "train/grad_norm" in record]
    assert len(norms) == 8 and min(norms) > 0.5, "every step is clipped"
    require_same_runs(tmp_path / "plain", tmp_path / "zero", tolerance=1e-4 if dtype == "float32" else 1e-2)


@pytest.mark.faults
def test_a_run_that_was_stopped_goes_on_bit_for_bit(train: Train, tmp_path: Path) -> None:
    train("straight", max_steps=8, dropout=0.2)
    train("resumed", max_steps=8, dropout=0.2, hook=stop_at(3))
    assert not (tmp_path / "resumed" / "checkpoint-8").exists()
    train("resumed", max_steps=8, dropout=0.2)
    assert saved_files(tmp_path / "straight" / "checkpoint-8") == saved_files(tmp_path / "resumed" / "checkpoint-8")


@pytest.mark.parametrize(("first", "second"), [(False, True), pytest.param(True, False, marks=pytest.mark.faults)])
def test_a_run_goes_on_from_ddp_to_zero_and_back(train: Train, tmp_path: Path, first: bool, second: bool) -> None:
    train("straight", zero=False, max_steps=6)
    train("resumed", zero=first, max_steps=6, hook=stop_at(3))
    train("resumed", zero=second, max_steps=6)
    straight, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "resumed"))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-5, rtol=1e-3, msg=name)


def test_a_step_that_is_not_finite_changes_nothing_and_leaves_nothing_behind(train: Train, tmp_path: Path) -> None:
    """The steps that follow are those of a run with DDP that had the same faults."""
    faults = {
        2: Fault("nan", ranks=(1,)),
        3: Fault("infinite gradient"),
        5: Fault(NO_TARGETS, ranks=(0, 1)),
    }
    for name, zero in (("plain", False), ("zero", True)):
        train(name, zero=zero, faults=faults, max_steps=8, non_finite="skip", warmup_steps=0)
    for rank in (0, 1):
        notes = noted_steps(tmp_path / "zero-notes", rank)
        outcomes = {2: "NON_FINITE", 3: "NON_FINITE", 5: "EMPTY"}
        assert [note["outcome"] for note in notes] == [outcomes.get(step, "UPDATED") for step in range(8)]
        assert [note["before"] == note["after"] for note in notes] == [step in outcomes for step in range(8)]
    require_same_runs(tmp_path / "plain", tmp_path / "zero", tolerance=1e-4)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_weights_from_before_it(train: Train, tmp_path: Path) -> None:
    train("run", EXIT_NON_FINITE, faults={3: Fault("nan", ranks=(1,))}, max_steps=6)
    train("run", max_steps=6)
    train("straight", max_steps=6)
    assert saved_files(tmp_path / "run" / "checkpoint-6") == saved_files(tmp_path / "straight" / "checkpoint-6")


def test_gradients_in_different_orders_end_the_run_before_the_update(train: Train, tmp_path: Path) -> None:
    """DeepSpeed would add up those of different parameters: the voice's come elsewhere where a batch has no voice."""

    def reorder(rank: int) -> None:
        def untouched(self: SongGenForConditionalGeneration) -> torch.Tensor:
            modules = (self.mert_layer_agg, self.audio_mert_to_dec_proj)
            return sum(
                (0.0 * entry.sum() for module in modules for entry in module.parameters()), start=torch.zeros(())
            )

        SongGenForConditionalGeneration._untouched_voice_parameters = untouched  # type: ignore[method-assign]

    printed = train("run", EXIT_ERROR, hook=reorder, max_steps=8)
    assert "in the order in which they are computed" in printed and "fsdp2_zero2_8_gpus.yaml" in printed
    assert {note["outcome"] for note in noted_steps(tmp_path / "run-notes")} <= {"UPDATED"}
