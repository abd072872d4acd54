"""Figures that reveal a wrong recording."""

import numpy as np
import pytest

from songgen.data.sound.levels import ChannelSums, flaws, is_loud_enough

RATE = 16000
TIMES = np.arange(4 * RATE) / RATE
TONE = (0.2 * np.sin(2 * np.pi * 220 * TIMES)).astype(np.float32)
NOISE = np.random.default_rng(0).standard_normal(len(TIMES)).astype(np.float32)


def flaws_of(*channels: np.ndarray) -> set[str]:
    samples = np.stack(channels, axis=1)
    sums = ChannelSums(len(channels))
    for start in range(0, len(samples), 1000):
        sums.add(samples[start : start + 1000])
    return set(flaws(sums.signal(samples.mean(axis=1), RATE)))


def test_recordings_without_a_flaw() -> None:
    wide = 0.1 * np.roll(NOISE, 5000) * (1 + np.sin(TIMES * 9))
    assert flaws_of(TONE) == flaws_of(TONE, TONE) == flaws_of(TONE + wide, TONE - wide) == set()
    assert flaws_of(0.1 * NOISE * (1 + np.sin(TIMES * 9))) == set(), "drums are noise of changing level"


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("dc_offset", (TONE + 0.05,)),
        ("dead_channel", (TONE, 0 * TONE)),
        ("cancelling_channels", (TONE, -0.9 * TONE)),
        ("steady_noise", (0.1 * NOISE,)),
        ("steady_noise", (0.1 * np.convolve(NOISE, np.ones(3) / 3, mode="same"),)),
    ],
)
def test_flaws(name: str, channels: tuple[np.ndarray, ...]) -> None:
    assert flaws_of(*channels) == {name}


def test_one_rule_for_the_energy_of_voices() -> None:
    assert [is_loud_enough(value) for value in (None, 199.9, 200.0)] == [False, False, True]
    assert is_loud_enough(100.0, 100.0)
