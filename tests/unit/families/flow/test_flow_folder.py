"""Folder of a flow model: written after training, opened by diffusers, diagnosed, listed and published."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diagnoses import at, findings
from diffusers import AceStepPipeline
from limits import SAFETY_SECONDS
from safetensors.torch import load_file, save_file
from tiny_flow import write_tiny_pipeline

from songgen.adapters.choice import base_of
from songgen.cli.training.train import task_of
from songgen.config import RunConfig
from songgen.doctor import Kind, Level, examine
from songgen.doctor.hashes import accept
from songgen.doctor.listing import find_entries
from songgen.families.flow.final_model import write_pipeline
from songgen.families.flow.model import FlowModel
from songgen.families.flow.model_folder import MODEL_FILES, model_facts
from songgen.families.registry import family_of
from songgen.models.loading import load_model
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.file_hashes import HASHES_FILE
from songgen.runtime.model_folders import model_config_file, resolve_folder
from songgen.train.output_folder import has_lone_model
from songgen.train.publishing.hub import select_files
from songgen.train.publishing.model_card import model_card

TRANSFORMER_FILE = "transformer/diffusion_pytorch_model.safetensors"
ENCODER_FILE = "condition_encoder/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_pipeline(tmp_path_factory.mktemp("flow") / "model")
    accept(folder)
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def changed_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a model as a run hands them over, one of the transformer's changed."""
    weights = {name: tensor.clone() for name, tensor in FlowModel.open(folder).state_dict().items()}
    weights["transformer.layers.0.mlp.down_proj.weight"] += 0.25
    return weights


def store_halved(folder: Path) -> None:
    """Store the transformer in bfloat16 and in two files with an index, as large models are."""
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / TRANSFORMER_FILE).items()}
    (folder / TRANSFORMER_FILE).unlink()
    names, files = sorted(tensors), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / "transformer" / file, metadata={"format": "pt"})
        files |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / HASHES_FILE).unlink()
    accept(folder)


def test_the_index_marks_the_folder_and_says_the_family(original: Path, tmp_path: Path) -> None:
    assert model_config_file(original) == original / "model_index.json"
    assert resolve_folder(original) == original and family_of(original).name == "flow matching"
    config = RunConfig.from_dict({"model_name_or_path": str(original), "save_to_disk": "d", "output_dir": "o"})
    assert task_of(config) is None
    assert has_lone_model(original)
    with pytest.raises(ValueError, match="holds no config.json, but the model_index.json of a diffusers pipeline"):
        load_model(SongGenForConditionalGeneration, original)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="'FluxPipeline', expected one of AceStepPipeline"):
        family_of(tmp_path)


def test_without_diffusers_it_says_what_to_install(original: Path) -> None:
    program = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from songgen.families.registry import family_of\n"
        f"try: family_of({str(original)!r})\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SAFETY_SECONDS)
    expected = 'need the package diffusers, which is not installed: pip install -c constraints.txt -e ".[flow]"'
    assert expected in done.stdout


@pytest.mark.parametrize("is_halved", [False, True])
def test_a_trained_model_is_written_as_a_folder_that_diffusers_opens(
    copy: Path, tmp_path: Path, is_halved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In the files and the precision of the original; what was not trained is the same byte for byte."""
    if is_halved:
        store_halved(copy)
    (copy / "LICENSE").write_text("do what you like")
    weights = changed_weights(copy)
    write_pipeline(copy, tmp_path / "first", weights)
    target = tmp_path / "trained"
    (tmp_path / "first").rename(target)  # a folder can be moved
    precision = torch.bfloat16 if is_halved else torch.float32
    logging.getLogger("diffusers").propagate = True
    pipeline = AceStepPipeline.from_pretrained(target)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    for part in ("transformer", "condition_encoder"):
        stored = precision if part == "transformer" else torch.float32
        for name, tensor in getattr(pipeline, part).state_dict().items():
            assert torch.equal(tensor, weights[f"{part}.{name}"].to(stored).float()), name
    differing = [
        path.relative_to(copy).as_posix()
        for path in copy.rglob("*")
        if path.is_file() and path.name != HASHES_FILE
        if path.read_bytes() != (target / path.relative_to(copy)).read_bytes()
    ]
    assert differing and all(name.startswith("transformer/diffusion_pytorch_model") for name in differing)
    if is_halved:  # the changed weight is in one of the two files
        assert len(differing) == 1
    FlowModel.open(target)


def test_paths_of_the_machine_are_not_written(copy: Path, tmp_path: Path) -> None:
    for name in ("model_index.json", "vae/config.json"):
        values = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(values | {"_name_or_path": str(copy.parent / "secret")}))
    accept(copy)
    write_pipeline(copy, tmp_path / "out", {})
    assert not [path for path in (tmp_path / "out").rglob("*.json") if "secret" in path.read_text()]
    AceStepPipeline.from_pretrained(tmp_path / "out")


def test_weights_of_another_model_are_not_written(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no weights of the names transformer.nothing"):
        write_pipeline(copy, tmp_path / "out", {"transformer.nothing": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"transformer.norm_out.weight has the shape \(1,\)"):
        write_pipeline(copy, tmp_path / "out2", {"transformer.norm_out.weight": torch.zeros(1)})


@pytest.mark.parametrize("deep", [False, True])
def test_a_model_folder_is_fine(original: Path, deep: bool) -> None:
    diagnosis = examine(original, deep=deep)
    assert diagnosis.kind is Kind.MODEL
    assert {finding.level for finding in diagnosis.findings} == {Level.OK}, diagnosis.findings
    assert {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"} <= {it.where for it in diagnosis.findings}


def damaged_values(folder: Path) -> None:
    tensors = load_file(folder / ENCODER_FILE)
    tensors["null_condition_emb"][..., 0] = torch.nan
    save_file(tensors, folder / ENCODER_FILE)


def other_sizes(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 48}))


def truncated(folder: Path) -> None:
    path = folder / TRANSFORMER_FILE
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "missing component": (
        lambda folder: shutil.rmtree(folder / "vae"),
        "model_index.json",
        "the folder vae is missing",
    ),
    "missing weights": (lambda folder: (folder / ENCODER_FILE).unlink(), "condition_encoder", "other weight formats"),
    "truncated": (truncated, "transformer", "cannot be read"),
    "not a number": (damaged_values, "condition_encoder", "NaN or infinity in 1: null_condition_emb"),
    "other sizes": (other_sizes, "transformer", "shape of layers.0.mlp.down_proj.weight"),
    "huge sizes": (
        lambda folder: (folder / "vae/config.json").write_text('{"decoder_channels": 1000000000}'),
        "vae",
        "sizes that no network has",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer/tokenizer.json").write_text("{"), "tokenizer", "cannot be"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_by_its_place_even_where_hashes_were_accepted(copy: Path, damage: str) -> None:
    change, where, what = DAMAGES[damage]
    change(copy)
    assert any(finding.level is Level.ERROR for finding in findings(copy)), "the hashes tell"
    (copy / HASHES_FILE).unlink()
    found = at(copy, where, deep=True)
    assert any(finding.level is Level.ERROR and what in finding.what for finding in found), found


def test_links_out_of_the_folder_and_pickles_are_found_and_refused(copy: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (copy / "vae" / "more.json").symlink_to(secret)
    (copy / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    assert any("link out of" in finding.what for finding in at(copy, "vae"))
    assert [finding.level for finding in at(copy, "pickles")] == [Level.WARNING]
    with pytest.raises(ValueError, match="link out of"):
        write_pipeline(copy, tmp_path / "out", {})
    config = RunConfig.from_dict({"model_name_or_path": str(copy), "save_to_disk": "d", "output_dir": "o"})
    with pytest.raises(ValueError, match="link out of"):
        family_of(copy).open_model(config, None)
    assert "vae/more.json" not in MODEL_FILES.names(copy)


def test_an_index_that_leads_elsewhere_is_refused(copy: Path) -> None:
    index = copy / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"norm_out.weight": "../../secret.safetensors"}}))
    with pytest.raises(ValueError, match="not weights of this folder"):
        MODEL_FILES.weights(copy)


def test_it_is_listed_with_the_size_of_its_networks(original: Path) -> None:
    (entry,) = find_entries([original])
    assert (entry.kind, entry.state) == ("model", "finished")
    assert entry.size == sum(path.stat().st_size for path in original.rglob("*.safetensors"))


def test_all_components_are_published_and_nothing_else(copy: Path) -> None:
    (copy / "notes.json").write_text("{}")
    (copy / "transformer" / "notes.py").write_text("")
    (copy / "LICENSE").write_text("terms")
    files, left_out = select_files(copy, repo_id="someone/song")
    names = [file.name for file in files]
    assert len(names) == len(set(names))
    expected = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} | {"README.md"}
    assert set(names) == expected - {"notes.json", "transformer/notes.py"}
    assert left_out == {"transformer/notes.py": "only .json, .md, .model, .safetensors, .txt are uploaded"}
    (copy / ENCODER_FILE).unlink()
    with pytest.raises(ValueError, match=f"{ENCODER_FILE} missing"):
        select_files(copy)


def test_the_card_says_what_kind_of_model_it_is(copy: Path, tmp_path: Path) -> None:
    write_tiny_pipeline(tmp_path / "turbo", is_turbo=True)
    assert "turbo" in model_facts(tmp_path / "turbo").tags and "turbo" not in model_facts(copy).tags
    (copy / "LICENSE").write_text("terms")
    (copy / "training_config.json").write_text(json.dumps({"model_name_or_path": "ACE-Step/some-model"}))
    card = model_card(copy, repo_id="someone/song")
    assert "base_model: ACE-Step/some-model" in card and "flow-matching" in card
    assert "| sample rate | 3200 Hz |" in card and "[LICENSE](LICENSE)" in card
    assert "AceStepPipeline.from_pretrained" in card


def test_an_adapter_finds_its_base_above_it(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "copy"}))
    save_file({"base_model.model.norm_out.lora_A.weight": torch.ones(1)}, adapter / "adapter_model.safetensors")
    monkeypatch.chdir(Path("/"))
    assert base_of(adapter) == str(copy)
