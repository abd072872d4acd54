"""Random numbers as a pure function of their position: (seed, purpose, epoch, index).

There is no state, so that a number does not depend on the worker or process that computes it or on earlier numbers. A
resumed run therefore gets the same random numbers as an uninterrupted one.
"""

import numpy as np
from numpy.typing import NDArray

ORDER_STREAM, BATCH_STREAM, SAMPLE_STREAM, BALANCE_STREAM, TEXT_STREAM, TARGET_STREAM = 1, 2, 3, 4, 5, 6
"""Purposes of random numbers, each with a stream of its own."""

_WORD = 2**64
_MANTISSA_SHIFT = 11
_MANTISSA_STEP = 2.0**-53


def random_bits(seed: int, stream: int, epoch: int, index: int, count: int) -> NDArray[np.uint64]:
    """Return `count` random 64-bit words from the counter-based generator Philox.

    The raw words are used because numpy keeps them stable between versions, which it does not promise for its
    distributions. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    # Philox maps a key and a 256-bit counter to 256 random bits. The two low words of the counter count the words of
    # this call, so that calls with other (index, epoch) never overlap.
    key = np.array([seed % _WORD, stream], dtype=np.uint64)
    counter = np.array([0, 0, index, epoch], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(count), dtype=np.uint64)


def random_uniforms(seed: int, stream: int, epoch: int, index: int, count: int) -> NDArray[np.float64]:
    """Return `count` float64 numbers, uniform in [0, 1)."""
    # A float64 has 53 bits of precision: the upper 53 of 64 bits, times 2**-53.
    bits = random_bits(seed, stream, epoch, index, count) >> np.uint64(_MANTISSA_SHIFT)
    return bits.astype(np.float64) * _MANTISSA_STEP


def random_permutation(seed: int, stream: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return a random permutation of `range(count)`."""
    return permutation_of(random_bits(seed, stream, epoch, 0, count))


def permutation_of(bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the permutation of `range(len(bits))` that random words give."""
    return np.argsort(bits, kind="stable")
