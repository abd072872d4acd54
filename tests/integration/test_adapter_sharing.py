"""What becomes of a trained adapter: generated with, exported, merged, compared, all from one run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from forked import fork_run
from launching import make_world, write_config
from safetensors.torch import load_file, save_file
from torch import Tensor

from songgen import open_model
from songgen.adapters.choice import find_adapter
from songgen.adapters.folder import read_adapter, write_adapter
from songgen.cli.main import main
from songgen.doctor import examine
from songgen.doctor.hashes import accept
from songgen.doctor.listing import find_entries
from songgen.exit_codes import EXIT_DONE
from songgen.tasks import MIXED
from songgen.train.launch import run_training
from songgen.train.output_folder import has_lone_model, require_way_back

STEPS = 6
SETTINGS: dict[str, Any] = {
    "lora": {"r": 4, "target_modules": ["attention", "feed_forward"], "modules_to_save": ["enc_to_dec_proj"]},
    "lora_learning_rate": 0.02,
    "max_steps": STEPS,
    "save_steps": 3,
    "save_total_limit": 2,
    "predict_with_generate": True,
    "num_generated_samples": 2,
    "max_length": 12,
    "do_sample": False,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("adapters"), track_pattern="mixed")


@pytest.fixture(scope="module")
def run_folder(world: Path) -> Path:
    """An adapter run with held-out songs: two checkpoints, the final adapter and the comparison."""
    config = write_config(world, output_dir=str(world / "run"), **SETTINGS)
    assert run_training([str(config)], MIXED) == EXIT_DONE
    return world / "run"


@pytest.fixture(autouse=True)
def no_launch() -> None:
    """Accelerate remembers the precision of the first accelerator of a process."""
    AcceleratorState._reset_state(True)


def greedy(model: Any) -> list[Tensor]:
    """Codes of two songs from ids alone."""
    ids = torch.tensor([[5, 7, 1], [9, 3, 1]])
    lyrics = torch.tensor([[261, 270, 0], [261, 280, 0]])
    songs = model.generate(input_ids=ids, prompt_input_ids=lyrics, do_sample=False, max_length=14, return_songs=True)
    return list(songs.codes)


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_form_of_a_trained_adapter_gives_the_same_codes(world: Path, run_folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(run_folder), "--merge", str(tmp_path / "merged")]) == 0
    assert main(["export", str(run_folder / f"checkpoint-{STEPS}"), "--adapter", str(tmp_path / "clean")]) == 0
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run_folder, unfinished)
    (unfinished / "adapter_config.json").unlink()
    (unfinished / "adapter_model.safetensors").unlink()
    assert find_adapter(unfinished).name == f"checkpoint-{STEPS}"
    expected = greedy(open_model(run_folder))
    for source in (unfinished, tmp_path / "clean", tmp_path / "merged", run_folder / f"checkpoint-{STEPS}"):
        assert same(greedy(open_model(source)), expected), source
    assert not same(greedy(open_model(world / "model")), expected)
    assert same(greedy(open_model(world / "model", [f"{run_folder}:0"])), greedy(open_model(world / "model")))


def test_an_adapter_that_was_trained_in_4_bits_is_merged_into_the_16_bit_base(
    world: Path, tmp_path: Path, capsys: Any
) -> None:
    """From the run to the merged model; the base is stored in bfloat16, and so is the merged model."""
    pytest.importorskip("bitsandbytes")
    base, run, merged = tmp_path / "base", tmp_path / "run", tmp_path / "merged"
    shutil.copytree(world / "model", base)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    accept(base)
    lora = {"r": 4, "target_modules": ["attention", "feed_forward", "heads"], "quantization": "nf4"}
    narrow = {"dtype": "bfloat16", "weights_dtype": "bfloat16", "lora_learning_rate": 0.02, "do_eval": False}
    config = write_config(world, output_dir=str(run), model_name_or_path=str(base), lora=lora, max_steps=3, **narrow)
    assert run_training([str(config)], MIXED) == EXIT_DONE
    capsys.readouterr()
    assert main(["export", str(run), "--merge", str(merged)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    measured = re.search(
        r"(\d+) layers merged; they differ from the base with its adapter by at most \S+ in a value and (\S+) of a "
        r"layer's output the adapter was trained next to a quantized base, .* a layer differs by at most (\S+) of its "
        r"output",
        printed,
    )
    assert measured is not None, printed
    layers, rounding, quantization = int(measured[1]), float(measured[2]), float(measured[3])
    assert layers == len({name.rpartition(".lora_")[0] for name in read_adapter(run).weights})
    assert 0 < rounding < 0.01 < quantization < 0.3, "bfloat16 rounds less than 4 bits"
    found = load_file(merged / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16} and found.keys() == weights.keys()
    assert any(not torch.equal(found[name], weights[name]) for name in found if "q_proj" in name)
    with_adapter = greedy(open_model(base, [str(run)]))
    assert same(greedy(open_model(run)), with_adapter)
    assert same(greedy(open_model(merged)), with_adapter)
    assert not same(greedy(open_model(base)), with_adapter)


def test_a_run_says_what_its_adapter_changes(world: Path, run_folder: Path) -> None:
    record = json.loads((run_folder / "comparison.json").read_text())
    assert record["clips"] == 3 and record["step"] == STEPS
    assert record["with"]["loss"] < record["without"]["loss"]
    assert {"mix/loss", "mix/codebook_2/accuracy", "mel_distance"} <= record["with"].keys()
    assert record["improvement"] == pytest.approx(record["without"]["loss"] - record["with"]["loss"], rel=0.2)
    assert len(record["songs"]) == 3
    page = (run_folder / "comparison" / "index.html").read_text()
    assert "://" not in page and "<script" not in page and "caption 0" in page
    for song in record["songs"]:
        for tracks in song["files"].values():
            for name in tracks.values():
                assert f'src="{name}"' in page
                assert (run_folder / "comparison" / name).is_file()
                assert (run_folder / "comparison" / name).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert set(song["files"]) == {"original", "without", "with"}


def test_two_processes_find_what_one_does(world: Path, run_folder: Path, tmp_path: Path) -> None:
    """Three held-out clips on two processes; steps of as many clips, so that the trained adapter is the same."""
    folder = tmp_path / "run"
    config = write_config(world, output_dir=str(folder), **SETTINGS, gradient_accumulation_steps=1)
    printed = fork_run(config, tmp_path / "log", processes=2).finish()
    assert printed.count(" with the adapter, ") == 1
    one, two = (json.loads((path / "comparison.json").read_text()) for path in (run_folder, folder))
    for side in ("without", "with"):
        measures = {name: value for name, value in one[side].items() if not name.endswith("seconds")}
        assert {name: two[side][name] for name in measures} == pytest.approx(measures, rel=1e-4, abs=1e-6)
    for name in ("improvement", "standard_error"):
        assert two[name] == pytest.approx(one[name], rel=1e-3)
    assert (two["clips"], two["songs"]) == (one["clips"], one["songs"])
    for path in (run_folder / "comparison").glob("*.wav"):
        sounds = [read_sound(each) for each in (path, folder / "comparison" / path.name)]
        np.testing.assert_allclose(sounds[0], sounds[1], atol=1e-3)


def read_sound(path: Path) -> Any:
    samples, _ = soundfile.read(path)
    return samples


def test_compare_repeats_what_the_run_found(run_folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["compare", str(run_folder), "--captions", "1", "--out", str(tmp_path), "--device", "cpu"]) in (0, 1)
    assert str(tmp_path / "comparison" / "index.html") in capsys.readouterr().out
    again = json.loads((tmp_path / "comparison.json").read_text())
    first = json.loads((run_folder / "comparison.json").read_text())
    for side in ("without", "with"):
        assert again[side]["loss"] == pytest.approx(first[side]["loss"], rel=1e-5)
    assert len(again["songs"]) == 1


def test_an_adapter_that_does_nothing_is_said(world: Path, run_folder: Path, tmp_path: Path, capsys: Any) -> None:
    adapter = read_adapter(run_folder)
    base = open_model(world / "model").state_dict()
    weights = {
        name: torch.zeros_like(tensor)
        if ".lora_B" in name
        else base.get(name.removeprefix("base_model.model."), tensor)
        for name, tensor in adapter.weights.items()
    }
    folder = tmp_path / "idle"
    folder.mkdir()
    write_adapter(folder, adapter.config, weights, adapter.recipe)
    assert main(["compare", str(folder), "--data", str(world / "data"), "--captions", "1", "--greedy"]) == 1
    printed = capsys.readouterr().out
    assert "every song is the same" in printed and "held-out loss is the same" in printed
    assert json.loads((folder / "comparison.json").read_text())["songs"][0]["unchanged"] is True


def test_a_comparison_without_data_says_what_to_give(run_folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["export", str(run_folder), "--adapter", str(tmp_path / "clean")]) == 0
    assert main(["compare", str(tmp_path / "clean")]) == 2
    assert "--data SET" in capsys.readouterr().err


def test_run_and_adapter_are_known_to_doctor_and_list(run_folder: Path) -> None:
    diagnosis = examine(run_folder)
    assert diagnosis.is_fine, "\n".join(diagnosis.lines())
    assert any(finding.where == "base" and "the adapter fits" in finding.what for finding in diagnosis.findings)
    assert [entry.kind for entry in find_entries([run_folder])] == ["run"]


def test_a_run_does_not_replace_an_adapter_without_checkpoints(run_folder: Path, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "training_config.json"):
        shutil.copy(run_folder / name, tmp_path)
    assert has_lone_model(tmp_path) and not has_lone_model(run_folder)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        require_way_back(tmp_path)
