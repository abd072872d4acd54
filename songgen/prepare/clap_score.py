"""How well caption and sound agree, as CLAP hears them: the cosine between both, windows of long clips averaged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import ClapModel, ClapProcessor

from songgen.data.audio import AudioRejected
from songgen.prepare.audio_files import read_audio
from songgen.prepare.devices import choose_device
from songgen.prepare.record import JsonObject, Refusal, SongRecord
from songgen.prepare.step import Outcome, Step, WorkFolder
from songgen.tasks import MIX


@dataclass(frozen=True)
class ScoreOptions:
    """Which network judges captions."""

    model: str = "laion/larger_clap_music"
    """Hub id or folder of a CLAP model with a safetensors file. Limits on the score depend on the model: the published
    ones do not name theirs."""

    revision: str = ""
    """Its branch, tag or commit on the hub; empty for the main branch."""

    batch_size: int = 16
    """Windows, and clips, that go through the network at once."""

    device: str = ""
    """Where the network runs; empty for an accelerator where there is one."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.model:
            raise ValueError("model is empty: name a CLAP model, or set the section to null")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


def windows_of(samples: np.ndarray, length: int) -> list[np.ndarray]:
    """Cut a clip into windows: one after the other, the last one ending with the clip.

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
            ValueError: it cannot be loaded, or is no CLAP model.
        """
        self.device = choose_device(device)
        self.batch_size = batch_size
        try:
            processor: Any = ClapProcessor.from_pretrained(model, revision=revision or "main")
            network: Any = ClapModel.from_pretrained(model, revision=revision or "main", use_safetensors=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"cannot load the CLAP model {model!r}: {error}. Give the id or the folder of a CLAP model that has a "
                "safetensors file, or set `score` to null to go without"
            ) from error
        self._extractor, self._tokenizer = processor.feature_extractor, processor.tokenizer
        self._network = network.to(self.device).eval()
        self.sample_rate: int = self._extractor.sampling_rate
        self.window_samples: int = self._extractor.nb_max_samples
        # Positions of the text network start behind the padding's.
        text = network.config.text_config
        self._max_tokens: int = text.max_position_embeddings - text.pad_token_id - 1

    def score(self, clips: Sequence[np.ndarray], captions: Sequence[str]) -> list[float]:
        """Return the cosine between each clip and its caption.

        Args:
            clips: mono samples at `sample_rate`, each of at least one sample.
            captions: one for each clip; what is longer than the network takes is cut.
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
        # The extractor calls one window of each batch "longer", drawn by chance, for networks that fuse; none is.
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


class ScoreStep(Step):
    """Measures `clap_score` of clips with a caption."""

    name = "score"
    version = 1

    def __init__(self, options: ScoreOptions) -> None:
        """Nothing is loaded yet."""
        self.options = options
        self.batch_size = options.batch_size
        self._scorer: ClapScorer | None = None

    def parameters(self) -> JsonObject:
        """Everything but device and batch size."""
        parameters = asdict(self.options)
        del parameters["device"], parameters["batch_size"]
        return parameters

    def inputs(self, record: SongRecord) -> JsonObject:
        """The caption."""
        return {"caption": record.caption}

    def files(self, record: SongRecord) -> Sequence[str]:
        """The mix."""
        return [record.audio[MIX]]

    def is_needed(self, record: SongRecord) -> bool:
        """Whether there is a caption to judge."""
        return bool(record.caption.strip())

    def start(self) -> None:
        """Load the network.

        Raises:
            ValueError: it cannot be had.
        """
        options = self.options
        self._scorer = ClapScorer(options.model, options.revision, options.device, options.batch_size)

    def run(self, records: Sequence[SongRecord], folder: WorkFolder) -> list[Outcome]:
        """Score a batch; a clip whose file cannot be read is left out."""
        assert self._scorer is not None, "start() comes first"
        outcomes: list[Outcome] = []
        clips, captions = [], []
        for record in records:
            try:
                samples, _ = read_audio(folder.track(record, MIX), sample_rate=self._scorer.sample_rate)
            except AudioRejected as error:
                outcomes.append(Outcome(refusal=Refusal(self.name, error.code, error.reason)))
                continue
            clips.append(samples)
            captions.append(record.caption)
            outcomes.append(Outcome())
        scores = iter(self._scorer.score(clips, captions) if clips else [])
        return [
            outcome if outcome.refusal else Outcome({"measures": {"clap_score": round(next(scores), 4)}})
            for outcome in outcomes
        ]
