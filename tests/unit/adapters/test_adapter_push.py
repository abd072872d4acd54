"""Adapters on a hub: what is uploaded, and their model card."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from songgen.adapters.folder import read_adapter
from songgen.cli.main import main
from songgen.runtime.file_hashes import checked_folder
from songgen.train.publishing.hub import push_to_hub

Writer = Callable[..., Path]


def uploaded(folder: Path, target: Path, base: str | None = None) -> Path:
    """The files as they would be on the hub."""
    for file in push_to_hub(folder, "someone/singer", dry_run=True, base_model=base).files:
        (target / file.name).parent.mkdir(parents=True, exist_ok=True)
        content = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
        (target / file.name).write_bytes(content)
    return target


def test_what_is_uploaded_is_an_adapter_with_a_card(adapter_folder: Writer, tmp_path: Path) -> None:
    source = adapter_folder(modules_to_save=["enc_to_dec_proj"])
    (source / "optimizer.safetensors").write_bytes(b"x")
    target = uploaded(source, tmp_path / "hub", "someone/base")
    names = {path.name for path in target.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "file_hashes.json", "README.md"}
    adapter = read_adapter(checked_folder(target))
    assert adapter.recipe is not None and adapter.recipe.base_model == "someone/base"
    assert adapter.weights.keys() == load_file(source / "adapter_model.safetensors").keys()
    card = ModelCard.load(target / "README.md")
    assert card.data.base_model == "someone/base" and card.data.library_name == "peft"
    assert {"songgen", "lora"} <= set(card.data.tags)
    assert "songgen generate --model someone/base --adapter someone/singer" in card.text
    for word in ("rank 4", "fc1, q_proj, v_proj", "enc_to_dec_proj", adapter.recipe.base_fingerprint, "songgen 0.1.0"):
        assert word in card.text


def test_no_folder_of_this_machine_is_published(
    adapter_folder: Writer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = adapter_folder(base_name="/models/private/base-model")
    target = uploaded(source, tmp_path / "hub")
    for path in target.iterdir():
        assert b"private" not in path.read_bytes()
    assert "base-model" in (target / "README.md").read_text()
    assert ModelCard.load(target / "README.md").data.base_model is None
    assert "--base account/name" in caplog.text


def test_dry_run_shows_the_card(adapter_folder: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(adapter_folder()), "someone/singer", "--base", "someone/base", "--dry_run"]) == 0
    shown = capsys.readouterr().out
    assert "nothing was uploaded" in shown and "base_model: someone/base" in shown


def test_a_damaged_adapter_is_not_uploaded(adapter_folder: Writer) -> None:
    folder = adapter_folder()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="not as it was written"):
        push_to_hub(folder, "someone/singer", dry_run=True)
