"""Signals and songs that the tests of the preparation share."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DEMO = Path(__file__).resolve().parents[3] / "helpers" / "demo"


@pytest.fixture
def noise() -> np.ndarray:
    """Two seconds of stereo noise at 16 kHz, channels x samples, each sample on a step of 16 bits."""
    samples = np.random.default_rng(7).uniform(-0.5, 0.5, size=(2, 32_000))
    return (np.rint(samples * 32768) / 32768).astype(np.float32)


@pytest.fixture(scope="session")
def demo_songs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Eight songs that are really sung, with all that is known of them.

    Each has the paths `audio`, `vocal` and `acc`, and the exact `words` (word, start, end), `tempo`, `key`, `duration`.
    """
    pytest.importorskip("parselmouth", reason="praat-parselmouth (demo extra) is not installed")
    pytest.importorskip("espeakng_loader", reason="espeakng-loader (demo extra) is not installed")
    sys.path.insert(0, str(DEMO))
    from build_songs import build_songs

    out = tmp_path_factory.mktemp("demo") / "songs"
    assert build_songs(out, num_songs=8, seed=0)
    songs = [json.loads(line) for line in (out / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
    for song in songs:
        song.update({track: out / track / f"{song['fname']}.wav" for track in ("audio", "vocal", "acc")})
    return songs
