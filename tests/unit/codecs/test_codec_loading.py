"""Specs, settings and weights that do not fit are refused with the way out."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from songgen.codecs import load_codec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "xcodek", "path": "a/b"}, "'xcodek' is not one of xcodec, dac.*did you mean 'xcodec'"),
        ({"type": "dac", "bandwith": 4}, "'bandwith' is not one of type, path, revision, num_codebooks"),
        ({"type": "xcodec", "bandwith": 4}, "did you mean 'bandwidth'"),
        ({"type": "spectral"}, "path is missing"),
        ({}, "path is missing"),
        ({"path": 3, "revision": 4}, "path must be text, not 3; revision must be text, not 4"),
        ("no/such/folder", "codec 'no/such/folder'.*there is no folder.*'user/model'"),
        ("nowhere", "codec 'nowhere'.*there is no folder"),
    ],
)
def test_wrong_specs(spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_codec(spec)


def test_a_hub_id_that_cannot_be_reached(codec_folders: dict[str, Path]) -> None:
    """Tests run offline, so the default model of a kind is not there either."""
    for spec in ("nobody/no-such-codec", {"type": "xcodec"}, {"type": "spectral", "path": "nobody/none"}):
        with pytest.raises(ValueError, match="config.json of the codec .*give the folder of a copy"):
            load_codec(spec)


def test_the_type_must_be_that_of_the_folder(codec_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="not of the type 'dac'.*'encodec'"):
        load_codec({"type": "dac", "path": str(codec_folders["encodec"])})
    with pytest.raises(ValueError, match="'dac' has no setting 'bandwidth'"):
        load_codec({"path": str(codec_folders["dac"]), "bandwidth": 4})


def test_a_folder_that_is_no_codec(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no config.json in the folder"):
        load_codec(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type 'bert', not one of xcodec, dac"):
        load_codec(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json of the codec .* is not valid"):
        load_codec(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "settings", "num_codebooks"),
    [
        ("xcodec", {}, 4),
        ("xcodec", {"bandwidth": 0.5}, 2),
        ("encodec", {"bandwidth": 2}, 2),
        ("dac", {}, 3),
        ("dac", {"num_codebooks": 2}, 2),
    ],
)
def test_settings_choose_the_codebooks_and_are_saved(
    kind: str, settings: dict[str, Any], num_codebooks: int, codec_folders: dict[str, Path], tmp_path: Path
) -> None:
    spec = {"type": kind, "path": str(codec_folders[kind]), **settings}
    codec = load_codec(spec)
    assert codec.num_codebooks == num_codebooks
    waveform = torch.randn(1, 1, 10 * codec.hop_length)
    codes, _ = codec.encode(waveform, torch.tensor([waveform.shape[-1]]))
    assert codes.shape == (1, num_codebooks, 10)
    codec.save(tmp_path)
    again = load_codec(str(tmp_path))
    assert again.num_codebooks == num_codebooks and again.fingerprint == codec.fingerprint
    default = load_codec(str(codec_folders[kind]))
    assert (codec.fingerprint == default.fingerprint) == (codec.num_codebooks == default.num_codebooks)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("xcodec", {"bandwidth": 3}, "no bandwidth 3; choose one of 0.25, 0.5, 1 kbit/s"),
        ("encodec", {"bandwidth": "high"}, "no bandwidth 'high'; choose one of 1, 2, 4 kbit/s"),
        ("dac", {"num_codebooks": 4}, "has 3 codebooks"),
    ],
)
def test_settings_that_a_network_has_not(
    kind: str, settings: dict[str, Any], message: str, codec_folders: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        load_codec({"path": str(codec_folders[kind]), **settings})


def test_encodec_models_that_tokens_alone_cannot_carry(make_encodec: Callable[..., Any], tmp_path: Path) -> None:
    make_encodec(audio_channels=2, normalize=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encodes 2 channels.* and it stores a loudness.*facebook/encodec_24khz"):
        load_codec(str(tmp_path))


def test_encodec_codes_a_clip_in_one_piece(make_encodec: Callable[..., Any], tmp_path: Path) -> None:
    model = make_encodec(chunk_length_s=0.1, overlap=0.01)
    model.save_pretrained(tmp_path / "chunked")
    model.config.chunk_length_s = None
    model.save_pretrained(tmp_path / "whole")
    chunked, whole = (load_codec(str(tmp_path / name)) for name in ("chunked", "whole"))
    waveform, lengths = 0.1 * torch.randn(1, 1, 4000), torch.tensor([4000])
    assert torch.equal(chunked.encode(waveform, lengths)[0], whole.encode(waveform, lengths)[0])
    assert chunked.fingerprint == whole.fingerprint


@pytest.mark.parametrize("kind", ["xcodec", "dac", "encodec"])
def test_missing_weights_are_not_made_up(kind: str, codec_folders: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(codec_folders[kind] / "model.safetensors")
    dropped = next(name for name in sorted(weights) if name.startswith("quantizer"))
    del weights[dropped]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((codec_folders[kind] / "config.json").read_bytes())
    with pytest.raises(ValueError, match="lacks 1 weights"):
        load_codec(str(tmp_path))


@pytest.mark.parametrize("kind", ["xcodec", "dac", "encodec"])
def test_weights_that_are_not_finite_are_refused(kind: str, codec_folders: dict[str, Path], tmp_path: Path) -> None:
    """All tokens would be code 0, without an error."""
    folder = Path(shutil.copytree(codec_folders[kind], tmp_path / kind))
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    name = next(name for name in sorted(tensors) if tensors[name].is_floating_point() and "quantizer" not in name)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "file_hashes.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="hold NaN or infinity in"):
        load_codec({"type": kind, "path": str(folder)})


def test_hubert_may_lack_its_mask_embedding(codec_folders: dict[str, Path], tmp_path: Path) -> None:
    """Otherwise a random one would be made up at every opening and change the fingerprint."""
    weights = load_file(codec_folders["xcodec"] / "model.safetensors")
    del weights["semantic_model.masked_spec_embed"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((codec_folders["xcodec"] / "config.json").read_bytes())
    assert load_codec(str(tmp_path)).fingerprint == load_codec(str(codec_folders["xcodec"])).fingerprint


def test_half_precision_weights_compute_in_float32(codec_folders: dict[str, Path], tmp_path: Path) -> None:
    codec = load_codec(str(codec_folders["dac"]))
    codec.model.half().save_pretrained(tmp_path)  # type: ignore[attr-defined]
    assert all(weight.dtype == torch.float32 for weight in load_codec(str(tmp_path)).model.parameters())


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["xcodec", "dac", "encodec", "spectral"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickles_are_not_opened(kind: str, name: str, codec_folders: dict[str, Path], tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    folder = tmp_path / "codec"
    folder.mkdir()
    (folder / "config.json").write_bytes((codec_folders[kind] / "config.json").read_bytes())
    with (folder / name).open("wb") as file:
        pickle.dump(_Evil(marker), file)
    with pytest.raises(ValueError, match="safetensors"):
        load_codec(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_codebooks": 3}, "codebooks of a spectral codec"),
        ({"colour": "red"}, r"unknown \['colour'\]"),
        ({"floor": -1.0, "hop_length": 0}, "hop_length must be.*floor must be"),
    ],
)
def test_a_spectral_folder_that_does_not_fit(
    change: dict[str, Any], message: str, codec_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = json.loads((codec_folders["spectral"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    (tmp_path / "model.safetensors").write_bytes((codec_folders["spectral"] / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=message):
        load_codec(str(tmp_path))


def test_importing_the_codecs_loads_no_network_library() -> None:
    program = "import sys, songgen.codecs; print(sorted({'transformers', 'accelerate', 'datasets'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
