"""Attention of the decoder: its projections, and attention in plain operations next to the fused kernel.

Shapes: B batch, A heads, A' key-value heads, S queries, M keys and values, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from songgen.models.configuration_songgen import DecoderConfig

QUERY_BLOCK = 256
"""Queries computed at once: few enough that causal attention skips most of the keys that come later."""


def rotate(states: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rotate B x A x S x width by the angles of its steps (None: no rotary positions)."""
    if angles is None:
        return states
    cosine, sine = (part.to(states.dtype) for part in angles)
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine


class Attention(nn.Module):
    """Multi-head attention with possibly fewer key-value heads, without biases."""

    def __init__(self, config: DecoderConfig, num_key_value_heads: int) -> None:
        """Create the four projections."""
        super().__init__()
        self.head_width = config.hidden_size // config.num_attention_heads
        self.grouped = num_key_value_heads != config.num_attention_heads
        self.dropout = config.attention_dropout
        self.eager = False
        key_value_width = num_key_value_heads * self.head_width
        self.k_proj = nn.Linear(config.hidden_size, key_value_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_value_width, bias=False)
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def split(self, states: Tensor) -> Tensor:
        """B x S x (A * width) -> B x A x S x width."""
        return states.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def keys_values(self, states: Tensor, angles: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Project B x S x D to rotated keys and values, each B x A' x S x width."""
        return rotate(self.split(self.k_proj(states)), angles), self.split(self.v_proj(states))

    def attend(
        self,
        states: Tensor,
        keys: Tensor,
        values: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attend from B x S x D to keys and values; `mask` broadcasts to B x A x S x M, True where visible."""
        query = rotate(self.split(self.q_proj(states)), angles)
        # PyTorch's fused kernel for CPUs is slow with bfloat16, especially in its backward pass.
        spelled_out = self.eager or (values.device.type == "cpu" and values.dtype == torch.bfloat16)
        kernel: Callable[..., Tensor] = eager_attention if spelled_out else F.scaled_dot_product_attention
        mixed = kernel(
            query,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            enable_gqa=self.grouped,
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def eager_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    enable_gqa: bool,
) -> Tensor:
    """Compute attention in plain operations, one block of queries after the other, in the precision of the values.

    Args:
        query: B x A x S x width.
        key: B x A' x M x width.
        value: B x A' x M x width.
        attn_mask: broadcasts to B x A x S x M, True where visible; None: everything is.
        dropout_p: share of the weights to drop.
        is_causal: a query sees the keys up to its own position (S = M, no mask).
        enable_gqa: A' differs from A.

    Returns:
        B x A x S x width.
    """
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    query = (query / math.sqrt(query.shape[-1])).to(value.dtype)
    transposed = key.to(value.dtype).transpose(-1, -2)
    num_queries, num_keys = query.shape[2], key.shape[2]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*attn_mask.shape[:2], num_queries, num_keys)
    mixed = []
    # Everything stays in the precision of the values: autocast would compute the softmax in float32.
    with torch.autocast(query.device.type, enabled=False):
        for start in range(0, num_queries, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, num_queries)
            visible = None if attn_mask is None else attn_mask[:, :, start:stop]
            if is_causal:
                num_keys = stop  # no query of this block sees later keys, so they are not multiplied
                visible = torch.ones(stop - start, stop, dtype=torch.bool, device=query.device).tril(start)
            scores = query[:, :, start:stop] @ transposed[..., :num_keys]
            if visible is not None:
                scores = scores + _low_where_hidden(visible, scores.dtype)
            mixed.append(F.dropout(scores.softmax(-1), dropout_p) @ value[:, :, :num_keys])
    return torch.cat(mixed, dim=2)


def _low_where_hidden(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a key is visible, else a number low enough to vanish in the softmax but too high to overflow."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min / 2)
