"""The frozen caption encoder: the encoder half of a T5 (flan-t5-large in the published model).

Shapes: B batch, L tokens, D width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from songgen.conditioning.cache import FeatureCache
from songgen.conditioning.frozen import FrozenEncoder, seeded
from songgen.runtime.network_sizes import require_sane_sizes
from songgen.runtime.tensor_files import load_strictly, locate, normalize_spec

_EMBEDDING = "shared.weight"
_TIED_EMBEDDING = "encoder.embed_tokens.weight"


class TextEncoder(FrozenEncoder):
    """Caption ids to hidden states."""

    architecture_keys: ClassVar[tuple[str, ...]] = (
        "vocab_size",
        "d_model",
        "d_kv",
        "d_ff",
        "num_layers",
        "num_heads",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "layer_norm_epsilon",
        "feed_forward_proj",
    )

    cache: FeatureCache | None = None
    """Set one to compute the features of equal captions once."""

    @classmethod
    def from_state_dict(
        cls,
        config: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        spec: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> "TextEncoder":
        """Build from a T5 configuration and its weights; those of a decoder are ignored.

        Args:
            config: content of a T5 `config.json` (or `text_encoder` of a published SongGen configuration).
            tensors: weights under T5's names, such as `encoder.block.0...` and `shared.weight`.
            spec: what opens the same encoder again.
            dtype: precision to compute in (None: as stored).

        Raises:
            ValueError: if weights are missing or of other shapes.
        """
        require_sane_sizes(config, "the configuration of the text encoder")
        with torch.device("meta"):
            model = T5EncoderModel(T5Config.from_dict(_without_dtype(config)))
        weights = dict(tensors)
        embedding = weights.get(_EMBEDDING, weights.get(_TIED_EMBEDDING))
        if embedding is not None:
            weights |= {_EMBEDDING: embedding, _TIED_EMBEDDING: embedding}
        load_strictly(model, weights, f"the text encoder {(spec or {}).get('path', '')}".rstrip())
        model.tie_weights()
        return cls(model, spec=spec, dtype=dtype)

    @classmethod
    def small(
        cls, vocab_size: int, *, d_model: int = 64, num_layers: int = 2, num_heads: int = 4, seed: int = 0
    ) -> "TextEncoder":
        """Return a small encoder with random weights: the same for the same arguments."""
        if d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        config = T5Config(
            vocab_size=vocab_size,
            d_model=d_model,
            d_kv=d_model // num_heads,
            d_ff=2 * d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            feed_forward_proj="gated-gelu",
        )
        with seeded(seed):
            return cls(T5EncoderModel(config))

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        return int(self.config.d_model)

    @property
    def vocab_size(self) -> int:
        """Ids that have an embedding."""
        return int(self.config.vocab_size)

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
        if input_ids.numel() and int(input_ids.max()) >= self.vocab_size:
            raise ValueError(
                f"a caption has token {int(input_ids.max())}, and the text encoder has {self.vocab_size} tokens: the "
                "caption tokenizer is not the one that the encoder was trained with"
            )
        ids = input_ids.to(self.device)
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask.to(self.device).long()
        if self.cache is None:
            return self._compute(ids, mask)
        return self._cached(ids, mask, self.cache)

    def _compute(self, ids: Tensor, mask: Tensor) -> Tensor:
        with self._computing():
            states: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            return states.masked_fill(mask[:, :, None] == 0, 0.0)

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

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super()._tensors().items() if name != _TIED_EMBEDDING}


def load_text_encoder(
    spec: str | Mapping[str, Any],
    *,
    base_folder: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> TextEncoder:
    """Open a text encoder.

    Args:
        spec: a hub id, a folder, or `{"path": ..., "revision": ..., "allow_pickle_weights": false}`.
        base_folder: folder of a model; a relative path is one in it.
        device: where it computes.
        dtype: precision to compute in (None: as stored).

    Raises:
        ValueError: if it is not there, or its weights do not fit its configuration.
    """
    normalized = normalize_spec(spec)
    source = locate(normalized, base_folder)
    tensors = source.tensors(("shared.", "encoder."))
    return TextEncoder.from_state_dict(source.config(), tensors, spec=normalized, dtype=dtype).to(device)


def _without_dtype(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the stored precision: the tensors have it."""
    return {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
