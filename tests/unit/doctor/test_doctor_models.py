"""Model folders, our own and published ones, whole and damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diagnoses import at, findings
from safetensors.torch import load_file, save_file

from songgen.doctor import Kind, Level, examine
from songgen.doctor.hashes import accept
from songgen.runtime.file_hashes import HASHES_FILE

Copy = Callable[[str], Path]
PUBLISHED = Path(__file__).resolve().parents[2] / "parity" / "data"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    accept(folder)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    accept(folder)


@pytest.mark.parametrize("deep", [False, True])
def test_a_model_folder_is_fine(originals: Path, deep: bool) -> None:
    diagnosis = examine(originals / "model", deep=deep)
    assert diagnosis.kind is Kind.MODEL
    assert {finding.level for finding in diagnosis.findings} == {Level.OK}


def test_weights_that_do_not_fit_are_named(copy_of: Copy) -> None:
    model = copy_of("model")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["extra"] = torch.zeros(1)
        tensors["embed_prompts.weight"] = torch.zeros(2, 2)
        del tensors["enc_to_dec_proj.weight"]

    change_weights(model, change)
    problems = [finding.what for finding in findings(model, Level.ERROR)]
    assert len(problems) == 3
    assert "missing: enc_to_dec_proj.weight" in problems and "unexpected: extra" in problems
    assert any(problem.startswith("shape of embed_prompts.weight: stored (2, 2)") for problem in problems)


def test_weights_are_not_read_for_that(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of many gigabytes are judged by the headers of their files."""
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda self: pytest.fail("a weight was read"))
    assert examine(copy_of("model")).is_fine


def test_values_that_are_not_finite_are_found_deep(copy_of: Copy) -> None:
    model = copy_of("model")
    change_weights(model, lambda tensors: tensors["embed_prompts.weight"].fill_(float("inf")))
    assert examine(model).is_fine
    (finding,) = findings(model, Level.ERROR, deep=True)
    assert "embed_prompts.weight" in finding.what


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda model: (model / "config.json").write_text("{"), "config.json"),
        (lambda model: change_config(model, model_type="other"), "config.json"),
        (lambda model: change_config(model, track_pattern="sideways"), "config.json"),
        (lambda model: (model / "model.safetensors").unlink(), "weights"),
        (lambda model: (model / "model.safetensors").write_bytes(b"no tensors"), "weights"),
        (lambda model: shutil.rmtree(model / "audio_codec"), "audio_codec"),
        (lambda model: (model / "text_encoder" / "model.safetensors").unlink(), "text_encoder"),
        (lambda model: (model / "lyrics_tokenizer.json").unlink(), "lyrics tokenizer"),
        (lambda model: (model / "lyrics_tokenizer.json").write_text("{}"), "lyrics tokenizer"),
        (lambda model: shutil.rmtree(model / "caption_tokenizer"), "caption tokenizer"),
    ],
)
def test_a_part_that_is_missing_or_damaged_is_named(copy_of: Copy, damage: Callable[[Path], Any], where: str) -> None:
    model = copy_of("model")
    damage(model)
    (model / HASHES_FILE).unlink()  # found without them too, as in the folders of earlier versions
    assert [finding.where for finding in findings(model, Level.ERROR)] == [where]


def test_another_codec_is_noticed(copy_of: Copy) -> None:
    model = copy_of("model")
    change_config(model, audio_codec_fingerprint="another")
    (finding,) = findings(model, Level.ERROR, deep=True)
    assert finding.where == "audio_codec" and "another" in finding.what


def test_an_index_that_leads_elsewhere_is_refused(copy_of: Copy) -> None:
    """Even if what lies there would fit."""
    model = copy_of("model")
    (model / "model.safetensors").rename(model.parent / "other.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    (model / HASHES_FILE).unlink()
    (finding,) = findings(model, Level.ERROR)
    assert finding.where == "weights" and "not weights of this folder" in finding.what


def test_pickles_are_named_and_not_opened(copy_of: Copy, tmp_path: Path) -> None:
    model = copy_of("model")
    marker = tmp_path / "executed"
    (model / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    (finding,) = at(model, "pickles", deep=True)
    assert finding.level is Level.WARNING and "pytorch_model.bin" in finding.what
    assert not marker.exists()


@pytest.mark.parametrize("name", ["mixed_pro", "interleaving_A_V"])
def test_a_published_folder_is_understood(tmp_path: Path, name: str) -> None:
    """Its configuration leaves sizes out, and it holds no lyrics vocabulary."""
    shutil.copy(PUBLISHED / f"published_{name}" / "config.json", tmp_path)
    shutil.copy(PUBLISHED / f"{name}.weights.safetensors", tmp_path / "model.safetensors")
    assert at(tmp_path, "weights")[0].level is Level.OK
    assert [finding.where for finding in findings(tmp_path, Level.ERROR)] == ["lyrics tokenizer"]
