"""The demo's measures on signals and codes whose answer is known."""

import numpy as np
import pytest
from demo_report.measures import demo_log_mel, first_codebook_agreement, nearest_originals

from songgen.metrics.mel import mel_distance

RATE = 16_000


def tone(frequency: float, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def test_agreement_counts_only_the_first_codebook_and_missing_frames_as_wrong() -> None:
    original = np.array([[1, 2, 3, 4], [9, 9, 9, 9]])
    assert first_codebook_agreement(original, original) == 1.0
    assert first_codebook_agreement(np.array([[1, 2, 3, 4], [0, 0, 0, 0]]), original) == 1.0
    assert first_codebook_agreement(np.array([[1, 2], [9, 9]]), original) == 0.5
    assert first_codebook_agreement(np.array([[1, 0, 3, 4, 5, 6], [9] * 6]), original) == 0.75
    assert first_codebook_agreement(np.zeros((2, 0), dtype=np.int64), original) == 0.0


def test_log_mel_is_near_zero_nepers_for_full_scale_and_at_the_floor_for_silence() -> None:
    loud = demo_log_mel(tone(1000, amplitude=1.0), RATE)
    assert loud.shape == (51, 80)
    assert loud[25].max() == pytest.approx(0.0, abs=0.4)
    silent = demo_log_mel(np.zeros(RATE), RATE)
    assert np.allclose(silent, np.log(1e-3))
    # half the amplitude is ln 2 nepers less where there is sound
    half = demo_log_mel(tone(1000, amplitude=0.5), RATE)
    assert loud[25].max() - half[25].max() == pytest.approx(np.log(2), abs=0.01)


def test_mel_distance_is_symmetric_zero_on_itself_and_counts_what_is_missing() -> None:
    first, second = demo_log_mel(tone(300), RATE), demo_log_mel(tone(600), RATE)
    assert mel_distance(first, first) == 0.0
    assert mel_distance(first, second) == mel_distance(second, first) > 0
    assert mel_distance(first, first[:20]) > 0


def test_nearest_originals_finds_the_own_song_despite_noise_and_another_length() -> None:
    generator = np.random.default_rng(0)
    originals = [
        demo_log_mel(tone(frequency, seconds), RATE) for frequency, seconds in ((220, 1), (330, 1.2), (440, 0.8))
    ]
    generated = [
        demo_log_mel(tone(frequency, seconds) + 0.01 * generator.standard_normal(round(seconds * RATE)), RATE)
        for frequency, seconds in ((440, 0.9), (220, 1), (330, 1.1))
    ]
    assert nearest_originals(generated, originals) == [2, 0, 1]
