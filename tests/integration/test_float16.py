"""float16 and determinism on a GPU: on a processor accelerate makes no loss scaler, so these tests need the device."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from bad_numbers import Fault, break_steps, noted_steps
from launching import make_world, records, write_config

from songgen.exit_codes import EXIT_DONE, EXIT_NON_FINITE
from songgen.tasks import MIXED
from songgen.train.checkpoints.state import read_trainer_state
from songgen.train.launch import run_training
from songgen.train.step import TrainingStep
from songgen.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run training in this process; what it sets for the whole process is undone."""
    world = make_world(tmp_path / "world")
    for owner, name in ((Trainer, "step"), (TrainingStep, "run")):
        monkeypatch.setattr(owner, name, getattr(owner, name))

    def run(output: str, **keys: Any) -> int:
        AcceleratorState._reset_state(True)
        settings: dict[str, Any] = {"do_eval": False, "save_steps": None, **keys}
        return run_training([str(write_config(world, output_dir=str(tmp_path / output), **settings))], MIXED)

    yield run
    torch.use_deterministic_algorithms(False)
    AcceleratorState._reset_state(True)


def test_gradients_that_overflow_lower_the_scale_to_its_floor_and_then_end_the_run(
    train: Callable[..., int], tmp_path: Path
) -> None:
    """Two halvings from cap to floor, five steps left out there, and the sixth is one too many."""
    break_steps(tmp_path / "notes", {step: Fault("infinite gradient") for step in range(3, 30)})(0)
    assert train("run", dtype="float16", max_steps=30) == EXIT_NON_FINITE
    notes = noted_steps(tmp_path / "notes")
    assert [step["outcome"] for step in notes] == ["UPDATED"] * 3 + ["OVERFLOW"] * 8
    assert {step["after"] for step in notes[3:]} == {notes[2]["after"]}
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    state = read_trainer_state(checkpoint)
    assert state.updates == 3 and state.gradient_scaler["scale"] == 8192


def test_a_sound_run_keeps_the_scale_within_its_bounds(train: Callable[..., int], tmp_path: Path) -> None:
    assert train("run", dtype="float16", max_steps=10) == EXIT_DONE
    state = read_trainer_state(tmp_path / "run" / "checkpoint-10")
    assert 8192 <= state.gradient_scaler["scale"] <= 32768 and state.updates >= 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_two_deterministic_runs_are_equal(train: Callable[..., int], tmp_path: Path, dtype: str) -> None:
    for name in ("first", "second"):
        assert train(name, dtype=dtype, deterministic=True, max_steps=20, dropout=0.1) == EXIT_DONE
    losses = [[record["train/loss"] for record in records(tmp_path / name)] for name in ("first", "second")]
    assert losses[0] == losses[1] and len(losses[0]) == 20
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_train_like_autocast(train: Callable[..., int], tmp_path: Path, dtype: str) -> None:
    settings = {"dtype": dtype, "max_steps": 20, "learning_rate": 1e-2}
    assert train("autocast", **settings) == train("weights", weights_dtype=dtype, **settings) == EXIT_DONE
    losses = [[row["train/loss"] for row in records(tmp_path / run)] for run in ("autocast", "weights")]
    assert losses[1] == pytest.approx(losses[0], abs=0.05) and losses[1][-1] < losses[1][0] - 0.2
