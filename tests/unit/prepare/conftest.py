"""Signals that the tests of the preparation share."""

import numpy as np
import pytest


@pytest.fixture
def noise() -> np.ndarray:
    """Two seconds of stereo noise at 16 kHz, channels x samples, each sample on a step of 16 bits."""
    samples = np.random.default_rng(7).uniform(-0.5, 0.5, size=(2, 32_000))
    return (np.rint(samples * 32768) / 32768).astype(np.float32)
