"""The embedded codec: its signal processing, its quantizer, and how it is fitted."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from songgen.codecs import load_codec
from songgen.codecs.spectral import SpectralCodec, SpectralSettings
from songgen.codecs.spectral_fit import FitOptions, fit_spectral_codec, reconstruction_error
from songgen.codecs.spectral_quantizer import dequantize, quantize
from songgen.codecs.spectral_signal import griffin_lim, linear_magnitudes, magnitudes

MakeSong = Callable[[int, int], Tensor]
SMALL = SpectralSettings(num_codebooks=4, codebook_size=64, num_mels=40)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def geometry() -> object:
    return SMALL.geometry


def test_default_geometry_is_that_of_xcodec() -> None:
    settings = SpectralSettings()
    assert (settings.sample_rate, settings.hop_length) == (16_000, 320)
    assert (settings.num_codebooks, settings.codebook_size) == (8, 1024)


def test_a_tone_has_its_level_in_its_bin() -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    spectrum = magnitudes(tone[None], SMALL.geometry)
    assert spectrum.shape == (1, 50, 513)
    assert spectrum[0, 25].argmax().item() == round(1000 / 16_000 * 1024)
    assert spectrum[0, 25].max().item() == pytest.approx(0.5, rel=0.01)


def test_linear_magnitudes_explain_the_mels(make_song: MakeSong) -> None:
    filters = SpectralSettings().geometry.mel_filters().float()
    mels = magnitudes(make_song(0, 16_000)[None], SMALL.geometry) @ filters
    bins = linear_magnitudes(mels, filters)
    assert (bins >= 0).all()
    assert (bins @ filters - mels).norm() < 0.05 * mels.norm()
    assert not linear_magnitudes(torch.zeros(3, 80), filters).any()


def test_griffin_lim_finds_a_waveform_of_the_magnitudes(make_song: MakeSong) -> None:
    target = magnitudes(make_song(1, 16_000)[None], SMALL.geometry)
    errors = []
    for iterations in (0, 32):
        sound = griffin_lim(target, SMALL.geometry, iterations, seed=0)
        assert sound.shape == (1, 16_000)
        errors.append(((magnitudes(sound, SMALL.geometry) - target).norm() / target.norm()).item())
    assert errors[1] < 0.2 < errors[0]
    assert torch.equal(sound, griffin_lim(target, SMALL.geometry, 32, seed=0))


def test_the_quantizer_against_all_combinations() -> None:
    generator = torch.Generator().manual_seed(0)
    codebooks = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    frames = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    codes = quantize(frames, codebooks, search_width=25)
    for frame, found in zip(frames, codes, strict=True):
        first = (codebooks[0] - frame).square().sum(dim=1).argmin().item()
        sums = {(first, *rest): codebooks[0][first] for rest in product(range(5), repeat=2)}
        errors = {key: (frame - dequantize(torch.tensor(key), codebooks)).square().sum().item() for key in sums}
        assert tuple(found.tolist()) == min(errors, key=errors.__getitem__)


def test_a_wider_search_is_closer() -> None:
    generator = torch.Generator().manual_seed(0)
    codebooks = torch.randn(6, 32, 16, generator=generator) * torch.logspace(0, -0.7, 6)[:, None, None]
    frames = torch.randn(2000, 16, generator=generator)
    errors = [
        (frames - dequantize(quantize(frames, codebooks, width), codebooks)).square().mean().item()
        for width in (1, 4, 16)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_silence_is_code_zero_and_comes_back_as_silence(make_song: MakeSong) -> None:
    codec = fit_spectral_codec([make_song(0, 32_000)], SMALL, FitOptions(iterations=2))
    codes, frames = codec.encode(torch.zeros(1, 1, 6400), torch.tensor([6400]))
    assert frames.item() == 20 and not codes.any()
    assert not codec.decode(codes).any()


def test_fitting_reaches_its_own_songs_and_others(make_song: MakeSong) -> None:
    own, others = ([make_song(seed, 24_000) for seed in seeds] for seeds in (range(8), range(20, 24)))
    codec = fit_spectral_codec(own, replace(SMALL, codebook_size=128))
    own_error, other_error = reconstruction_error(codec, own), reconstruction_error(codec, others)
    assert own_error < 0.10
    assert own_error < other_error < 0.25
    # Fewer codebooks know less.
    codes = codec.quantize(codec.log_mels(others[0][None])[0])
    frames = codec.log_mels(others[0][None])[0]
    errors = []
    for used in range(1, 5):
        decoded = dequantize(codes[:, :used], codec._codebooks[:used])
        errors.append((frames - decoded).square().mean().item())
    assert errors == sorted(errors, reverse=True)


def test_decoded_music_resembles_the_original(make_song: MakeSong) -> None:
    song = make_song(3, 32_000)
    codec = fit_spectral_codec([song], SpectralSettings(codebook_size=64), FitOptions(iterations=3))
    codes, _ = codec.encode(song[None, None], torch.tensor([len(song)]))
    decoded = codec.decode(codes)[0, 0]
    assert decoded.square().mean().sqrt() == pytest.approx(song.square().mean().sqrt().item(), rel=0.25)
    difference = (codec.log_mels(decoded[None]) - codec.log_mels(song[None])).abs().mean()
    assert difference < 0.3
    assert torch.equal(decoded, codec.decode(codes)[0, 0])


def test_the_same_seed_fits_the_same_codec(make_song: MakeSong) -> None:
    clips = [make_song(seed, 16_000) for seed in range(4)]
    options = FitOptions(iterations=2, max_frames=120)
    prints = [fit_spectral_codec(iter(clips), SMALL, replace(options, seed=seed)).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("num_samples", [1, 320, 3200])
def test_a_corpus_smaller_than_a_codebook(num_samples: int, make_song: MakeSong) -> None:
    clip = make_song(0, num_samples)
    codec = fit_spectral_codec([torch.zeros(0), clip], SMALL)
    assert codec._codebooks.isfinite().all()
    # No code stands twice in a codebook: nearest codes are never a matter of chance.
    assert all(len(codebook.unique(dim=0)) == SMALL.codebook_size for codebook in codec._codebooks)
    assert reconstruction_error(codec, [clip]) < 0.5
    assert math.isfinite(reconstruction_error(codec, [make_song(1, 3200)]))


@pytest.mark.parametrize("waveforms", [[], [torch.zeros(0)], [torch.zeros(640)]])
def test_nothing_to_fit_on(waveforms: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="no sound to fit"):
        fit_spectral_codec(waveforms, SMALL)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="hop_length.*codebook_size.*floor"):
        SpectralSettings(hop_length=0, codebook_size=-3, floor=0.0)
    with pytest.raises(ValueError, match="at most half"):
        SpectralSettings(hop_length=1000)


def test_phase_settings_do_not_change_the_fingerprint_and_token_settings_do() -> None:
    codebooks = torch.randn(4, 64, 40)
    base = SpectralCodec(SMALL, codebooks).fingerprint
    assert SpectralCodec(replace(SMALL, griffin_lim_iterations=5), codebooks).fingerprint == base
    assert SpectralCodec(replace(SMALL, floor=1e-3), codebooks).fingerprint != base
    assert SpectralCodec(replace(SMALL, search_width=1), codebooks).fingerprint != base


def test_a_fitted_codec_has_a_spec_once_it_is_saved(tmp_path: Path) -> None:
    codec = SpectralCodec(SMALL, torch.randn(4, 64, 40))
    with pytest.raises(ValueError, match="save"):
        _ = codec.spec
    codec.save(tmp_path / "codec")
    assert load_codec(codec.spec).fingerprint == codec.fingerprint


def run_helper(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "helpers" / "fit_spectral_codec.py"), *arguments]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_helper_fits_on_every_track_of_a_manifest(tmp_path: Path, make_song: MakeSong) -> None:
    (tmp_path / "audio").mkdir()
    for name, rate in (("mix", 16_000), ("vocal", 44_100)):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", make_song(0, rate).numpy(), rate)
    row = {"audio_file_name": "audio/mix.wav", "vocal_abspath": str(tmp_path / "audio" / "vocal.wav"), "fname": "a"}
    row |= {"lyrics": "one\u2028line"}  # JSON may hold it as it is
    lines = [json.dumps(row, ensure_ascii=False)] * 2
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    sizes = ["--num_codebooks", "2", "--codebook_size", "16", "--num_mels", "20", "--iterations", "2"]
    manifest = ["--manifest", str(tmp_path / "metadata.jsonl")]
    result = run_helper(*manifest, "--out", str(tmp_path / "codec"), *sizes)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 files" in result.stdout and "nepers" in result.stdout.splitlines()[-1]
    codec = load_codec(str(tmp_path / "codec"))
    assert (codec.num_codebooks, codec.codebook_size) == (2, 16)


def test_the_helper_names_what_is_wrong_with_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"audio_file_name": "gone.wav"}\nnot json\n[1]\n')
    (tmp_path / "b.jsonl").write_text('{"caption": "x"}\n')
    manifests = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    result = run_helper("--manifest", *manifests, "--out", str(tmp_path / "codec"))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    for part in ("line 2: not a line of JSON", "line 3: a row must be", "names no audio", "no manifest", "gone.wav"):
        assert part in result.stderr
