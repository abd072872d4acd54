"""Attention in plain operations, against the fused kernel."""

import pytest
import torch
from torch.nn import functional as F

from songgen.models.attention import QUERY_BLOCK, Attention, eager_attention
from songgen.models.configuration_songgen import DecoderConfig

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def inputs(queries: int, keys: int, dtype: torch.dtype, key_value_heads: int = 4) -> tuple[torch.Tensor, ...]:
    """Random query, key and value: two songs, four heads, 16 wide."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 4, queries, 16), (2, key_value_heads, keys, 16), (2, key_value_heads, keys, 16))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference as a share of the norm."""
    return float((one.float() - other.float()).norm() / other.float().norm())


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("key_value_heads", [4, 2])
@pytest.mark.parametrize("queries", [1, QUERY_BLOCK, 2 * QUERY_BLOCK + 3])
@pytest.mark.parametrize("kind", ["causal", "all", "lengths", "square"])
def test_blocks_are_what_the_fused_kernel_computes(
    dtype: torch.dtype, key_value_heads: int, queries: int, kind: str
) -> None:
    keys = queries if kind in ("causal", "square") else 70
    mask = None
    if kind == "lengths":
        mask = (torch.arange(keys) < torch.tensor([keys, 30])[:, None])[:, None, None]
    if kind == "square":
        mask = torch.ones(queries, queries, dtype=torch.bool).tril().expand(2, 1, -1, -1)
    given = inputs(queries, keys, dtype, key_value_heads)
    options = {"attn_mask": mask, "dropout_p": 0.0, "is_causal": kind == "causal", "enable_gqa": key_value_heads != 4}
    expected = F.scaled_dot_product_attention(*(part.float() for part in given), **options)  # type: ignore[arg-type]
    mixed = eager_attention(*given, **options)  # type: ignore[arg-type]
    assert mixed.dtype == dtype
    assert distance(mixed, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_queries_that_see_nothing_give_finite_numbers(dtype: torch.dtype) -> None:
    """They are padding in front of lyrics: nobody reads them, but what is not a number would spread."""
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    mixed = eager_attention(
        *inputs(5, 5, dtype), attn_mask=mask, dropout_p=0.0, is_causal=False, enable_gqa=False
    )  # fmt: skip
    assert mixed.isfinite().all()


def test_training_in_bfloat16_on_a_cpu_has_the_gradients_of_float32() -> None:
    """There the plain operations are used, under autocast."""
    torch.manual_seed(5)
    config = DecoderConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=1, ffn_dim=64)
    attention = Attention(config, num_key_value_heads=2)
    states = torch.randn(2, 300, 64)

    def gradients(enabled: bool) -> list[torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            mixed = attention.attend(states, *attention.keys_values(states, None), None, causal=True)
        return list(torch.autograd.grad(mixed.float().square().sum(), list(attention.parameters())))

    for exact, rounded in zip(gradients(False), gradients(True), strict=True):
        assert distance(rounded, exact) < 2e-2
