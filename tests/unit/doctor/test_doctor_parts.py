"""Codecs, frozen encoders and tokenizers in folders of their own, whole and damaged."""

import json
from pathlib import Path

import pytest
import torch
from diagnoses import at, findings
from safetensors.torch import load_file, save_file

from songgen.cli.main import main
from songgen.codecs.spectral import SpectralCodec, SpectralSettings
from songgen.conditioning import TextEncoder, VoiceEncoder, train_caption_tokenizer
from songgen.doctor import Kind, Level, examine
from songgen.doctor.listing import find_entries
from songgen.lyrics import train_lyrics_tokenizer

CAPTIONS = ["a calm folk song", "a fast rock song"]


def spectral(folder: Path) -> None:
    settings = SpectralSettings(
        sample_rate=1600, hop_length=32, window_length=128, num_mels=8, num_codebooks=2, codebook_size=16
    )
    codebooks = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    SpectralCodec(settings, codebooks).save(folder)


def tokenizers(folder: Path) -> None:
    train_caption_tokenizer(CAPTIONS, 320, folder / "caption_tokenizer")
    train_lyrics_tokenizer([("la la", "en")], 320).save_pretrained(folder)


PARTS = {
    "codec": (spectral, Kind.CODEC),
    "text": (lambda folder: TextEncoder.small(30, d_model=16, num_layers=1).save(folder), Kind.ENCODER),
    "voice": (lambda folder: VoiceEncoder.small(hidden_size=16, num_layers=1).save(folder), Kind.ENCODER),
    "tokenizers": (tokenizers, Kind.TOKENIZERS),
    "captions": (lambda folder: train_caption_tokenizer(CAPTIONS, 320, folder), Kind.TOKENIZERS),
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_a_whole_part_is_fine(name: str, deep: bool, tmp_path: Path) -> None:
    make, kind = PARTS[name]
    make(tmp_path / name)
    diagnosis = examine(tmp_path / name, deep=deep)
    assert diagnosis.kind is kind and diagnosis.findings
    assert {finding.level for finding in diagnosis.findings} == {Level.OK}
    assert [(entry.kind, entry.folder) for entry in find_entries([tmp_path])] == [("part", str(tmp_path / name))]


@pytest.mark.parametrize("name", ["codec", "text", "voice"])
def test_damaged_weights_are_found(name: str, tmp_path: Path) -> None:
    PARTS[name][0](tmp_path / name)
    weights = tmp_path / name / "model.safetensors"
    tensors = load_file(weights)
    first = sorted(tensors)[0]
    save_file(tensors | {first: torch.full_like(tensors[first], torch.nan)}, weights)
    assert any("NaN or infinity" in finding.what or "finite" in finding.what
               for finding in findings(tmp_path / name, Level.ERROR, deep=True))  # fmt: skip
    weights.write_bytes(weights.read_bytes()[:100])
    assert not examine(tmp_path / name).is_fine
    weights.unlink()
    assert not examine(tmp_path / name).is_fine


def test_damaged_tokenizers_are_found(tmp_path: Path) -> None:
    tokenizers(tmp_path)
    vocabulary = tmp_path / "lyrics_tokenizer.json"
    assert main(["doctor", str(vocabulary)]) == 0
    whole = vocabulary.read_text(encoding="utf-8")
    vocabulary.write_text(whole[:1000], encoding="utf-8")
    assert [each.level for each in at(tmp_path, "lyrics tokenizer")] == [Level.ERROR]
    assert not examine(vocabulary).is_fine
    vocabulary.write_text(whole, encoding="utf-8")
    for path in (tmp_path / "caption_tokenizer").iterdir():
        path.unlink()
    assert [each.level for each in at(tmp_path, "caption tokenizer")] == [Level.ERROR]


def test_a_configuration_of_something_else_is_not_called_a_part(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": ["dac"]}))
    diagnosis = examine(tmp_path)
    assert diagnosis.kind is Kind.MODEL and not diagnosis.is_fine
    (tmp_path / "config.json").write_text("{")
    assert not examine(tmp_path).is_fine
