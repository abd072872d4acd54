"""Weights of the codebooks over a run."""

import pytest
import torch

from songgen.families.tokens.codebook_weights import CodebookWeights, codebook_start_weights


def test_start_weights_are_the_published_ones_and_sum_to_one_for_any_codec() -> None:
    assert codebook_start_weights(8) == pytest.approx((0.25,) * 3 + (0.05,) * 5)
    for num_codebooks in range(1, 33):
        assert sum(codebook_start_weights(num_codebooks)) == pytest.approx(1.0)


def test_codebook_weights_move_to_equal_ones_in_the_published_steps() -> None:
    weights = CodebookWeights.build(8, weighted=True, start=None, end=None)
    start, uniform = torch.tensor(codebook_start_weights(8)), torch.full((8,), 1 / 8)
    for step, blend in ((0, 0.0), (29, 0.0), (30, 0.3), (59, 0.3), (60, 0.6), (80, 0.8), (99, 0.8)):
        torch.testing.assert_close(weights(step / 100), (1 - blend) * start + blend * uniform)


def test_unweighted_codebooks_are_equal_throughout() -> None:
    weights = CodebookWeights.build(4, weighted=False, start=None, end=None)
    for step in (0, 50, 99):
        torch.testing.assert_close(weights(step / 100), torch.full((4,), 0.25))


def test_given_tables_are_normalized_and_checked() -> None:
    weights = CodebookWeights.build(2, weighted=True, start=[3, 1], end=None)
    torch.testing.assert_close(weights(0.0), torch.tensor([0.75, 0.25]))
    with pytest.raises(ValueError, match="codebook_weights_end has 3 weights, the codec 2"):
        CodebookWeights.build(2, weighted=True, start=None, end=[1, 1, 1])
