"""Attention of the transformer that leaves padding out.

The transformer takes no mask for padding, neither of frames nor of conditions. In a batch of clips of different
lengths, a clip would then depend on the others. With these masks it is computed as if it were alone.

Shapes: B clips, S patches, M condition tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
        is_cross = attn.is_cross_attention and encoder_hidden_states is not None
        inside = self.masks.conditions if is_cross else self.masks.patches
        if attention_mask is None:
            attention_mask = inside
        elif inside is not None:
            attention_mask = attention_mask.masked_fill(~inside, torch.finfo(attention_mask.dtype).min)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)


def mask_padding(transformer: nn.Module) -> PaddingMasks:
    """Give all attention layers of a transformer one object with masks, and return it."""
    masks = PaddingMasks()
    for module in transformer.modules():
        if isinstance(module, AceStepAttention):
            module.set_processor(MaskedProcessor(masks))  # type: ignore[arg-type]
    return masks
