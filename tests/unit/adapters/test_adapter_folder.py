"""Folders of adapters: what is written is read, peft reads it too, and what comes from elsewhere is checked."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapters_fakes import VARIANTS, make_adapter
from model_fakes import batch, tiny
from safetensors.torch import load_file, save_file

from songgen.adapters.choice import base_of
from songgen.adapters.folder import (
    AdapterRecipe,
    model_names,
    peft_names,
    read_adapter,
    read_recipe,
    weights_fingerprint,
    write_adapter,
)
from songgen.adapters.peft_config import parse_config
from songgen.runtime.file_hashes import HASHES_FILE

Writer = Callable[..., Path]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_written_is_read(adapter_folder: Writer, variant: str) -> None:
    _, adapter = make_adapter(**VARIANTS[variant])
    read = read_adapter(adapter_folder(**VARIANTS[variant]))
    assert read.recipe == adapter.recipe
    assert read.weights.keys() == adapter.weights.keys()
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in adapter.weights.items())
    for name in ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "modules_to_save", "rank_pattern"):
        assert getattr(read.config, name) == getattr(adapter.config, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_opens_the_folder(adapter_folder: Writer, variant: str) -> None:
    trained, _ = make_adapter(**VARIANTS[variant])
    opened = peft.PeftModel.from_pretrained(tiny(), str(adapter_folder(**VARIANTS[variant]))).eval()
    inputs = batch(trained)
    assert torch.equal(opened(**inputs).loss, trained(**inputs).loss)
    assert trained(**inputs).loss != tiny()(**inputs).loss


def test_a_base_is_found_from_above_the_adapter_if_its_path_leads_nowhere_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, adapter = make_adapter()
    project = tmp_path / "project"
    folder, base = project / "outputs" / "singer", project / "outputs" / "base"
    folder.mkdir(parents=True)
    base.mkdir()
    (base / "config.json").write_text("{}")
    assert adapter.recipe is not None
    recipe = dataclasses.replace(adapter.recipe, base_model="./outputs/base")
    write_adapter(folder, adapter.config, adapter.weights, recipe)
    monkeypatch.chdir(tmp_path)
    assert Path(base_of(folder)).samefile(base)
    monkeypatch.chdir(project)
    assert base_of(folder) == "./outputs/base"
    (base / "config.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert base_of(folder) == "./outputs/base", "the error then names the path that was given"


def test_a_full_disk_leaves_the_weights_of_an_earlier_adapter(
    adapter_folder: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_folder()
    before = (folder / "adapter_model.safetensors").read_bytes()

    def fill(tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("songgen.runtime.tensor_files.save_file", fill)
    _, adapter = make_adapter(2)
    with pytest.raises(OSError, match="No space"):
        write_adapter(folder, adapter.config, adapter.weights, adapter.recipe)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert not list(folder.glob("*.tmp"))


def test_a_folder_that_peft_wrote_opens_without_recipe_and_hashes(tmp_path: Path) -> None:
    model = peft.get_peft_model(tiny(), peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["auto_mapping"]
    adapter = read_adapter(tmp_path)
    assert adapter.recipe is None and adapter.config.auto_mapping is None
    assert set(adapter.weights) == set(peft.get_peft_model_state_dict(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_are_those_of_peft_and_lead_back(variant: str) -> None:
    model, adapter = make_adapter(**VARIANTS[variant])
    model.peft_config = {"default": adapter.config}
    expected = {f"base_model.model.{name}" for name in peft.get_peft_model_state_dict(model)}
    parameters = [name for name, _ in model.named_parameters()]
    names = peft_names(parameters)
    assert set(names.values()) == expected
    assert model_names(parameters) == {written: name for name, written in names.items()}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(names)


def test_the_same_adapter_gives_the_same_bytes(adapter_folder: Writer) -> None:
    first, second = adapter_folder("first"), adapter_folder("second")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_fingerprint_sees_names_shapes_precisions_and_values() -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.zeros(1)}
    others = [
        {"a": torch.ones(3, 2), "b": torch.zeros(1)},
        {"a": torch.ones(2, 3), "c": torch.zeros(1)},
        {"a": torch.ones(2, 3, dtype=torch.int32), "b": torch.zeros(1)},
        {"a": torch.ones(2, 3), "b": torch.full((1,), 1e-30)},
        {"a": torch.ones(2, 3)},
    ]
    assert len({weights_fingerprint(each) for each in [weights, *others]}) == len(others) + 1
    assert weights_fingerprint(dict(reversed(weights.items()))) == weights_fingerprint(weights)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_changed_file_is_refused(adapter_folder: Writer, name: str) -> None:
    folder = adapter_folder()
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="not as it was written"):
        read_adapter(folder)


def test_pickled_weights_are_refused(adapter_folder: Writer) -> None:
    folder = adapter_folder()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"a pickle.*safe_serialization"):
        read_adapter(folder)


def test_values_that_are_not_finite_are_refused(adapter_folder: Writer) -> None:
    folder = adapter_folder()
    (folder / HASHES_FILE).unlink()
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, path)
    with pytest.raises(ValueError, match="NaN or infinity"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "its recipe is damaged"),
        ('{"schema_version": 1, "base_model": 3, "base_fingerprint": "a", "program_version": "1"}', "another kind"),
        ('{"schema_version": 9}', "update songgen"),
        ('{"schema_version": 1, "base_model": "x"}', "missing keys"),
    ],
)
def test_a_damaged_recipe_is_refused(adapter_folder: Writer, text: str, reason: str) -> None:
    folder = adapter_folder()
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"songgen_recipe": text})
    with pytest.raises(ValueError, match=reason):
        read_recipe(folder)


def test_nothing_is_written_without_weights(tmp_path: Path) -> None:
    _, adapter = make_adapter()
    with pytest.raises(ValueError, match="no weights"):
        write_adapter(tmp_path, adapter.config, {}, AdapterRecipe("base", "0", "0"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "type LORA"),
        ({"peft_type": None}, "type LORA"),
        ({"r": 10**9}, "r: 1000000000 is not from 1"),
        ({"r": 0}, "r: 0"),
        ({"r": True}, "r: True"),
        ({"r": None}, "r: None"),
        ({"target_modules": None}, "target_modules: None"),
        ({"target_modules": "(a+)+$"}, "repeated group"),
        ({"target_modules": ".*" * 9}, "repetitions"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"target_modules": [3]}, "module names"),
        ({"rank_pattern": {"q_proj": 10**8}}, "rank_pattern: 100000000"),
        ({"alpha_pattern": {"(a*)*": 1}}, "alpha_pattern: the pattern"),
        ({"modules_to_save": ["(a+)+"]}, "modules_to_save: '"),
        ({"layers_pattern": "(a+)+"}, "layers_pattern: '"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "changes the base model"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"new_feature": 7}, "new_feature"),
    ],
)
def test_a_configuration_from_elsewhere_is_checked(changes: dict[str, Any], reason: str) -> None:
    values = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    assert parse_config(values, "file").r == 4
    with pytest.raises(ValueError, match=r"file") as error:
        parse_config({**values, **changes}, "file")
    assert reason in str(error.value)


def test_every_problem_of_a_configuration_is_named() -> None:
    with pytest.raises(ValueError, match="r: 0.*\n.*lora_alpha: -1.*\n.*target_modules: missing"):
        parse_config({"peft_type": "LORA", "r": 0, "lora_alpha": -1}, "file")
