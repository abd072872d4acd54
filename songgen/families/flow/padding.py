"""Attention of the transformer that leaves padding out.

The transformer takes no mask for padding, neither of frames nor of conditions. In a batch of clips of different
lengths, a clip would then depend on the others. With these masks it is computed as if it were alone.

Shapes: B clips, S patches, M condition tokens, H heads, D width, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.ace_step_transformer import AceStepAttention, AceStepAttnProcessor2_0
from torch import Tensor, nn


@dataclass
class PaddingMasks:
    """Masks of the batch that is computed; they stay until the next one, since checkpointing computes again."""

    patches: Tensor | None = None
    """B x 1 x 1 x S, whether a patch belongs to its clip; None if all do."""
    conditions: Tensor | None = None
    """B x 1 x 1 x M, whether a condition token belongs to its clip; None if all do."""

    def set(self, patches: Tensor | None, conditions: Tensor | None) -> None:
        """Take the masks of the next batch, B x S and B x M; a mask without padding is dropped, for faster kernels."""
        self.patches = None if patches is None or bool(patches.all()) else patches[:, None, None]
        self.conditions = None if conditions is None or bool(conditions.all()) else conditions[:, None, None]


class MaskedProcessor(AceStepAttnProcessor2_0):
    """Attention of diffusers' transformer, with the masks of a batch."""

    _attention_backend = AttentionBackendName.NATIVE
    """PyTorch's own attention, whatever `DIFFUSERS_ATTN_BACKEND` names: others take no masks, or none for windows."""

    def __init__(self, masks: PaddingMasks) -> None:
        """Use masks that are shared by all layers."""
        super().__init__()
        self.masks = masks

    def __call__(
        self,
        attn: AceStepAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend; see the class of diffusers.

        Args:
            attn: layer.
            hidden_states: B x S x D.
            encoder_hidden_states: B x M x D, for cross-attention.
            attention_mask: 1 x 1 x S x S, added to the scores: the window of layers that only see near patches.
            image_rotary_emb: cosines and sines of the positions.
        """
        source, inside, rotations = hidden_states, self.masks.patches, image_rotary_emb
        if attn.is_cross_attention and encoder_hidden_states is not None:
            source, inside, rotations = encoder_hidden_states, self.masks.conditions, None
        if attention_mask is None:
            attention_mask = inside
        elif inside is not None:
            attention_mask = attention_mask.masked_fill(~inside, torch.finfo(attention_mask.dtype).min)
        if attention_mask is not None and attention_mask.is_floating_point() and len(attention_mask) > 1:
            attention_mask = _seeing(attention_mask)
        if attention_mask is None or attn.heads == attn.kv_heads:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        return _grouped(attn, hidden_states, source, attention_mask, rotations)


def _seeing(mask: Tensor) -> Tensor:
    """Return a mask (B x 1 x S x S, added to the scores) in which every row sees something.

    Padding further than a window from its clip sees nothing. In some kernels on CUDA such a row is NaN, which would
    reach the clip from there: masked values are multiplied by 0.
    """
    is_blind = (mask < 0).all(dim=-1, keepdim=True)
    return mask.masked_fill(is_blind, 0.0)


def _grouped(
    attn: AceStepAttention, states: Tensor, source: Tensor, mask: Tensor, rotations: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Attend from B x S x D to B x M x D with a mask, where several heads share keys and values.

    These are repeated. On CUDA, PyTorch's fused kernels take a mask or shared keys, but not both: without this, the
    scores of all heads (B x H x S x M) would be in memory, in float32, in every layer with a mask.
    """

    def heads(projected: Tensor) -> Tensor:
        """Return the heads of a projection, B x S x H x E."""
        return projected.unflatten(-1, (-1, attn.head_dim))

    # In the order of diffusers' processor: backward passes follow it, and DeepSpeed requires one order of the gradients
    # on all processes, of which some may have padding and others not.
    query, key, value = heads(attn.to_q(states)), heads(attn.to_k(source)), heads(attn.to_v(source))
    query, key = attn.norm_q(query), attn.norm_k(key)
    if rotations is not None:
        query, key = (
            apply_rotary_emb(entry, rotations, use_real=True, use_real_unbind_dim=-2, sequence_dim=1)
            for entry in (query, key)
        )
    groups = attn.heads // attn.kv_heads
    key, value = (entry.repeat_interleave(groups, dim=2) for entry in (key, value))
    mixed = nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        dropout_p=attn.dropout if attn.training else 0.0,
        scale=attn.scaling,
    )
    projection, dropout = attn.to_out
    return dropout(projection(mixed.transpose(1, 2).flatten(2).to(query.dtype)))


def mask_padding(network: nn.Module) -> PaddingMasks:
    """Give all attention layers of a network one object with masks, and return it."""
    masks = PaddingMasks()
    for module in network.modules():
        if isinstance(module, AceStepAttention):
            module.set_processor(MaskedProcessor(masks))  # type: ignore[arg-type]
    return masks
