"""A run that trains an adapter keeps the promises of one that trains the model: exact or refused, whole or absent."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from forked import before_each_step, fork_run, saved_files, stop_at
from killing import kill_at_random, summary
from launching import make_world, records, write_config
from run_forms import ADAPTER
from safetensors.torch import load_file, save_file

from songgen.adapters.folder import ADAPTER_CONFIG_FILE, ADAPTER_FILES, ADAPTER_WEIGHTS_FILE, read_adapter
from songgen.doctor.hashes import accept
from songgen.exit_codes import EXIT_ERROR
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.train.checkpoints.files import FAULT_VARIABLE
from songgen.train.trainer import Trainer

STEPS, STOP = 8, 5
RUNS: dict[str, dict[str, Any]] = {
    "lora": ADAPTER,
    "nf4": {"lora": {"r": 4, "lora_dropout": 0.2, "quantization": "nf4", "use_dora": True}, "optimizer": "adamw_8bit"},
    "16_bits": {**ADAPTER, "dtype": "bfloat16", "weights_dtype": "bfloat16"},
    "nf4_16_bits": {"lora": {"r": 4, "quantization": "nf4"}, "dtype": "bfloat16", "weights_dtype": "bfloat16"},
    "int8": {"lora": {"r": 4, "quantization": "int8"}, "dtype": "bfloat16", "gradient_checkpointing": True},
}
"""Kinds of adapter runs."""
VOLATILE = {"time", "train/tokens_per_second", "train/samples_per_second"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a data set."""
    return make_world(tmp_path_factory.mktemp("world"), dropout=0.2)


def run_config(world: Path, folder: Path, settings: Mapping[str, Any] = ADAPTER, **changes: Any) -> Path:
    """A run that draws everything that can be drawn, evaluates and saves."""
    common: dict[str, Any] = {
        "max_steps": STEPS, "save_steps": 2, "save_total_limit": 3, "ema_decay": 0.8, "condition_dropout": 0.3,
        "voice_choices": {"vocal": 1, "none": 1}, "eval_strategy": "steps", "eval_steps": 3,
    }  # fmt: skip
    return write_config(world, output_dir=str(folder), **{**common, **settings, **changes})


@pytest.fixture(scope="module")
def straight(world: Path) -> Callable[[str, int], Path]:
    """The folder of an uninterrupted run, by its kind and number of processes."""
    finished: dict[tuple[str, int], Path] = {}

    def run(kind: str, processes: int) -> Path:
        if (kind, processes) not in finished:
            folder = world / f"{kind}{processes}"
            config = run_config(world, folder, RUNS[kind], save_total_limit=None)
            fork_run(config, world / "log", processes=processes).finish()
            finished[kind, processes] = folder
        return finished[kind, processes]

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a model folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def measured(folder: Path) -> list[dict[str, Any]]:
    """Lines of metrics without what the clock says."""
    return [{name: value for name, value in line.items() if name not in VOLATILE} for line in records(folder)]


@pytest.mark.case(8)
@pytest.mark.parametrize(
    ("kind", "processes"),
    [
        ("lora", 1),
        pytest.param("nf4", 1, marks=pytest.mark.faults),
        pytest.param("16_bits", 1, marks=pytest.mark.faults),
        pytest.param("nf4_16_bits", 1, marks=pytest.mark.faults),
        pytest.param("lora", 2, marks=pytest.mark.faults),
        pytest.param("int8", 1, marks=pytest.mark.faults),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    world: Path, tmp_path: Path, straight: Callable[[str, int], Path], kind: str, processes: int
) -> None:
    """Adapter, optimizer, average, random state, position, metrics, and what the run has produced."""
    base, expected, folder = contents(world / "model"), straight(kind, processes), tmp_path / "run"
    config = run_config(world, folder, RUNS[kind])
    log = tmp_path / "log"
    fork_run(config, log, processes=processes, hook=stop_at(STOP, rank=processes - 1)).finish()
    assert sorted(read_adapter(folder).weights) == sorted(read_adapter(folder / f"checkpoint-{STOP}").weights)
    fork_run(config, log, processes=processes).finish()
    assert f"resumed from {folder / f'checkpoint-{STOP}'}" in log.read_text()
    last = f"checkpoint-{STEPS}"
    assert saved_files(folder / last) == saved_files(expected / last)
    assert measured(folder) == measured(expected)
    for name in (*ADAPTER_FILES, HASHES_FILE):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
    assert not list(folder.rglob("model.safetensors")), "the base is stored nowhere"
    assert contents(world / "model") == base


@pytest.mark.case(1)
@pytest.mark.faults
@pytest.mark.parametrize("point", ["after_file:adapter_model", "after_file:adapter_config", "after_rename"])
def test_a_run_killed_in_a_save_continues_as_if_it_had_not_been(
    world: Path, tmp_path: Path, straight: Callable[[str, int], Path], point: str
) -> None:
    def arm(trainer: Trainer, batches: Any) -> None:
        if trainer.state.step == STOP:
            os.environ[FAULT_VARIABLE] = point

    folder = tmp_path / "run"
    config = run_config(world, folder)
    fork_run(config, tmp_path / "log", hook=lambda rank: before_each_step(arm)).finish(-signal.SIGKILL)
    step = 6 if point == "after_rename" else 4
    assert f"resumed from {folder / f'checkpoint-{step}'}" in fork_run(config, tmp_path / "again").finish()
    last = f"checkpoint-{STEPS}"
    assert saved_files(folder / last) == saved_files(straight("lora", 1) / last)


@pytest.mark.case(1)
@pytest.mark.faults
def test_runs_killed_at_random_moments_of_training_and_saving(tmp_path: Path) -> None:
    kills = kill_at_random(tmp_path / "kills", {"training": 2, "saving": 4}, processes=[1], seed=2, changes=ADAPTER)
    result = summary(kills, 0.0)
    assert result["kills"] == 6 and result["problems"] == []
    assert any(kill.reached for kill in kills)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        pytest.param(truncate, ADAPTER_WEIGHTS_FILE, "has", marks=pytest.mark.case(2)),
        pytest.param(flip_bit, ADAPTER_WEIGHTS_FILE, "is damaged", marks=pytest.mark.case(3)),
        pytest.param(Path.unlink, ADAPTER_CONFIG_FILE, "is missing", marks=pytest.mark.case(4)),
    ],
)
def test_a_damaged_adapter_is_named_and_the_checkpoint_before_is_used(
    world: Path,
    tmp_path: Path,
    straight: Callable[[str, int], Path],
    damage: Callable[[Path], None],
    name: str,
    message: str,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight("lora", 1), folder)
    damage(folder / f"checkpoint-{STEPS}" / name)
    printed = fork_run(run_config(world, folder), tmp_path / "log").finish()
    assert f"checkpoint {folder / f'checkpoint-{STEPS}'} is not used: {name} {message}" in printed
    assert f"resumed from {folder / 'checkpoint-6'}" in printed
    expected = {file: entry.sha256 for file, entry in saved_files(straight("lora", 1) / f"checkpoint-{STEPS}").items()}
    newest = next(path for path in folder.glob(f"checkpoint-{STEPS}-*"))
    assert {file: entry.sha256 for file, entry in saved_files(newest).items()} == expected


@pytest.mark.case(15)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {**ADAPTER["lora"], "r": 2}}, "- lora.r: 4 then, 2 now (cannot change within a run"),
        ({"lora": None, "lora_plus_ratio": 1}, "- lora: "),
        ({"lora_plus_ratio": 2}, "- lora_plus_ratio: 4.0 then, 2.0 now (changes what is computed"),
        ({"learning_rate": 5e-4}, "- learning_rate: 0.001 then, 0.0005 now (changes what is computed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_adapter_is_refused(
    world: Path, tmp_path: Path, straight: Callable[[str, int], Path], changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight("lora", 1), folder)
    before = contents(folder / f"checkpoint-{STEPS}")
    printed = fork_run(run_config(world, folder, **changes), tmp_path / "log").finish(EXIT_ERROR)
    assert message in printed
    assert contents(folder / f"checkpoint-{STEPS}") == before


@pytest.mark.case(15)
def test_another_base_is_refused(world: Path, tmp_path: Path, straight: Callable[[str, int], Path]) -> None:
    """One weight differs that no adapter touches; a copy in another folder is the same base."""
    folder, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(straight("lora", 1), folder)
    shutil.copytree(world / "model", base)
    printed = fork_run(run_config(world, folder, model_name_or_path=str(base)), tmp_path / "copy").finish()
    assert f"resumed from {folder}" in printed
    weights = load_file(base / "model.safetensors")
    weights["decoder.model.decoder.layer_norm.weight"][0] += 1
    save_file(weights, base / "model.safetensors")
    accept(base)
    printed = fork_run(run_config(world, folder, model_name_or_path=str(base)), tmp_path / "other").finish(EXIT_ERROR)
    assert "- base_weights_sha256: " in printed and "not those that the checkpoint was trained with" in printed
