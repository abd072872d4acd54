"""Two runs with `deterministic` give the same losses and weights, bit for bit."""

from pathlib import Path

import pytest
import torch
from forked import fork_run
from launching import make_world, records, write_config

from songgen.exit_codes import EXIT_DONE
from songgen.train.trainer import Trainer

STEPS = 20
SETTINGS = {
    "deterministic": True,
    "dropout": 0.1,
    "condition_dropout": 0.2,
    "per_device_train_batch_size": 2,
    "max_steps": STEPS,
    "save_steps": None,
}
CURVES = ("train/loss", "train/grad_norm", "train/mix/codebook_0/loss", "eval/loss")


def curve(folder: Path) -> list[list[float | None]]:
    """What a run measured, without the speed of the machine."""
    return [[record.get(name) for name in CURVES] for record in records(folder)]


@pytest.mark.parametrize("processes", [1, 2])
def test_two_deterministic_runs_are_equal(tmp_path: Path, processes: int) -> None:
    world = make_world(tmp_path / "world")

    for name in ("first", "second"):
        config = write_config(world, output_dir=str(tmp_path / name), **SETTINGS)
        fork_run(config, tmp_path / "log", processes=processes).finish(EXIT_DONE)
    first, second = curve(tmp_path / "first"), curve(tmp_path / "second")
    assert first == second and len(first) == STEPS + 1
    assert all(value is not None for values in first[:STEPS] for value in values[:3])
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]


def test_the_key_reaches_torch(tmp_path: Path) -> None:
    """Which refuses an operation without a deterministic form from then on."""
    world = make_world(tmp_path / "world")
    config = write_config(world, output_dir=str(tmp_path / "run"), **SETTINGS | {"max_steps": 1})
    seen = tmp_path / "seen"

    def hook(rank: int) -> None:
        finish = Trainer.finish

        def noting(self: Trainer) -> None:
            seen.write_text(str(torch.are_deterministic_algorithms_enabled()))
            finish(self)

        Trainer.finish = noting  # type: ignore[method-assign]  # in a child process

    fork_run(config, tmp_path / "log", hook=hook).finish(EXIT_DONE)
    assert seen.read_text() == "True"
