"""A CLAP network that scores how well captions match clips, averaged over the windows of long clips."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import ClapModel, ClapProcessor

from songgen.prepare.listening.devices import choose_device
from songgen.runtime.network_sizes import require_sane_folder
from songgen.runtime.pretrained import FOREIGN_ERRORS


def windows_of(samples: np.ndarray, length: int) -> list[np.ndarray]:
    """Divide a clip into consecutive windows; the last one ends with the clip.

    Args:
        samples: N > 0 mono samples.
        length: samples of a window; a shorter clip is one window.
    """
    last = max(0, len(samples) - length)
    return [samples[start : start + length] for start in [*range(0, last, length), last]]


class ClapScorer:
    """A CLAP network with its feature extractor and tokenizer."""

    def __init__(self, model: str, revision: str = "", device: str = "", batch_size: int = 16) -> None:
        """Load a model.

        Args:
            model: hub id or folder.
            revision: branch, tag or commit on the hub; empty for the main branch.
            device: such as `cuda`; empty for an accelerator where there is one.
            batch_size: windows that go through the network at once.

        Raises:
            ValueError: If it cannot be loaded, or is not a CLAP model.
        """
        self.device = choose_device(device)
        self.batch_size = batch_size
        try:
            require_sane_folder(model)
            processor: Any = ClapProcessor.from_pretrained(model, revision=revision or "main")
            network: Any = ClapModel.from_pretrained(model, revision=revision or "main", use_safetensors=True)
        except FOREIGN_ERRORS as error:
            raise ValueError(
                f"cannot load the CLAP model {model!r}: {error}. Give the id or the folder of a CLAP model that has a "
                "safetensors file, or switch `score` off (null)"
            ) from error
        self._extractor, self._tokenizer = processor.feature_extractor, processor.tokenizer
        self._network = network.to(self.device).eval()
        self.sample_rate: int = self._extractor.sampling_rate
        self.window_samples: int = self._extractor.nb_max_samples
        # Positions of the text network start after the padding index.
        text = network.config.text_config
        self._max_tokens: int = text.max_position_embeddings - text.pad_token_id - 1

    def score(self, clips: Sequence[np.ndarray], captions: Sequence[str]) -> list[float]:
        """Return the cosine between each clip and its caption.

        Args:
            clips: mono samples at `sample_rate`, each of at least one sample.
            captions: one for each clip; longer ones than the network takes are truncated.
        """
        windows = [window for clip in clips for window in windows_of(clip, self.window_samples)]
        sounds = torch.cat(
            [
                self._sounds(windows[start : start + self.batch_size])
                for start in range(0, len(windows), self.batch_size)
            ]
        )
        scores, first = [], 0
        for clip, text in zip(clips, self._texts(captions), strict=True):
            count = len(windows_of(clip, self.window_samples))
            scores.append(float((sounds[first : first + count] @ text).mean()))
            first += count
        return scores

    @torch.inference_mode()
    def _sounds(self, windows: Sequence[np.ndarray]) -> Tensor:
        """Embed windows: len(windows) x D, of length 1."""
        features = self._extractor(list(windows), sampling_rate=self.sample_rate, return_tensors="pt")
        # The extractor marks a random window of each batch as "longer", for networks with fusion. No window is.
        none_is_longer = torch.zeros((len(windows), 1), dtype=torch.bool, device=self.device)
        inputs = features["input_features"].to(self.device, torch.float32)
        embedded = self._network.get_audio_features(input_features=inputs, is_longer=none_is_longer).pooler_output
        return functional.normalize(embedded, dim=-1).cpu()

    @torch.inference_mode()
    def _texts(self, captions: Sequence[str]) -> Tensor:
        """Embed captions: len(captions) x D, of length 1."""
        tokens = self._tokenizer(
            list(captions), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        inputs = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        embedded = self._network.get_text_features(**inputs).pooler_output
        return functional.normalize(embedded, dim=-1).cpu()
