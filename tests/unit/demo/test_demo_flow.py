"""The flow demo: its autoencoder, its untrained pipeline, its plan, its measures and its page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo_flow import pipeline as flow_pipeline
from demo_flow.autoencoder import FRAME_SAMPLES, Transform, fit_transform, make_autoencoder, mdct_basis
from demo_report.files import GeneratedSong, write_generated, write_rows, write_sound
from numpy.typing import NDArray
from run_demo import ROOT
from run_flow_demo import all_steps

from songgen.config.loading import load_run_config, read_config_file
from songgen.families.flow.model import FlowModel
from songgen.metrics.mel import mel_distance

SAMPLE_RATE, CHANNELS = 16_000, 20
CLOSE = 1e-5


def chord(seed: int, seconds: float = 0.8) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    notes = [np.sin(2 * np.pi * frequency * time) for frequency in generator.uniform(100, 1000, 3)]
    return (0.1 * np.sum(notes, axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def songs() -> list[NDArray[np.float32]]:
    return [chord(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def transform(songs: list[NDArray[np.float32]]) -> Transform:
    return fit_transform(songs, CHANNELS)


def spread(samples: NDArray[np.floating], num_frames: int) -> NDArray[np.float64]:
    """Return the samples that each frame sees: its own, and half a frame on both sides."""
    padded = np.zeros((num_frames + 1) * FRAME_SAMPLES)
    padded[FRAME_SAMPLES // 2 :][: len(samples)] = samples
    return np.stack([padded[start * FRAME_SAMPLES :][: 2 * FRAME_SAMPLES] for start in range(num_frames)])


def overlapped(frames: NDArray[np.floating]) -> NDArray[np.float64]:
    total = np.zeros((len(frames) + 1) * FRAME_SAMPLES)
    for number, frame in enumerate(frames):
        total[number * FRAME_SAMPLES :][: 2 * FRAME_SAMPLES] += frame
    return total[FRAME_SAMPLES // 2 : -FRAME_SAMPLES // 2]


def test_the_transform_and_its_transpose_give_the_samples_back() -> None:
    basis, samples = mdct_basis(FRAME_SAMPLES), np.random.default_rng(0).normal(size=4 * FRAME_SAMPLES)
    back = overlapped(spread(samples, 4) @ basis.T @ basis)
    # Nothing overlaps with the outer halves of the first and of the last frame.
    inner = slice(FRAME_SAMPLES // 2, -FRAME_SAMPLES // 2)
    np.testing.assert_allclose(back[inner], samples[inner], atol=1e-9)


def test_the_autoencoder_computes_the_transform(songs: list[NDArray[np.float32]], transform: Transform) -> None:
    autoencoder = make_autoencoder(transform, SAMPLE_RATE)
    samples = songs[0][: 16 * FRAME_SAMPLES]
    # The sides differ, and what they have in common is encoded.
    sides = torch.from_numpy(np.stack([samples + 0.1, samples - 0.1]))[None]
    with torch.no_grad():
        posterior = autoencoder.encode(sides).latent_dist
        decoded = autoencoder.decode(posterior.mean).sample[0].numpy()
        silence = autoencoder.encode(torch.zeros_like(sides)).latent_dist.mean
    expected = spread(samples, 16) @ transform.analysis.T
    np.testing.assert_allclose(posterior.mean[0].T.numpy(), expected, atol=CLOSE)
    np.testing.assert_allclose(decoded[0], overlapped(expected @ transform.synthesis), atol=CLOSE)
    assert np.array_equal(decoded[0], decoded[1])
    assert posterior.std.max() < 2e-3 and not silence.any()


def test_more_components_are_closer_to_the_songs(songs: list[NDArray[np.float32]]) -> None:
    errors = []
    for channels in (4, 12, 48):
        fitted = fit_transform(songs, channels)
        back = overlapped(spread(songs[0], 20) @ fitted.analysis.T @ fitted.synthesis)
        errors.append(float(np.square(back - songs[0]).mean() / np.square(songs[0]).mean()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


def test_latents_have_a_size_of_about_one(songs: list[NDArray[np.float32]], transform: Transform) -> None:
    latents = np.concatenate([spread(song, 20) @ transform.analysis.T for song in songs])
    assert 0.5 < latents.std() < 2


def test_the_pipeline_opens_as_a_flow_model(
    songs: list[NDArray[np.float32]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_pipeline, "CHANNELS", CHANNELS)
    rows = [{"caption": f"pop {number}", "lyrics": "silver moon calls softly"} for number in range(3)]
    made = flow_pipeline.make_pipeline(songs, rows, SAMPLE_RATE, seed=0)
    made.save_pretrained(tmp_path)
    core = FlowModel.open(str(tmp_path))
    assert core.num_channels == CHANNELS and not core.is_turbo
    positions = core.silence(100)[0]
    # Frames are told apart by them, from the first one on.
    distances = torch.cdist(positions, positions) + 100 * torch.eye(100)
    assert distances.min() > 0.1
    assert made.tokenizer.decode(made.tokenizer("silver moon é").input_ids) == "silver moon é"
    again = flow_pipeline.make_pipeline(songs, rows, SAMPLE_RATE, seed=0)
    for one, other in zip(made.transformer.parameters(), again.transformer.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_plan_names_files_that_exist_and_steps_build_on_each_other() -> None:
    written: set[Path] = set()
    for step in all_steps(seed=0):
        named = [part for part in step.command if re.search(r"\.(py|json)$", part)]
        assert named, step.name
        for path in [*named, *step.inputs]:
            assert (ROOT / path).is_file(), f"{step.name}: {path}"
        for config in (part for part in named if part.endswith(".json")):
            values = read_config_file(ROOT / config)[0]
            assert Path(values["model_name_or_path"]) in written, step.name
            if not values.get("preprocessing_only"):
                assert Path(values["save_to_disk"]) in written
        assert not written & set(step.outputs)
        written |= set(step.outputs)


def test_the_shipped_stage_trains_what_the_demo_needs() -> None:
    config = load_run_config([str(ROOT / "helpers/training_configs/demo/flow.json")], description="")
    # The timbre reference of all songs is silence: its encoder would learn nothing, and takes longer than the rest.
    assert config.training.frozen_groups() == ["timbre_encoder"]
    assert config.training.trackers() == []


@pytest.fixture
def demo(tmp_path: Path, songs: list[NDArray[np.float32]]) -> tuple[Path, Path]:
    """A finished demo of three training songs and one other; the second song was generated as the first."""
    folder, out = tmp_path / "songs", tmp_path / "out"
    folder.mkdir()
    generated = []
    for split, names in (("train", ("a", "b & c", "d")), ("eval", ("e",))):
        rows: list[dict[str, Any]] = []
        for number, name in enumerate(names):
            original = songs[number]
            rows.append({"fname": name, "caption": "c", "lyrics": "<b>l</b>", "audio_file_name": f"audio/{name}.wav"})
            write_sound(folder / f"audio/{name}.wav", original, SAMPLE_RATE)
            write_sound(out / "round_trip" / f"{name}_mix.wav", original, SAMPLE_RATE)
            # Generated songs are louder, in stereo.
            sung = songs[0] if name == "b & c" else original
            write_sound(out / "generated" / f"{name}_mix.wav", np.stack([2 * sung, 2 * sung], axis=1), SAMPLE_RATE)
            generated.append(GeneratedSong(name, split, False, 20, {"mix": f"{name}_mix.wav"}, ("mix",)))
        write_rows(folder / ("metadata.jsonl" if split == "train" else "metadata_eval.jsonl"), rows)
    write_generated(out / "generated", generated)
    return folder, out


def test_songs_are_compared_at_the_same_level(demo: tuple[Path, Path]) -> None:
    report = pytest.importorskip("report_flow")
    folder, out = demo
    louder, original = report.leveled_mel(out / "generated/a_mix.wav"), report.leveled_mel(folder / "audio/a.wav")
    assert mel_distance(louder, original) < 0.05
    figures = report.measure(folder, out)
    assert figures["nearest_to_own_original"] == pytest.approx(2 / 3)
    assert figures["num_songs"] == 3
    assert figures["autoencoder_difference"]["train"] == 0
    assert figures["difference_to_own_original"] < figures["difference_to_other_originals"]


def test_the_page_plays_originals_round_trips_and_generated_songs(demo: tuple[Path, Path]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (demo extra) is not installed")
    report = pytest.importorskip("report_flow")
    folder, out = demo
    (out / "figures.json").write_text(json.dumps(report.measure(folder, out)))
    steps, model = out / "steps", out / "flow_model"
    for new in (steps, model):
        new.mkdir()
    (steps / "order.json").write_text("[]")
    names = ("train/loss", "train/learning_rate")
    write_rows(model / "metrics.jsonl", [{"step": step, **dict.fromkeys(names, 1.0 / step)} for step in (5, 10)])
    report.write_flow_page(out, folder, model, steps)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 4 * 3 and page.count('class="value missed"') == 1
    assert "66.7 % of 3" in page and "<b>l</b>" not in page
    for path in re.findall(r'src="([^"]+)"', page):
        assert (out / path.replace("%20", " ").replace("%26", "&").replace("&amp;", "&")).is_file(), path
