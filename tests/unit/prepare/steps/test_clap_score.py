"""CLAP scores: plumbing with tiny random networks; a clip's score depends on nothing but the clip and its caption."""

from pathlib import Path

import numpy as np
import pytest
from tiny_clap import save_tiny_clap

from songgen.prepare.engine.audio_files import write_audio
from songgen.prepare.engine.record import SongRecord
from songgen.prepare.engine.step import WorkFolder
from songgen.prepare.listening.clap import ClapScorer, windows_of
from songgen.prepare.steps.clap_score import ScoreOptions, ScoreStep

RATE = 48_000
CAPTIONS = ["calm folk", "angry rock at 140 bpm, with a deep voice and a loud guitar", "jazz"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_clap(tmp_path_factory.mktemp("clap")))


def sound(seconds: float, seed: int) -> np.ndarray:
    """A tone in noise."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.05 * (1 + seed), size=len(times))
    return (0.3 * np.sin(2 * np.pi * 220 * (1 + seed) * times) + noise).astype(np.float32)


@pytest.mark.parametrize("enable_fusion", [False, True])
def test_a_clip_scores_alike_alone_in_a_batch_and_twice(tmp_path: Path, enable_fusion: bool) -> None:
    folder = str(save_tiny_clap(tmp_path, enable_fusion=enable_fusion))
    clips = [sound(seconds, seed) for seed, seconds in enumerate((2.0, 14.0, 10.0))]
    scorer = ClapScorer(folder, device="cpu", batch_size=3)
    together = scorer.score(clips, CAPTIONS)
    assert scorer.score(clips, CAPTIONS) == together
    alone = [scorer.score([clip], [caption])[0] for clip, caption in zip(clips, CAPTIONS, strict=True)]
    assert alone == pytest.approx(together, abs=1e-4)
    assert len({round(score, 3) for score in together}) == 3 and all(-1 <= score <= 1 for score in together)


def test_windows_of_a_long_clip_are_averaged(model: str) -> None:
    scorer = ClapScorer(model, device="cpu")
    first, second = sound(10.0, 0), sound(10.0, 3)
    one, other, both = scorer.score([first, second, np.concatenate([first, second])], ["calm folk"] * 3)
    assert both == pytest.approx((one + other) / 2, abs=1e-5) and one != pytest.approx(other, abs=1e-3)


def test_windows_cover_a_clip_and_the_last_ends_with_it() -> None:
    samples = np.arange(25)
    assert [(window[0], window[-1]) for window in windows_of(samples, 10)] == [(0, 9), (10, 19), (15, 24)]
    assert [len(window) for window in windows_of(samples[:10], 10)] == [10]
    assert [len(window) for window in windows_of(samples[:3], 10)] == [3]


def test_a_caption_longer_than_the_network_reads_is_cut(model: str) -> None:
    scorer = ClapScorer(model, device="cpu")
    clip = sound(1.0, 0)
    assert scorer.score([clip], ["x" * 500]) == scorer.score([clip], ["x" * 400])


def test_the_step_scores_clips_with_captions_and_refuses_damaged_files(tmp_path: Path, model: str) -> None:
    write_audio(tmp_path / "good.wav", sound(1.5, 0), RATE)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    good, bad = (
        SongRecord(id=name, song=name, file="f", line=1, audio={"mix": f"{name}.wav"}, caption="calm folk")
        for name in ("good", "bad")
    )
    step = ScoreStep(ScoreOptions(model=model, device="cpu"))
    assert step.is_needed(good) and not step.is_needed(good.changed({"caption": " "}))
    step.start()
    refused, scored = step.run([bad, good], WorkFolder(tmp_path))
    assert refused.refusal is not None and refused.refusal.code == "unreadable_audio"
    assert -1 <= scored.changes["measures"]["clap_score"] <= 1


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the CLAP model.*safetensors"):
        ClapScorer(str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ScoreOptions(batch_size=0)
