"""The package descript-audio-codec: its weight files give its own codes through the DAC codec."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fakes import tiny
from reference_cases import DATA
from safetensors.torch import load_file
from torch import Tensor

from songgen.codecs import load_codec
from songgen.models import SongGenForConditionalGeneration
from songgen.tokenize.encoders import _portable_spec
from songgen.tokenize.workspace import CODEC_FOLDER

AUDIO_TOLERANCE = 1e-3

GAINS, DIRECTIONS = ("weight_g", "parametrizations.weight.original0"), ("weight_v", "parametrizations.weight.original1")


def native_file(path: Path, **arguments: Any) -> Path:
    """Write a weight file as the package does; keywords change the arguments of its network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = load_file(DATA / "dac_native.weights.safetensors")
    given = json.loads((DATA / "dac_native.json").read_text(encoding="utf-8"))
    torch.save({"state_dict": state, "metadata": {"kwargs": given | arguments}}, path)
    return path


@pytest.fixture
def io() -> dict[str, Tensor]:
    return load_file(DATA / "dac_native.io.safetensors")


def test_codes_and_audio_are_those_of_the_package(io: dict[str, Tensor], tmp_path: Path) -> None:
    codec = load_codec({"type": "dac", "path": str(native_file(tmp_path / "weights_16khz.pth"))})
    assert (codec.sample_rate, codec.hop_length, codec.num_codebooks, codec.codebook_size) == (16000, 320, 4, 64)
    audio = io["in.audio"]
    codes, frames = codec.encode(audio, torch.tensor([audio.shape[-1]] * len(audio)))
    assert torch.equal(codes, io["out.codes"]) and frames.tolist() == [20, 20]
    decoded = codec.decode(codes)[..., : io["out.audio"].shape[-1]]
    torch.testing.assert_close(decoded, io["out.audio"], atol=AUDIO_TOLERANCE, rtol=0)


def test_the_newer_names_of_weight_norm_give_the_same_codec(tmp_path: Path) -> None:
    old = native_file(tmp_path / "old.pth")
    content = torch.load(old, weights_only=True)
    for before, after in zip(GAINS[:1] + DIRECTIONS[:1], GAINS[1:] + DIRECTIONS[1:], strict=True):
        content["state_dict"] = {name.replace(before, after): part for name, part in content["state_dict"].items()}
    torch.save(content, tmp_path / "new.pth")
    assert load_codec(str(old)).fingerprint == load_codec(str(tmp_path / "new.pth")).fingerprint


@pytest.mark.parametrize("spelling", ["file", "folder", "downloads", "bare name", "home"])
def test_where_it_is_found(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    downloads = tmp_path / ".cache" / "descript" / "dac"
    file = native_file(downloads / "weights_16khz_8kbps_0.0.5.pth")
    path = {
        "file": str(file),
        "folder": str(downloads),
        "downloads": "~/.cache/descript/dac",
        "bare name": file.name,
        "home": f"~/.cache/descript/dac/{file.name}",
    }[spelling]
    assert load_codec({"path": path}).spec == {"type": "dac", "path": str(file), "num_codebooks": 4}
    assert load_codec({"type": "dac", "path": path, "num_codebooks": 2}).num_codebooks == 2
    if spelling in ("folder", "downloads"):
        native_file(downloads / "weights_44khz_8kbps_0.0.1.pth")
        with pytest.raises(ValueError, match=r"several codecs, name one file: .*0\.0\.5\.pth, .*0\.0\.1\.pth"):
            load_codec({"path": path})


def test_a_folder_that_names_a_file_in_it_is_looked_in_first(tmp_path: Path) -> None:
    native_file(tmp_path / "base" / "weights.pth")
    codec = load_codec({"path": "weights.pth"}, base_folder=tmp_path / "base")
    assert codec.spec["path"] == str(tmp_path / "base" / "weights.pth")
    native_file(tmp_path / "else" / "weights.pth")
    with pytest.raises(ValueError, match="there is no file"):
        load_codec({"path": "../else/weights.pth"}, base_folder=tmp_path / "base")


def test_a_copy_is_a_folder_without_pickles(tmp_path: Path) -> None:
    codec = load_codec({"path": str(native_file(tmp_path / "weights.pth")), "num_codebooks": 3})
    codec.save(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["config.json", "model.safetensors"]
    copy = load_codec(str(tmp_path / "copy"))
    assert copy.fingerprint == codec.fingerprint and copy.num_codebooks == 3


def test_models_and_data_sets_that_use_it_hold_a_copy(tmp_path: Path) -> None:
    """A folder that names a file elsewhere could not be moved, and would hold a pickle after copying it."""
    file = native_file(tmp_path / "weights_16khz.pth")
    model = tiny()
    model.config = replace(model.config, audio_codec={"path": str(file)})
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["audio_codec"] == {"path": "audio_codec"}
    assert not list((tmp_path / "model").rglob("*.pth"))
    opened = SongGenForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert opened.audio_codec.fingerprint == load_codec(str(file)).fingerprint
    assert _portable_spec(dict(load_codec(str(file)).spec), None)["path"] == CODEC_FOLDER


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"decoder_rates": [8, 4, 5, 2]}, r"decoder_rates .* are not encoder_rates .* in reverse"),
        ({"latent_dim": 64}, "latent_dim 64 is not 128"),
        ({"codebook_dim": [8, 8, 4, 4]}, "codebook_dim .* is not one number"),
        ({"codebook_size": 60}, "codebook_size must be a power of 2"),
        ({"encoder_rates": None}, "cannot be a DacModel"),
        ({"encoder_dim": 16}, "do not fit its configuration"),
        ({"encoder_rates": [2] * 99}, "1 to 16 entries"),
        ({"n_codebooks": 5}, "n_codebooks is 5, but there are weights of 4"),
    ],
)
def test_networks_that_are_not_that_of_the_library_are_refused(
    arguments: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=problem):
        load_codec(str(native_file(tmp_path / "weights.pth", **arguments)))


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_no_code_runs_and_damage_is_named(tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "weights.pth"
    torch.save({"state_dict": {}, "metadata": {"kwargs": Evil(marker)}}, file)
    with pytest.raises(ValueError, match="other objects than tensors"):
        load_codec(str(file))
    file.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    with pytest.raises(ValueError, match=r"weights\.pth"):
        load_codec(str(file))
    assert not marker.exists()
    whole = native_file(file).read_bytes()
    for content in (b"", b"not a zip", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.pth"):
            load_codec(str(file))
    for other in ({"weight": torch.zeros(2)}, [1], {"state_dict": {"a": 1}, "metadata": {"kwargs": {}}}):
        torch.save(other, file)
        with pytest.raises(ValueError, match="not a weight file of descript-audio-codec"):
            load_codec(str(file))
    with pytest.raises(ValueError, match="there is no file .*missing.pth"):
        load_codec(str(tmp_path / "missing.pth"))
