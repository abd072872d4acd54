"""The demo's figures over made-up songs: what a perfect and a poor model would be given."""

from pathlib import Path

import numpy as np
import pytest
from demo_report.files import CODES_FILE, GeneratedSong, write_generated, write_sound
from demo_report.measures import demo_log_mel
from figures import Corpus, measure_mode
from safetensors.numpy import save_file

RATE = 16_000
NAMES = ("low", "middle", "high")
TRACKS = ("acc", "vocal")


def sound(name: str) -> np.ndarray:
    frequency = {"low": 200, "middle": 500, "high": 1500}[name]
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE).astype(np.float32)


@pytest.fixture
def corpus() -> Corpus:
    generator = np.random.default_rng(0)
    codes = {name: {track: generator.integers(0, 1024, (2, 10)).astype(np.int16) for track in TRACKS} for name in NAMES}
    spectrograms = {track: {name: demo_log_mel(sound(name), RATE) for name in NAMES} for track in ("mix", *TRACKS)}
    return Corpus(codes, {"train": list(NAMES), "eval": []}, spectrograms)


def generate(folder: Path, codes: dict[str, np.ndarray], sounds: dict[str, np.ndarray]) -> None:
    songs = []
    for name in NAMES:
        files = {track: f"{name}_{track}.wav" for track in (*TRACKS, "mix")}
        for file in files.values():
            write_sound(folder / file, sounds[name], RATE)
        songs.append(GeneratedSong(name, "train", True, codes[name].shape[-1], files, TRACKS))
    # a held-out song, of which no original is at hand, must not be counted
    songs.append(GeneratedSong("held out", "eval", False, 1, {}, TRACKS))
    save_file(codes, folder / CODES_FILE)
    write_generated(folder, songs)


def test_a_model_that_gives_everything_back_has_all_figures_at_one(corpus: Corpus, tmp_path: Path) -> None:
    codes = {name: np.stack([corpus.codes[name][track] for track in TRACKS]) for name in NAMES}
    generate(tmp_path, codes, {name: sound(name) for name in NAMES})
    figures = measure_mode(corpus, tmp_path)
    assert figures["num_songs"] == 3 and figures["tracks"] == list(TRACKS)
    assert figures["first_codebook_agreement"] == {"acc": 1.0, "vocal": 1.0, "mean": 1.0}
    assert figures["nearest_to_own_original"] == {"acc": 1.0, "vocal": 1.0, "mix": 1.0}


def test_missing_frames_and_swapped_songs_are_counted(corpus: Corpus, tmp_path: Path) -> None:
    codes = {name: np.stack([corpus.codes[name][track] for track in TRACKS]) for name in NAMES}
    codes["low"] = np.ascontiguousarray(codes["low"][:, :, :4])
    codes["high"][1, 0] += 1
    generate(tmp_path, codes, {"low": sound("middle"), "middle": sound("low"), "high": sound("high")})
    figures = measure_mode(corpus, tmp_path)
    assert figures["first_codebook_agreement"] == pytest.approx(
        {"acc": (0.4 + 1 + 1) / 3, "vocal": (0.4 + 1 + 0) / 3, "mean": (2.4 + 1.4) / 6}
    )
    assert figures["nearest_to_own_original"]["mix"] == pytest.approx(1 / 3)
