"""The autoregressive decoder: one embedding and one head per stream, causal self-attention, cross-attention.

Shapes: B batch, H heads (streams), S steps, D width, A attention heads, V vocabulary, M memory length, P prefix length.
Module names are those of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from songgen.models.attention import Attention
from songgen.models.configuration_songgen import DecoderConfig
from songgen.models.streams import Heads, StreamEmbeddings

_POSITION_BASE = 10000.0
_TABLE_TOLERANCE = 1e-2
"""Largest difference at which a stored table counts as the sinusoids (half precision included)."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


@dataclass
class Conditions:
    """Conditions of the decoder, computed once per batch or song."""

    memory: Tensor
    """B x M x D, attended by cross-attention: voice, caption, lyrics."""

    memory_mask: Tensor
    """B x M bool, False on padding and on a missing voice."""

    prefix: Tensor | None = None
    """B x P x D lyrics before the decoder's sequence (models without lyrics in the memory)."""

    prefix_mask: Tensor | None = None
    """B x P bool, False on padding."""

    def select(self, index: Tensor) -> Conditions:
        """Return the conditions of some batch rows (repeats allowed)."""
        optional = (part if part is None else part[index] for part in (self.prefix, self.prefix_mask))
        return Conditions(self.memory[index], self.memory_mask[index], *optional)


@dataclass
class DecoderCache:
    """Keys and values of all layers: those of self-attention grow with each step, those of cross-attention do not."""

    self_keys: list[Tensor]
    """Per layer B x A' x (P + max steps) x head width, preallocated."""

    self_values: list[Tensor]
    """The same for values."""

    cross_keys: list[Tensor]
    """Per layer B x A' x M x head width."""

    cross_values: list[Tensor]
    """The same for values."""

    memory_mask: Tensor
    """B x 1 x 1 x M bool."""

    prefix_mask: Tensor | None
    """B x P bool, or None without a prefix."""

    embed: Callable[[Tensor], Tensor]
    """B x H x S ids -> B x S x D: the embeddings of all streams, joined once."""

    logits: Callable[[Tensor], Tensor] | None = None
    """B x D -> B x H x V: all heads, joined once."""

    length: int = 0
    """Positions filled so far, prefix included."""

    def visible(self, end: int) -> Tensor | None:
        """Return the self-attention mask (B x 1 x 1 x end) of the newest position, None where all is visible.

        A position sees itself even if it is padding, as in the pass over a whole sequence.
        """
        if self.prefix_mask is None:
            return None
        before = F.pad(self.prefix_mask, (0, end - 1 - self.prefix_mask.shape[1]), value=True)
        return F.pad(before, (0, 1), value=True)[:, None, None]


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return len(positions) x width sinusoidal embeddings: cosine half first, divisor half - 1 (as published)."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=positions.device) * (-math.log(_POSITION_BASE) / (half - 1)))
    angle = positions.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class PositionTable(nn.Module):
    """Sinusoidal positions computed on demand, or a stored table (`weights`) where a model holds another one."""

    weights: Tensor | None

    def __init__(self, width: int) -> None:
        """Start without a stored table."""
        super().__init__()
        self.width = width
        self.register_buffer("weights", None)

    def adopt(self, table: Tensor) -> None:
        """Use a stored table (positions x width) unless it holds the sinusoids that would be computed anyway."""
        computed = sinusoids(torch.arange(len(table), device=table.device), self.width)
        if not torch.allclose(table.float(), computed, atol=_TABLE_TOLERANCE):
            self.weights = table

    def forward(self, start: int, length: int, device: torch.device) -> Tensor:
        """Return the rows (length x width) of the positions from `start` on."""
        if self.weights is None:
            return sinusoids(torch.arange(start, start + length, device=device), self.width)
        if start + length > len(self.weights):
            raise ValueError(
                f"position {start + length} exceeds the {len(self.weights)} stored positions of this model: "
                "use shorter clips or a smaller max_length"
            )
        return self.weights[start : start + length]


def rotary_angles(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each len(positions) x width, of rotary positions (Su et al. 2021)."""
    frequency = base ** (-torch.arange(0, width, 2, device=positions.device).float() / width)
    angle = positions.float()[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention and feed-forward."""

    def __init__(self, config: DecoderConfig) -> None:
        """Create the sub-layers and their norms."""
        super().__init__()
        self.self_attn = Attention(config, config.key_value_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        self.encoder_attn = Attention(config, config.cross_key_value_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        self.fc1 = nn.Linear(config.hidden_size, config.ffn_dim, bias=False)
        self.fc2 = nn.Linear(config.ffn_dim, config.hidden_size, bias=False)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)
        self.activation: Callable[[Tensor], Tensor] = _ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(
        self,
        states: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        memory: Tensor,
        memory_mask: Tensor,
    ) -> Tensor:
        """Transform a whole sequence (B x S x D); `mask` None means plainly causal."""
        normed = self.self_attn_layer_norm(states)
        keys, values = self.self_attn.keys_values(normed, angles)
        mixed = self.self_attn.attend(normed, keys, values, angles, mask=mask, causal=mask is None)
        return self._finish(states + self.dropout(mixed), angles, self.cross_keys_values(memory), memory_mask)

    def cross_keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory (B x M x D), never rotated.

        Called inside the layer's `forward`, since sharded training gathers a layer's weights only there.
        """
        return self.encoder_attn.keys_values(memory, None)

    def step(
        self, states: Tensor, angles: tuple[Tensor, Tensor] | None, cache: DecoderCache, layer: int, start: int
    ) -> Tensor:
        """Transform one new position (B x 1 x D) and append its keys and values to the cache."""
        end = start + 1
        normed = self.self_attn_layer_norm(states)
        keys, values = self.self_attn.keys_values(normed, angles)
        cache.self_keys[layer][:, :, start:end] = keys
        cache.self_values[layer][:, :, start:end] = values
        seen_keys, seen_values = cache.self_keys[layer][:, :, :end], cache.self_values[layer][:, :, :end]
        mixed = self.self_attn.attend(normed, seen_keys, seen_values, angles, mask=cache.visible(end))
        cross = cache.cross_keys[layer], cache.cross_values[layer]
        return self._finish(states + mixed, angles, cross, cache.memory_mask)

    def _finish(
        self,
        states: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        cross: tuple[Tensor, Tensor],
        memory_mask: Tensor,
    ) -> Tensor:
        """Cross-attention (queries rotated, keys not) and feed-forward."""
        normed = self.encoder_attn_layer_norm(states)
        states = states + self.dropout(self.encoder_attn.attend(normed, *cross, angles, mask=memory_mask))
        hidden = self.activation_dropout(self.activation(self.fc1(self.final_layer_norm(states))))
        return states + self.dropout(self.fc2(hidden))


class Decoder(nn.Module):
    """Embeddings, layers and final norm."""

    def __init__(self, config: DecoderConfig, num_heads: int) -> None:
        """Create H embeddings and all layers."""
        super().__init__()
        self.config = config
        self.embed_tokens = StreamEmbeddings(
            nn.Embedding(config.vocab_size, config.hidden_size) for _ in range(num_heads)
        )
        self.embed_positions = PositionTable(config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        # The published parallel layouts divide by the number of tracks that are summed into one embedding.
        self.input_scale = config.num_codebooks / num_heads
        if config.scale_embedding:
            self.input_scale *= math.sqrt(config.hidden_size)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Sum the embeddings of all streams: B x H x S -> B x S x D."""
        return self._scaled(self.embed_tokens(input_ids))

    def _scaled(self, summed: Tensor) -> Tensor:
        """Apply `input_scale` to summed embeddings (B x S x D)."""
        return summed * self.input_scale if self.input_scale != 1 else summed

    def _positions(self, states: Tensor, start: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Add sinusoidal positions to states (B x S x D), or return the rotary angles that attention applies."""
        length = states.shape[1]
        if self.config.rope_embeddings:
            positions = torch.arange(start, start + length, device=states.device)
            head_width = self.config.hidden_size // self.config.num_attention_heads
            return states, rotary_angles(positions, head_width, self.config.rope_theta)
        return states + self.embed_positions(start, length, states.device).to(states.dtype), None

    @property
    def blocks(self) -> list[DecoderLayer]:
        """The layers, typed."""
        return cast("list[DecoderLayer]", list(self.layers))

    def forward(self, input_ids: Tensor, conditions: Conditions) -> Tensor:
        """Read a whole sequence (B x H x S); return B x S x D without the prefix."""
        states, prefix_length = self.embed(input_ids), 0
        mask = None
        if conditions.prefix is not None:
            assert conditions.prefix_mask is not None
            prefix_length = conditions.prefix.shape[1]
            states = torch.cat([conditions.prefix.to(states.dtype), states], dim=1)
            mask = _causal_mask_with_prefix(conditions.prefix_mask, states.shape[1])
        states, angles = self._positions(states, 0)
        states = self.dropout(states)
        memory, memory_mask = conditions.memory, conditions.memory_mask[:, None, None]
        for layer in self.blocks:
            if self.gradient_checkpointing and self.training:
                states = checkpoint(layer, states, angles, mask, memory, memory_mask, use_reentrant=False)
            else:
                states = layer(states, angles, mask, memory, memory_mask)
        return self.layer_norm(states[:, prefix_length:])

    def new_cache(self, conditions: Conditions, max_steps: int) -> DecoderCache:
        """Allocate a cache for `max_steps` steps after the prefix, and read the prefix into it."""
        batch, memory = conditions.memory.shape[0], conditions.memory
        prefix_length = 0 if conditions.prefix is None else conditions.prefix.shape[1]
        head_width = self.config.hidden_size // self.config.num_attention_heads
        shape = (batch, self.config.key_value_heads, prefix_length + max_steps, head_width)
        cross = [layer.cross_keys_values(memory) for layer in self.blocks]
        dtype = cross[0][0].dtype
        cache = DecoderCache(
            self_keys=[memory.new_empty(shape, dtype=dtype) for _ in self.layers],
            self_values=[memory.new_empty(shape, dtype=dtype) for _ in self.layers],
            cross_keys=[keys for keys, _ in cross],
            cross_values=[values for _, values in cross],
            memory_mask=conditions.memory_mask[:, None, None],
            prefix_mask=conditions.prefix_mask,
            embed=self.embed_tokens.joined(),
        )
        if conditions.prefix is not None:
            # One position at a time, as in later steps, so that the same code masks the padding.
            for position in range(prefix_length):
                self._advance(conditions.prefix[:, position : position + 1], cache)
        return cache

    def step(self, input_ids: Tensor, cache: DecoderCache) -> Tensor:
        """Read one step (B x H x 1) after those in the cache; return B x D."""
        return self._advance(self._scaled(cache.embed(input_ids)), cache)

    def _advance(self, states: Tensor, cache: DecoderCache) -> Tensor:
        """Push one embedded position (B x 1 x D) through all layers."""
        start = cache.length
        states, angles = self._positions(states, start)
        for index, layer in enumerate(self.blocks):
            states = layer.step(states, angles, cache, index, start)
        cache.length = start + 1
        return self.layer_norm(states[:, 0])


def _causal_mask_with_prefix(prefix_mask: Tensor, length: int) -> Tensor:
    """Return a mask B x 1 x length x length: causal, with the prefix's padding hidden."""
    visible = F.pad(prefix_mask, (0, length - prefix_mask.shape[1]), value=True)
    causal = torch.ones(length, length, dtype=torch.bool, device=prefix_mask.device).tril()
    # A row without any visible key would be NaN: a padded position sees itself, and its output is never read.
    itself = torch.eye(length, dtype=torch.bool, device=prefix_mask.device)
    return ((causal & visible[:, None]) | itself)[:, None]


class DecoderModel(nn.Module):
    """Holds the decoder under its published name (`decoder.model.decoder`)."""

    def __init__(self, config: DecoderConfig, num_heads: int) -> None:
        """Create the decoder."""
        super().__init__()
        self.decoder = Decoder(config, num_heads)


class SongGenDecoder(nn.Module):
    """The decoder and its heads: one linear layer without bias for each stream, and the auxiliary vocal heads."""

    def __init__(self, config: DecoderConfig, num_heads: int, *, vocal_heads: bool) -> None:
        """Create decoder and heads."""
        super().__init__()
        self.model = DecoderModel(config, num_heads)
        self.lm_heads = _heads(config, num_heads)
        if vocal_heads:
            self.vocal_lm_heads = _heads(config, num_heads)

    def forward(self, input_ids: Tensor, conditions: Conditions) -> Tensor:
        """B x H x S -> B x S x D."""
        return self.model.decoder(input_ids, conditions)

    def logits(self, states: Tensor) -> Tensor:
        """B x S x D -> B x H x S x V."""
        return self.lm_heads(states)

    def new_cache(self, conditions: Conditions, max_steps: int) -> DecoderCache:
        """Allocate a cache for `max_steps` steps of generation."""
        cache = self.model.decoder.new_cache(conditions, max_steps)
        cache.logits = self.lm_heads.joined()
        return cache

    def step(self, input_ids: Tensor, cache: DecoderCache) -> Tensor:
        """Read one step (B x H x 1) and return the logits of the next (B x H x V)."""
        assert cache.logits is not None, "a cache of `SongGenDecoder.new_cache`"
        return cache.logits(self.model.decoder.step(input_ids, cache))


def _heads(config: DecoderConfig, num_heads: int) -> Heads:
    return Heads(nn.Linear(config.hidden_size, config.vocab_size, bias=False) for _ in range(num_heads))
