"""Features of captions and embeddings of lyrics, by the text encoder of a pipeline.

A caption is encoded by the whole network, which is causal; of lyrics, only the embeddings of their tokens are taken,
and the condition encoder reads them. Both are those of `AceStepPipeline.encode_prompt`.

Shapes: B clips, L tokens, E width of the text encoder, V tokens of the lyrics of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from songgen.conditioning import CaptionEncoder
from songgen.conditioning.feature_store import MAX_BYTES
from songgen.data.samples import TrainingSamples
from songgen.families.caption_features import cache_captions
from songgen.families.flow.pipeline import TEXT_ENCODER, open_component
from songgen.families.songs import Processes

logger = logging.getLogger(__name__)


class PromptEncoder(CaptionEncoder):
    """Token ids of prompts to hidden states of a pipeline's text encoder."""

    architecture_keys: ClassVar[tuple[str, ...]] = (
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "hidden_act",
        "rms_norm_eps",
        "rope_parameters",
        "layer_types",
        "sliding_window",
    )

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the encoder of a pipeline in float32.

        Raises:
            ValueError: if it cannot be opened.
        """
        return cls(open_component(folder, TEXT_ENCODER), spec={"path": str(folder / TEXT_ENCODER)})

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        return int(self.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Ids that have an embedding."""
        return int(self.config.vocab_size)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of token ids of any shape, on the encoder's device.

        Raises:
            ValueError: if an id is not in the encoder's vocabulary.
        """
        self.require_known(ids)
        with self._computing():
            states: Tensor = self._model.get_input_embeddings()(ids.to(self.device))
        return states

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        # One by one: in a batch, the last bits of the features would depend on the other captions.
        states = torch.zeros(*ids.shape, self.hidden_size, dtype=self.dtype, device=self.device)
        for row, length in enumerate(mask.sum(dim=1).tolist()):
            if length:
                alone = self._model(input_ids=ids[row : row + 1, :length], use_cache=False)
                states[row, :length] = alone.last_hidden_state[0]
        return states

    def _description(self) -> dict[str, Any]:
        return {key: getattr(self.config, key, None) for key in self.architecture_keys}


class TextFeatures:
    """Features of texts: looked up where they were computed before, otherwise computed.

    A copy in another process (a loader worker) holds no features.
    """

    def __init__(self, folder: Path) -> None:
        """Open nothing yet; `folder` is that of the pipeline."""
        self.folder = folder
        self._token_ids = torch.zeros(0, dtype=torch.int64)
        self._embeddings: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the folder."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the object without features."""
        self.__init__(**state)  # type: ignore[misc]

    @cached_property
    def encoder(self) -> PromptEncoder:
        """Text encoder of the pipeline.

        Raises:
            ValueError: if it cannot be opened.
        """
        return PromptEncoder.open(self.folder)

    def prepare(
        self,
        data: Sequence[TrainingSamples],
        processes: Processes,
        folder: Path | None,
        device: torch.device,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Compute everything that a run needs once, and free the text encoder. Every process must call this.

        Args:
            data: clips to train and to evaluate on.
            processes: place of this process in the launch.
            folder: folder of features kept between runs; None to keep none.
            device: device that features are computed on and returned on.
            max_bytes: most bytes that all features below the folder may take.
        """
        encoder = self.encoder.to(device)
        # Only the rows that the lyrics of the run use: the whole table of the published encoder takes 620 MB.
        self._token_ids = _lyrics_tokens(data)
        self._embeddings = encoder.embed(self._token_ids)
        logger.info("embeddings of %d lyrics tokens take %.1f MB", len(self._token_ids), self._embeddings.nbytes / 1e6)
        if cache_captions(encoder, data, processes, folder, max_bytes):
            freed = encoder.unload(lambda: PromptEncoder.open(self.folder))
            logger.info("text encoder freed: %.1f MB", freed / 1e6)

    def captions(self, ids: Tensor, mask: Tensor, device: torch.device) -> Tensor:
        """Return the features of captions (B x L ids and bool mask): B x L x E, zero on padding."""
        return self.encoder.to(device).encode(ids, mask)

    def lyrics(self, ids: Tensor, mask: Tensor, device: torch.device) -> Tensor:
        """Return the embeddings of lyrics (B x L ids and bool mask): B x L x E, zero on padding."""
        ids, mask = ids.cpu(), mask.to(device)
        places = torch.searchsorted(self._token_ids, ids).clamp(max=max(0, len(self._token_ids) - 1))
        is_known = self._embeddings is not None and bool((self._token_ids[places] == ids)[mask.cpu()].all())
        if is_known:
            assert self._embeddings is not None
            states = self._embeddings.to(device)[places.to(device)]
        else:
            states = self.encoder.to(device).embed(ids)
        return states.masked_fill(~mask[..., None], 0.0)


def _lyrics_tokens(data: Sequence[TrainingSamples]) -> Tensor:
    """Return all token ids of the lyrics of a run, each once, ascending."""
    found = {part.options.empty_lyrics_ids for part in data}
    tokens = np.unique([token for ids in found for token in ids]).astype(np.int64)
    for part in data:
        for index in range(len(part.dataset)):
            tokens = np.union1d(tokens, part.dataset.row(index).lyrics_ids)
    return torch.from_numpy(tokens)
