"""Runs that train an adapter of a flow model: what they write, exact resume, comparison, export and merging."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from forked import fork_run, saved_files, stop_at
from launching import records
from tiny_flow import write_latents, write_tiny_pipeline
from torch import Tensor

from songgen.adapters.folder import COMFYUI_FILE, DIFFUSERS_FILE, read_adapter, write_adapter
from songgen.cli.main import main
from songgen.families.use.opening import choose_model, open_choice
from songgen.runtime.tensor_files import read_tensors

STEPS, STOP = 6, 3
ADAPTER_NAMES = {"adapter_config.json", "adapter_model.safetensors"}
LORA = {"r": 4, "lora_alpha": 32, "use_rslora": True, "modules_to_save": []}
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 3e-3, "lr_scheduler_type": "constant",
    "logging_steps": 1, "save_steps": STOP, "save_total_limit": 2, "do_eval": True, "predict_with_generate": False,
    "every_plot_step": None, "ddp_timeout": 60, "caption_dropout": 0.2, "timbre_reference": 0.5,
    "num_inference_steps": 2, "num_generated_samples": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline (`model`) and latents (`data`)."""
    folder = tmp_path_factory.mktemp("flow")
    write_latents(folder / "data", write_tiny_pipeline(folder / "model"))
    return folder


def train(world: Path, output: Path, *, hook: Any = None, lora: dict[str, Any] | None = None, **keys: Any) -> str:
    paths = {"model_name_or_path": str(world / "model"), "save_to_disk": str(world / "data")}
    values = {**paths, "feature_cache_dir": str(world / "features"), "output_dir": str(output), **SETTINGS, **keys}
    path = output.with_suffix(".json")
    path.write_text(json.dumps({**values, "lora": lora or LORA}))
    return fork_run(path, output.with_suffix(".log"), hook=hook).finish()


@pytest.fixture(scope="module")
def run_folder(world: Path) -> Path:
    """A finished run, with songs in its comparison."""
    train(world, world / "run", predict_with_generate=True)
    return world / "run"


def opened(name: Path, *adapters: Path) -> Any:
    return open_choice(choose_model(name, adapters)).transformer


def weights_of(transformer: Any) -> dict[str, Tensor]:
    """Weights of a transformer with its adapter in them."""
    for module in transformer.modules():
        if hasattr(module, "merge"):
            module.merge()
    return {name.replace(".base_layer", ""): value for name, value in transformer.state_dict().items()}


def require_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    names = {name for name in first if ".lora_" not in name}
    assert names and names <= second.keys()
    for name in names:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_run_writes_every_form_and_its_checkpoints_that_of_peft(world: Path, run_folder: Path) -> None:
    losses = [line["train/loss"] for line in records(run_folder) if "train/loss" in line]
    assert len(losses) == STEPS and all(torch.tensor(losses).isfinite())
    hashed = json.loads((run_folder / "file_hashes.json").read_text())["manifest"]["files"].keys()
    assert hashed == {*ADAPTER_NAMES, DIFFUSERS_FILE, COMFYUI_FILE}
    checkpoint = run_folder / f"checkpoint-{STEPS}"
    assert not {DIFFUSERS_FILE, COMFYUI_FILE} & {path.name for path in checkpoint.iterdir()}
    assert read_tensors(checkpoint / "adapter_model.safetensors").keys() == read_adapter(run_folder).weights.keys()
    expected = weights_of(opened(run_folder))
    for source in (checkpoint, run_folder / DIFFUSERS_FILE, run_folder / COMFYUI_FILE):
        require_same(expected, weights_of(opened(world / "model", source)))
    assert main(["doctor", str(run_folder)]) == 0


def test_a_run_says_what_its_adapter_changes_and_compare_repeats_it(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = json.loads((run_folder / "comparison.json").read_text())
    assert first["with"]["loss"] < first["without"]["loss"] and "band_1/loss" in first["with"]
    assert set(first["songs"][0]["files"]) == {"original", "without", "with"} and not first["songs"][0]["unchanged"]
    assert main(["compare", str(run_folder), "--captions", "1", "--out", str(tmp_path), "--device", "cpu"]) in (0, 1)
    again = json.loads((tmp_path / "comparison.json").read_text())
    for side in ("without", "with"):
        assert again[side]["loss"] == pytest.approx(first[side]["loss"], rel=1e-5)
    assert str(tmp_path / "comparison" / "index.html") in capsys.readouterr().out


def test_an_adapter_that_does_nothing_is_said(world: Path, run_folder: Path, tmp_path: Path, capsys: Any) -> None:
    adapter = read_adapter(run_folder)
    idle = {name: tensor * (".lora_B" not in name) for name, tensor in adapter.weights.items()}
    (tmp_path / "idle").mkdir()
    write_adapter(tmp_path / "idle", adapter.config, idle, adapter.recipe)
    assert main(["compare", str(tmp_path / "idle"), "--data", str(world / "data"), "--captions", "0"]) == 1
    printed = capsys.readouterr().out
    assert "every second matrix (lora_B) is 0" in printed and "held-out loss is the same" in printed


def test_exported_and_merged_it_is_the_same(world: Path, run_folder: Path, tmp_path: Path, capsys: Any) -> None:
    expected = weights_of(opened(run_folder))
    assert main(["export", str(run_folder / f"checkpoint-{STEPS}"), "--adapter", str(tmp_path / "clean")]) == 0
    assert {DIFFUSERS_FILE, COMFYUI_FILE} <= {path.name for path in (tmp_path / "clean").iterdir()}
    assert main(["export", str(tmp_path / "clean"), "--merge", str(tmp_path / "merged")]) == 0
    require_same(expected, weights_of(opened(tmp_path / "merged")))
    base = ["--base", str(world / "model")]
    assert main(["export", str(run_folder / COMFYUI_FILE), "--merge", str(tmp_path / "again"), *base]) == 0
    require_same(expected, weights_of(opened(tmp_path / "again")))
    assert main(["export", str(run_folder / COMFYUI_FILE), "--merge", str(tmp_path / "lost")]) == 2
    assert "does not say which base model it needs" in capsys.readouterr().err


def test_songs_are_generated_with_every_form(world: Path, run_folder: Path, tmp_path: Path) -> None:
    def song(name: str, model: Path, *adapters: str) -> Any:
        words = ["--caption", "a wave", "--seconds", "1", "--steps", "2", "--seed", "3", "--device", "cpu"]
        chosen = [word for adapter in adapters for word in ("--adapter", adapter)]
        assert main(["generate", "--model", str(model), "--out", str(tmp_path / name), *words, *chosen]) == 0
        return soundfile.read(tmp_path / name, dtype="int16")[0].astype(int)

    with_run = song("run.wav", run_folder)
    with_file = song("file.wav", world / "model", str(run_folder / COMFYUI_FILE))
    plain, without = song("plain.wav", world / "model"), song("zero.wav", world / "model", f"{run_folder}:0")
    assert abs(with_run - with_file).max() <= 1 and (plain == without).all()
    assert abs(with_run - plain).max() > 100


def test_a_pushed_adapter_has_every_form(run_folder: Path, capsys: Any) -> None:
    assert main(["push", str(run_folder), "account/singer", "--base", "account/base", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*ADAPTER_NAMES, DIFFUSERS_FILE, COMFYUI_FILE))


@pytest.mark.parametrize(
    "lora",
    [
        {"modules_to_save": ["condition_embedder"]},
        pytest.param({"use_dora": True}, marks=pytest.mark.faults),
        pytest.param({"quantization": "nf4"}, marks=pytest.mark.faults),
        pytest.param({"quantization": "int8"}, marks=pytest.mark.faults),
    ],
    ids=["lora", "dora", "nf4", "int8"],
)
def test_a_stopped_run_resumes_bit_for_bit(world: Path, tmp_path: Path, lora: dict[str, Any]) -> None:
    keys: dict[str, Any] = {"lora": {**LORA, **lora}, "do_eval": lora.get("quantization") == "nf4"}
    train(world, tmp_path / "straight", **keys)
    train(world, tmp_path / "stopped", hook=stop_at(STOP), **keys)
    assert not (tmp_path / "stopped" / f"checkpoint-{STEPS}").exists()
    shutil.rmtree(world / "features", ignore_errors=True)
    train(world, tmp_path / "stopped", **keys)
    ours, theirs = (saved_files(tmp_path / name / f"checkpoint-{STEPS}") for name in ("straight", "stopped"))
    assert ours == theirs
    names = [name for name in (*ADAPTER_NAMES, COMFYUI_FILE) if name != "adapter_config.json"]
    for name in names:
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
