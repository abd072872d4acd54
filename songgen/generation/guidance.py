"""Classifier-free guidance: the logits of the same song without caption, lyrics and voice, and the way from there.

Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), on logits as text-to-music models use it.
Shapes: B songs, M memory length, P prefix length, D width, H heads, V vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from songgen.vocabulary import EMPTY_CAPTION_IDS, EMPTY_LYRICS_IDS

if TYPE_CHECKING:
    from songgen.models import Conditions, SongGenForConditionalGeneration


def guided_logits(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Move from the unconditional logits towards the conditional ones (B x H x V each); a scale of 1 gives these."""
    unconditional = unconditional.float()
    return unconditional + scale * (conditional.float() - unconditional)


def unconditional_conditions(model: "SongGenForConditionalGeneration", *, with_lyrics: bool = True) -> "Conditions":
    """Encode a song without conditions: an empty caption, empty lyrics and no voice.

    Training sees such songs where condition dropout has removed all three.

    Args:
        model: encodes it.
        with_lyrics: False leaves out the empty lyrics too, for songs that are generated without any.

    Raises:
        ValueError: if the model has no embedding for empty lyrics.
    """
    if with_lyrics and model.config.lyrics_vocab_size <= max(EMPTY_LYRICS_IDS):
        raise ValueError(
            f"guidance_scale needs empty lyrics, ids {list(EMPTY_LYRICS_IDS)}, and this model has "
            f"{model.config.lyrics_vocab_size} lyrics ids: leave guidance_scale at 1"
        )
    lyrics = torch.tensor([EMPTY_LYRICS_IDS], device=model.device) if with_lyrics else None
    return model.encode_conditions(
        input_ids=torch.tensor([EMPTY_CAPTION_IDS], device=model.device), prompt_input_ids=lyrics
    )


def concatenate_conditions(first: "Conditions", second: "Conditions") -> "Conditions":
    """Stack two batches of conditions, masking the padding of the shorter one."""
    both_have_prefix = first.prefix is not None and second.prefix is not None
    assert both_have_prefix or (first.prefix is None and second.prefix is None)
    return type(first)(
        memory=_stack(first.memory, second.memory.to(first.memory.dtype)),
        memory_mask=_stack(first.memory_mask, second.memory_mask),
        prefix=_stack(first.prefix, second.prefix) if both_have_prefix else None,
        prefix_mask=_stack(first.prefix_mask, second.prefix_mask) if both_have_prefix else None,
    )


def _stack(first: Tensor | None, second: Tensor | None) -> Tensor:
    """Stack two tensors along the batch, zero-padding dimension 1 to the longer of both."""
    assert first is not None and second is not None
    length = max(first.shape[1], second.shape[1])
    tail = (0, 0) * (first.dim() - 2)
    return torch.cat([pad(each, (*tail, 0, length - each.shape[1])) for each in (first, second)])
