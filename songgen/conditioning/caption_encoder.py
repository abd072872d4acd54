"""Frozen encoders of captions, whatever their network: features of equal captions are computed once.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from songgen.conditioning.cache import FeatureCache
from songgen.conditioning.frozen import FrozenEncoder


class CaptionEncoder(FrozenEncoder):
    """Caption ids to hidden states."""

    cache: FeatureCache | None = None
    """Set one to compute the features of equal captions once."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Ids that have an embedding."""

    @abstractmethod
    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states, B x L x D; those of padding are ignored."""

    def key_of(self, caption_ids: Tensor) -> str:
        """Return the key of a caption (L ids on the CPU) in caches of this encoder's features."""
        return FeatureCache.key(self.fingerprint, caption_ids.to(torch.int64).numpy().tobytes())

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encode captions.

        Args:
            input_ids: B x L.
            attention_mask: B x L, nonzero on real tokens (None: all are).

        Returns:
            B x L x D on the encoder's device; zeros on padding.

        Raises:
            ValueError: if an id is not in the encoder's vocabulary.
        """
        self.require_known(input_ids)
        ids = input_ids.to(self.device)
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask.to(self.device).long()
        if self.cache is None:
            return self._compute(ids, mask)
        return self._cached(ids, mask, self.cache)

    def require_known(self, input_ids: Tensor) -> None:
        """Check that all ids have an embedding.

        Raises:
            ValueError: if one does not.
        """
        if input_ids.numel() and int(input_ids.max()) >= self.vocab_size:
            raise ValueError(
                f"a caption has token {int(input_ids.max())}, and the text encoder has {self.vocab_size} tokens: the "
                "caption tokenizer is not the one that the encoder was trained with"
            )

    def _compute(self, ids: Tensor, mask: Tensor) -> Tensor:
        with self._computing():
            return self._states(ids, mask).masked_fill(mask[:, :, None] == 0, 0.0)

    def _cached(self, ids: Tensor, mask: Tensor, cache: FeatureCache) -> Tensor:
        """Compute the rows that the cache lacks in one batch, and keep their real tokens."""
        kept = mask.cpu() != 0
        keys = [self.key_of(row[keep]) for row, keep in zip(ids.cpu(), kept, strict=True)]
        found = [cache.get(key) for key in keys]
        states = torch.zeros(*ids.shape, self.hidden_size, dtype=self.dtype, device=self.device)
        missing = [row for row, features in enumerate(found) if features is None]
        if missing:
            states[missing] = self._compute(ids[missing], mask[missing])
            for row in missing:
                cache.put(keys[row], {"states": states[row][kept[row].to(self.device)]})
        for row, features in enumerate(found):
            if features is not None:
                states[row, kept[row].to(self.device)] = features["states"].to(self.device)
        return states
