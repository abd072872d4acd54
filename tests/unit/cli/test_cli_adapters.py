"""Adapters on the command line: generated with, exported, merged; the same greedy codes from every form."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_fakes import make_adapter
from complete_model import write_complete_model
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from songgen import SongGenForConditionalGeneration, SongGenProcessor, open_model
from songgen.adapters.choice import AdapterChoice, find_adapter, parse_choice
from songgen.adapters.folder import Adapter, read_adapter, write_adapter
from songgen.cli.main import main
from songgen.doctor import Kind, Level, examine
from songgen.doctor.hashes import accept
from songgen.doctor.listing import find_entries
from songgen.runtime.file_hashes import FileEntry, describe_files, sealed

CONFIG = {"target_modules": ["q_proj", "fc1"], "modules_to_save": ["decoder.lm_heads.1"], "use_rslora": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_complete_model(tmp_path_factory.mktemp("base"), "mixed")


@pytest.fixture(scope="module")
def trained(base: Path) -> tuple[Any, Adapter]:
    model = SongGenForConditionalGeneration.from_pretrained(base)
    return make_adapter(base=model, base_name=str(base), **CONFIG)


def write(adapter: Adapter, folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True)
    write_adapter(folder, adapter.config, adapter.weights, adapter.recipe, **options)
    return folder


@pytest.fixture(scope="module")
def adapter(trained: tuple[Any, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(trained[1], tmp_path_factory.mktemp("adapters") / "singer")


def write_checkpoint(adapter: Adapter, run: Path, serial: int) -> Path:
    """A checkpoint as far as its adapter is concerned: PEFT's files, and a manifest that lists them."""
    folder = write(adapter, run / f"checkpoint-{serial}", hashes=False)
    files: dict[str, FileEntry] = describe_files(folder, [path.name for path in folder.iterdir()])
    manifest = {"serial": serial, "files": {name: vars(entry) for name, entry in files.items()}}
    (folder / "manifest.json").write_text(sealed(manifest))
    return folder


@pytest.fixture
def run_folder(trained: tuple[Any, Adapter], tmp_path: Path) -> Path:
    """A run with two checkpoints, which has not written its adapter."""
    for serial in (9, 10):
        write_checkpoint(trained[1], tmp_path / "run", serial)
    return tmp_path / "run"


def codes(model: Any, base: Path) -> list[torch.Tensor]:
    inputs = SongGenProcessor(base)(text="a calm folk song", lyrics="la la the sun")
    songs = model.generate(**inputs, do_sample=False, max_seconds=0.4, return_songs=True)
    return songs.codes


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_form_gives_the_greedy_codes_of_the_trained_model(
    trained: tuple[Any, Adapter], base: Path, adapter: Path, run_folder: Path, tmp_path: Path
) -> None:
    expected = codes(trained[0], base)
    assert main(["export", str(adapter), "--merge", str(tmp_path / "merged")]) == 0
    assert main(["export", str(run_folder), "--adapter", str(tmp_path / "clean")]) == 0
    opened = {
        "adapter folder": open_model(adapter),
        "on its base": open_model(base, [adapter]),
        "run": open_model(run_folder),
        "checkpoint": open_model(run_folder / "checkpoint-9"),
        "exported": open_model(tmp_path / "clean"),
        "merged": open_model(tmp_path / "merged"),
    }
    assert [name for name, model in opened.items() if not same(codes(model, base), expected)] == []
    assert not same(codes(open_model(base), base), expected)
    assert same(codes(open_model(base, [AdapterChoice(adapter, 0.0)]), base), codes(open_model(base), base))


def generate(model: Path, out: Path, *words: str) -> int:
    return main(
        ["generate", "--model", str(model), "--out", str(out), "--device", "cpu", "--greedy", "--seconds", "0.3"]
        + ["--lyrics", "la la", *words]
    )


def test_songs_are_generated_with_adapters(base: Path, adapter: Path, run_folder: Path, tmp_path: Path) -> None:
    runs: dict[str, tuple[Path, list[str]]] = {
        "base": (base, []),
        "none": (base, ["--adapter", f"{adapter}:0"]),
        "adapter": (base, ["--adapter", str(adapter)]),
        "by_itself": (adapter, []),
        "halves": (base, ["--adapter", f"{adapter}:0.5", "--adapter", f"{run_folder}:0.5"]),
        "weak": (base, ["--adapter", f"{adapter}:-1.5"]),
    }
    sound = {}
    for name, (model, words) in runs.items():
        assert generate(model, tmp_path / f"{name}.wav", *words) == 0
        sound[name] = (tmp_path / f"{name}.wav").read_bytes()
    assert sound["none"] == sound["base"]
    assert sound["by_itself"] == sound["adapter"] == sound["halves"]
    assert len({sound["base"], sound["adapter"], sound["weak"]}) == 3


def test_paths_with_a_colon_work(adapter: Path, tmp_path: Path) -> None:
    odd = tmp_path / "one:2" / "other:0.5"
    shutil.copytree(adapter, odd)
    assert parse_choice(odd) == AdapterChoice(odd, 1.0)
    assert parse_choice(f"{odd}:0.25") == AdapterChoice(odd, 0.25)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "{adapter}:much"], "'much' after the colon is not a strength"),
        (["--adapter", "{adapter}:nan"], "strength nan"),
        (["--adapter", "{adapter}:11"], "is not from -10 to 10"),
        (["--adapter", "{base}"], "has no adapter"),
        (["--adapter", "{base}/nothing"], "there is no folder"),
    ],
)
def test_a_wrong_adapter_is_refused(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert generate(base, tmp_path / "song.wav", *(word.format(base=base, adapter=adapter) for word in words)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "song.wav").exists()


def test_another_base_needs_a_word(adapter: Path, base: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    weights = load_file(other / "model.safetensors")
    weights["enc_to_dec_proj.bias"] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    accept(other)
    assert generate(other, tmp_path / "song.wav", "--adapter", str(adapter)) == 2
    assert "trained on another base model" in capsys.readouterr().err
    assert generate(other, tmp_path / "song.wav", "--adapter", str(adapter), "--any_base") == 0


def test_a_base_that_is_not_there_is_said(trained: tuple[Any, Adapter], tmp_path: Path, capsys: Any) -> None:
    folder = write(trained[1], tmp_path / "moved")
    path = folder / "adapter_model.safetensors"
    with safe_open(path, "pt") as opened:
        recipe = json.loads(opened.metadata()["songgen_recipe"])
    recipe["base_model"] = "gone/away/base"
    save_file(load_file(path), path, metadata={"songgen_recipe": json.dumps(recipe)})
    assert main(["doctor", str(folder), "--accept"]) == 0
    assert "there is no folder 'gone/away/base'" in capsys.readouterr().out
    assert generate(folder, tmp_path / "song.wav") == 2
    assert "--model BASE --adapter" in capsys.readouterr().err


def test_the_doctor_compares_an_adapter_with_its_base(
    trained: tuple[Any, Adapter], base: Path, adapter: Path, tmp_path: Path
) -> None:
    diagnosis = examine(adapter)
    assert diagnosis.kind is Kind.ADAPTER and diagnosis.is_fine
    assert [finding.level for finding in diagnosis.findings] == [Level.OK] * len(diagnosis.findings)
    assert diagnosis.findings[-1].what.startswith(f"{base}: the adapter fits")
    assert trained[1].recipe is not None
    other = replace(trained[1], recipe=replace(trained[1].recipe, base_fingerprint="0" * 64))
    diagnosis = examine(write(other, tmp_path / "other"))
    assert not diagnosis.is_fine and "trained on another base model" in diagnosis.findings[-1].what
    weights = {name: tensor * ("lora_B" not in name) for name, tensor in trained[1].weights.items()}
    config = LoraConfig(r=4, target_modules=["q_proj", "fc1"], use_rslora=True)
    matrices = {name: tensor for name, tensor in weights.items() if ".lora_" in name}
    diagnosis = examine(write(Adapter(config, matrices, trained[1].recipe), tmp_path / "idle"))
    assert diagnosis.is_fine and any("changes nothing" in finding.what for finding in diagnosis.findings)
    path = tmp_path / "idle" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert not examine(tmp_path / "idle").is_fine


def test_adapters_are_listed(adapter: Path, base: Path) -> None:
    (entry,) = find_entries([adapter])
    assert (entry.kind, entry.state, entry.detail) == ("adapter", "finished", f"for {base}")
    assert entry.size is not None and entry.size > 0


def test_a_damaged_checkpoint_is_passed_over(run_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_adapter(run_folder).name == "checkpoint-10"
    path = run_folder / "checkpoint-10" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert find_adapter(run_folder).name == "checkpoint-9"
    with pytest.raises(ValueError, match="use another checkpoint"):
        read_adapter(path.parent)
    (run_folder / "checkpoint-9" / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"complete checkpoint.*\n- .*checkpoint-10.*not as it was saved"):
        find_adapter(run_folder)


def test_the_final_adapter_of_a_run_comes_first(run_folder: Path, trained: tuple[Any, Adapter]) -> None:
    write_adapter(run_folder, trained[1].config, trained[1].weights, trained[1].recipe)
    assert find_adapter(run_folder) == run_folder


def test_a_merged_model_says_what_is_in_it(adapter: Path, base: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "merged"
    assert main(["export", str(adapter), "--merge", str(out), "--strength", "0.5"]) == 0
    assert "layers merged; they differ" in capsys.readouterr().out
    with safe_open(out / "model.safetensors", "pt") as opened:
        (merged,) = json.loads(opened.metadata()["songgen_merged"])
    assert merged["strength"] == 0.5 and merged["recipe"]["base_model"] == str(base)
    assert examine(out).is_fine
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in base.iterdir())


def test_a_base_in_16_bits_stays_in_16_bits(base: Path, tmp_path: Path, capsys: Any) -> None:
    half = tmp_path / "half"
    shutil.copytree(base, half)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(half / "model.safetensors").items()}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    accept(half)
    model = SongGenForConditionalGeneration.from_pretrained(half)
    folder = write(make_adapter(base=model, base_name=str(half))[1], tmp_path / "adapter")
    assert main(["export", str(folder), "--merge", str(tmp_path / "merged")]) == 0
    relative = float(capsys.readouterr().out.split(" of a layer's output")[0].split()[-1])
    assert 1e-4 < relative < 2e-2
    assert {t.dtype for t in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.bfloat16}


def test_nothing_is_written_over_and_nothing_is_left(adapter: Path, base: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "there").mkdir()
    for what in ("--merge", "--adapter"):
        assert main(["export", str(adapter), what, str(tmp_path / "there")]) == 2
        assert "exists already" in capsys.readouterr().err
    assert main(["export", str(base), "--merge", str(tmp_path / "out")]) == 2
    assert "whole model and has no adapter" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    shutil.copytree(adapter, damaged)
    (damaged / "adapter_config.json").write_text("{}")
    assert main(["export", str(damaged), "--adapter", str(tmp_path / "out")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "there"]


def test_the_base_can_get_the_name_that_others_know(adapter: Path, tmp_path: Path) -> None:
    assert main(["export", str(adapter), "--adapter", str(tmp_path / "shared"), "--base", "someone/base"]) == 0
    shared = read_adapter(tmp_path / "shared")
    assert shared.recipe is not None and shared.recipe.base_model == "someone/base"
    assert shared.config.base_model_name_or_path == "someone/base"
