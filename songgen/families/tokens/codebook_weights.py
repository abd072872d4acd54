"""Weights of the codebooks in the loss over a run: coarse codebooks have more weight at the start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from songgen.models.loss import codebook_weights

PUBLISHED_COARSE_CODEBOOKS = 3 / 8
"""Share of codebooks with the highest weight at the start of the published training."""
PUBLISHED_COARSE_SHARE = 0.75
"""Total weight of these codebooks."""


def codebook_start_weights(num_codebooks: int) -> tuple[float, ...]:
    """Return the published weights at the start of training, generalized to any number of codebooks.

    Returns:
        K weights with sum 1: the coarse codebooks (three of eight, rounded up) share three quarters, the others the
        rest. For eight codebooks these are the published weights, 3 x 0.25 and 5 x 0.05.
    """
    num_coarse = math.ceil(num_codebooks * PUBLISHED_COARSE_CODEBOOKS)
    num_fine = num_codebooks - num_coarse
    coarse_share = PUBLISHED_COARSE_SHARE if num_fine else 1.0
    return (coarse_share / num_coarse,) * num_coarse + tuple((1.0 - coarse_share) / num_fine for _ in range(num_fine))


@dataclass(frozen=True)
class CodebookWeights:
    """Weight of each codebook in the loss over the progress of a run: from one table towards another."""

    start: tuple[float, ...]
    """K weights at the start of the run."""
    end: tuple[float, ...]
    """K weights that are approached towards the end of the run."""

    @classmethod
    def build(
        cls, num_codebooks: int, *, weighted: bool, start: Sequence[float] | None, end: Sequence[float] | None
    ) -> CodebookWeights:
        """Build the weights, with the published ones as defaults.

        Args:
            num_codebooks: number of codebooks, K.
            weighted: False for equal weights throughout.
            start: K weights (None: as published); scaled to sum 1.
            end: K weights (None: equal); scaled to sum 1.

        Raises:
            ValueError: if the number of weights is not K.
        """
        equal = (1.0 / num_codebooks,) * num_codebooks
        if not weighted:
            return cls(equal, equal)
        for name, table in (("codebook_weights_start", start), ("codebook_weights_end", end)):
            if table is not None and len(table) != num_codebooks:
                raise ValueError(f"{name} has {len(table)} weights, the codec {num_codebooks} codebooks: give one each")
        first = codebook_start_weights(num_codebooks) if start is None else tuple(entry / sum(start) for entry in start)
        return cls(first, equal if end is None else tuple(entry / sum(end) for entry in end))

    def __call__(self, progress: float) -> Tensor:
        """Return the weights at a share of the run (0 to 1): float32 K, with sum 1."""
        return codebook_weights(progress, self.start, self.end)
