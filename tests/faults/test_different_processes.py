"""Processes of a run that differ: refused at the start, and never saved."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import before_each_step, fork_run
from launching import make_world, write_config
from run_forms import KEYS, WEIGHTS_FILES, in_both_forms

from songgen.config import loading
from songgen.exit_codes import EXIT_ERROR, EXIT_NO_CHECKPOINT
from songgen.families.tokens.family import TOKENS
from songgen.train import build, launch, same_everywhere
from songgen.train.checkpoints.files import verify


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def other_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one."""
    return make_world(tmp_path_factory.mktemp("other"), num_train=8)


@pytest.mark.case(15)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 2e-3),
        ("per_device_train_batch_size", 2),
        ("seed", 7),
        ("resume", "never"),
        ("save_to_disk", "data"),
        ("model_name_or_path", "model"),
    ],
)
def test_a_process_with_another_configuration_or_data_is_named_before_anything_is_written(
    world: Path, other_world: Path, tmp_path: Path, key: str, value: Any
) -> None:
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), max_steps=2, do_eval=False)
    if value == "model":  # the same shapes, another configuration
        path = other_world / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dropout": 0.5}))
    other = value if value not in ("data", "model") else str(other_world / value)

    def hook(rank: int) -> None:
        if rank == 1:
            load = loading.load_run_config
            launch.load_run_config = lambda words, **more: load([*words, f"--{key}", str(other)], **more)

    printed = fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_ERROR)
    assert "the processes of this run differ in" in printed and f"{key}:" in printed, printed
    if value == other:
        assert f"- {key}: {value} on process 1, " in printed
    assert not folder.exists() and "Traceback" not in printed


@pytest.mark.case(15)
def test_a_process_with_another_model_or_other_songs_is_named(world: Path, tmp_path: Path) -> None:
    config = write_config(world, output_dir=str(tmp_path / "run"), max_steps=2, do_eval=False)

    def hook(rank: int) -> None:
        compare = build.require_same_model

        def other(content: dict[str, Any], core: torch.nn.Module) -> None:
            if rank == 1:
                core.register_parameter("stray", torch.nn.Parameter(torch.zeros(3)))
                content = content | {"clips": 1}
            compare(content, core)

        build.require_same_model = other

    printed = fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_ERROR)
    assert "- clips: 1 on process 1, 7 on process 0" in printed
    assert "- shape of stray: [3] on process 1, absent on process 0" in printed and "Traceback" not in printed


@pytest.mark.case(15)
def test_a_process_that_trains_an_adapter_on_another_base_is_named(world: Path, tmp_path: Path) -> None:
    """Their trained weights are the same; only the frozen ones tell."""
    config = write_config(world, output_dir=str(tmp_path / "run"), max_steps=2, do_eval=False, **KEYS["adapter"])

    def hook(rank: int) -> None:
        def other(*arguments: Any) -> Any:
            core = TOKENS.open_model(*arguments)
            if rank == 1:
                core.decoder.model.decoder.layer_norm.weight.data[0] += 1
            return core

        build.family_of = lambda *_: dataclasses.replace(TOKENS, open_model=other)

    printed = fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_ERROR)
    assert "the processes of this run differ in their data or model" in printed
    assert "- base_weights_sha256: " in printed and "Traceback" not in printed


@pytest.mark.case(15)
@in_both_forms
def test_weights_that_have_drifted_apart_are_not_saved(world: Path, tmp_path: Path, form: str) -> None:
    """One bit of one weight on one process, as faulty memory flips it, after the checkpoint of step 1."""
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), max_steps=4, save_steps=1, do_eval=False, **KEYS[form])

    def hook(rank: int) -> None:
        def flip(trainer: Any, batches: Any) -> None:
            if rank == 1 and trainer.state.step == 1:
                weight = next(iter(trainer.engine.parameters.values())).data.view(-1)
                weight.view(torch.int32)[0] ^= 1 << 20

        before_each_step(flip)

    printed = fork_run(config, tmp_path / "log", processes=2, hook=hook).finish(EXIT_NO_CHECKPOINT)
    assert "the weights of the processes differ after step 2, so no checkpoint is saved" in printed
    assert "process 1: " in printed and not (folder / WEIGHTS_FILES[form]).exists()
    assert [verify(path).step for path in folder.glob("checkpoint-*")] == [1]


def test_every_bit_counts_in_every_precision() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.uint8):
        tensor = torch.ones(3, 2, dtype=dtype)[:, :1]
        before = same_everywhere._sum_of_bits(tensor)
        tensor[1] = 2
        assert same_everywhere._sum_of_bits(tensor) != before
