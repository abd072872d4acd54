"""The lyrics encoder: pre-norm transformer blocks with relative positions (Transformer-XL form, Dai et al. 2019).

Shapes: B batch, L lyrics length, D width, A attention heads. Module names are those of the published weights.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from songgen.models.configuration_songgen import LyricsEncoderConfig

_LAYER_NORM_EPS = 1e-5
_POSITION_BASE = 10000.0


def relative_position_table(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return (2L - 1) x D sinusoids (sine on even, cosine on odd channels) of the positions L-1 .. -(L-1)."""
    position = torch.arange(length - 1, -length, -1, device=device, dtype=torch.float32)[:, None]
    channel = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angle = position * torch.exp(channel * (-math.log(_POSITION_BASE) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(dtype)


class RelativeSelfAttention(nn.Module):
    """Full self-attention whose scores include a term for the distance between query and key."""

    def __init__(self, config: LyricsEncoderConfig) -> None:
        """Create the projections and the two learned biases (A x head width)."""
        super().__init__()
        width = config.output_size
        self.num_heads = config.attention_heads
        self.head_width = width // config.attention_heads
        self.dropout = config.dropout
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(self.num_heads, self.head_width))
        self.pos_bias_v = nn.Parameter(torch.zeros(self.num_heads, self.head_width))

    def _split(self, states: Tensor) -> Tensor:
        """B x L x D -> B x A x L x head width."""
        return states.unflatten(-1, (self.num_heads, self.head_width)).transpose(1, 2)

    def forward(self, states: Tensor, table: Tensor, attended: Tensor) -> Tensor:
        """Attend.

        Args:
            states: B x L x D.
            table: (2L - 1) x D, from `relative_position_table`.
            attended: B x 1 x 1 x L bool, False on padding.
        """
        length = states.shape[1]
        query, key, value = (self._split(proj(states)) for proj in (self.linear_q, self.linear_k, self.linear_v))
        distance = self._split(self.linear_pos(table)[None])
        by_distance = (query + self.pos_bias_v[:, None]) @ distance.transpose(-1, -2)
        # Row i, column j must read the table where its position is i - j, which is entry (L - 1) - i + j.
        index = torch.arange(length, device=states.device)
        index = (length - 1 - index[:, None] + index).expand(*by_distance.shape[:2], -1, -1)
        bias = by_distance.gather(-1, index) / math.sqrt(self.head_width)
        bias = bias.masked_fill(~attended, torch.finfo(bias.dtype).min)
        mixed = F.scaled_dot_product_attention(
            query + self.pos_bias_u[:, None],
            key,
            value,
            attn_mask=bias.to(query.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.linear_out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, config: LyricsEncoderConfig) -> None:
        """Create both layers."""
        super().__init__()
        self.w_1 = nn.Linear(config.output_size, config.linear_units)
        self.w_2 = nn.Linear(config.linear_units, config.output_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """B x L x D -> B x L x D."""
        return self.w_2(self.dropout(F.silu(self.w_1(states))))


class LyricsEncoderBlock(nn.Module):
    """Self-attention and feed-forward, each after a layer norm and added to its input."""

    def __init__(self, config: LyricsEncoderConfig) -> None:
        """Create the sub-layers."""
        super().__init__()
        self.self_attn = RelativeSelfAttention(config)
        self.feed_forward = FeedForward(config)
        self.norm_mha = nn.LayerNorm(config.output_size, eps=_LAYER_NORM_EPS)
        self.norm_ff = nn.LayerNorm(config.output_size, eps=_LAYER_NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, table: Tensor, attended: Tensor) -> Tensor:
        """B x L x D -> B x L x D."""
        states = states + self.dropout(self.self_attn(self.norm_mha(states), table, attended))
        return states + self.dropout(self.feed_forward(self.norm_ff(states)))


class LyricsInput(nn.Module):
    """Projects embeddings to the encoder's width; published under `embed.out`."""

    def __init__(self, input_size: int, config: LyricsEncoderConfig) -> None:
        """Create linear layer, norm and dropout."""
        super().__init__()
        self.scale = math.sqrt(config.output_size)
        self.out = nn.Sequential(
            nn.Linear(input_size, config.output_size),
            nn.LayerNorm(config.output_size, eps=_LAYER_NORM_EPS),
            nn.Dropout(config.dropout),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """B x L x input size -> B x L x D."""
        return self.out(embeddings) * self.scale


class LyricsEncoder(nn.Module):
    """Encodes lyric embeddings with full (not causal) attention."""

    def __init__(self, input_size: int, config: LyricsEncoderConfig) -> None:
        """Create input layer, blocks and final norm."""
        super().__init__()
        self.embed = LyricsInput(input_size, config)
        self.encoders = nn.ModuleList(LyricsEncoderBlock(config) for _ in range(config.num_blocks))
        self.after_norm = nn.LayerNorm(config.output_size, eps=_LAYER_NORM_EPS)

    def forward(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Encode.

        Args:
            embeddings: B x L x input size.
            mask: B x L, nonzero on real tokens.

        Returns:
            B x L x D; rows on padding are meaningless.
        """
        states = self.embed(embeddings)
        table = relative_position_table(states.shape[1], states.shape[2], states.device, states.dtype)
        attended = mask.bool()[:, None, None, :]
        for block in self.encoders:
            states = block(states, table, attended)
        return self.after_norm(states)
