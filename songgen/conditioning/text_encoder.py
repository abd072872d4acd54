"""The frozen caption encoder: the encoder half of a T5 (flan-t5-large in the published model)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from songgen.conditioning.caption_encoder import CaptionEncoder
from songgen.conditioning.frozen import seeded
from songgen.runtime.network_sizes import require_sane_sizes
from songgen.runtime.tensor_files import load_strictly, locate, normalize_spec

_EMBEDDING = "shared.weight"
_TIED_EMBEDDING = "encoder.embed_tokens.weight"


class TextEncoder(CaptionEncoder):
    """Caption ids to hidden states of a T5."""

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

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
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
