"""Training objective: one interface for counting targets, computing losses, evaluating and sampling songs.

The trainer (`songgen.train`) only knows this interface, and does not know what a model predicts. A new model family has
its own `Objective`; the trainer provides steps, precision, sharding, checkpoints, evaluation and reports.

Shapes: D divisors, W values that depend on the position on the run's curve, P entries of a named part of the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from songgen.data.samples import Sample, TrainingSamples
from songgen.data.seeded_random import TEXT_STREAM, random_uniforms
from songgen.runtime.processes.commands import Inbox
from songgen.vocabulary import EMPTY_CAPTION_IDS, EMPTY_LYRICS_IDS


class MicroBatch(Protocol):
    """Micro-batch: clips that a process computes at once."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the clips; empty in a micro-batch without clips."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the micro-batch on a device."""


class AudioSink(Protocol):
    """Receiver of the audio of generated songs."""

    def audio(self, name: str, waveform: NDArray[np.float32], sample_rate: int, step: int) -> Path | None:
        """Log one clip: samples, or channels x samples."""


@dataclass(frozen=True)
class DataNeeds:
    """Requirements of a model on a data set."""

    target_kind: str
    """Kind of target that the columns hold: one of `songgen.data.schema.TARGET_KINDS`."""
    target_tracks: tuple[str, ...]
    """Tracks that the model learns to write; every clip must have them."""
    auxiliary_tracks: tuple[str, ...] = ()
    """Tracks that an auxiliary loss needs in addition; every clip must have them too."""
    advice: str = ""
    """Suggested fix for data sets in which no clip has the auxiliary tracks."""
    empty_caption_ids: tuple[int, ...] = EMPTY_CAPTION_IDS
    """Ids of a dropped caption."""
    empty_lyrics_ids: tuple[int, ...] = EMPTY_LYRICS_IDS
    """Ids of dropped lyrics."""

    @property
    def tracks(self) -> tuple[str, ...]:
        """Tracks that are read."""
        return (*self.target_tracks, *self.auxiliary_tracks)


@dataclass(frozen=True)
class Counts:
    """Sizes of a process's micro-batches of one step; the trainer adds them up over the processes."""

    divisors: Tensor
    """D int64, divisors of the losses, such as the number of targets of each head."""
    songs: int
    """Number of clips."""
    frames: int
    """Number of frames; a frame counts once, whatever is predicted of it."""
    targets: int
    """Number of predicted values. A step without any on all processes changes nothing."""


@dataclass(frozen=True)
class BatchLoss:
    """Loss of one micro-batch. Sums over the micro-batches and processes of a step give the loss of the step."""

    total: Tensor
    """Scalar to minimize: the micro-batch's share, divided by the counts of all micro-batches and processes."""
    parts: Mapping[str, Tensor]
    """Shares of further reported values, P each; names and sizes are the same for every micro-batch."""


@dataclass(frozen=True)
class SongRequest:
    """Songs to sample during training, from the texts and voices of held-out clips."""

    samples: TrainingSamples
    """Held-out clips, deterministic."""
    num_songs: int
    """Number of songs over all processes, at most the number of clips."""
    step: int
    """Completed optimizer steps."""
    with_originals: bool
    """Whether the held-out clips are sent to the sink as well, which happens once in a run."""
    sink: AudioSink
    """Receiver of the songs, on the main process."""
    inbox: Inbox
    """Commands to this process, checked while songs are sampled (`stop_heard`), and once afterwards by every process
    (`stop_requested_anywhere`)."""
    random_texts: bool
    """Whether caption and lyrics are those of two other clips each, and no original is compared."""
    whole_weights: Callable[[], AbstractContextManager[None]]
    """Context in which sharded weights are whole on each process, to compute without the other processes."""
    rank: int
    """Rank of this process."""
    world_size: int
    """Number of processes."""

    def text_clips(self, index: int) -> tuple[int, int]:
        """Return the clips that give a song its caption and its lyrics: its own one, unless `random_texts` is set."""
        return other_clips(self.samples.seed, index, len(self.samples)) if self.random_texts else (index, index)

    def sample(self, index: int) -> Sample:
        """Return the clip of a song, with the texts that the song gets."""
        sample = self.samples[0, index]
        if not self.random_texts:
            return sample
        caption, lyrics = (self.samples[0, clip] for clip in self.text_clips(index))
        return replace(
            sample,
            id=f"caption_{caption.id}_lyrics_{lyrics.id}",
            caption_ids=caption.caption_ids,
            lyrics_ids=lyrics.lyrics_ids,
        )


def other_clips(seed: int, index: int, count: int) -> tuple[int, int]:
    """Return the clips that give a song its caption and its lyrics: two others; of two clips, the other and its own."""
    first, second = random_uniforms(seed, TEXT_STREAM, 0, index, 2)
    caption = 1 + int(first * (count - 1))
    if count == 2:
        return (index + caption) % count, index
    lyrics = 1 + int(second * (count - 2))
    lyrics += lyrics >= caption
    return (index + caption) % count, (index + lyrics) % count


@dataclass(frozen=True)
class Mastery:
    """When a model knows a clip by heart, which a trial waits for, and how that is said."""

    wanted: float = 0.5
    """Share that `Objective.known_share` must reach."""
    wanted_recall: float = 0.5
    """Share that `Objective.recall` must reach, if it is defined."""
    known: str = "the loss of fixed noise fell by {:.0%}"
    """What `known_share` says, with a place for it."""
    recalled: str = "{:.0%} of the clip comes back when it is generated"
    """What `recall` says, with a place for it."""
    knows: str = "it predicts the clip"
    """What a model can do that does not reach `wanted_recall`."""
    lacks: str = "but does not generate it"
    """What it cannot do."""
    reason: str = "small errors of the first steps add up"
    """Likely reason for that."""


class Objective(ABC):
    """What is minimized, measured and sampled. It only holds settings: the (wrapped) model is an argument."""

    mastery: ClassVar[Mastery] = Mastery()
    """When a model knows a clip by heart."""

    @property
    @abstractmethod
    def data_needs(self) -> DataNeeds:
        """Requirements on a data set."""

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> MicroBatch:
        """Collate at least one sample to a micro-batch. Loader workers call this.

        A sample without frames is the placeholder in a micro-batch without clips.
        """

    @abstractmethod
    def count(self, batches: Sequence[Any]) -> Counts:
        """Count songs, frames and targets in the micro-batches of this process.

        Args:
            batches: micro-batches of one step, on the CPU.
        """

    def curve_values(self, progress: float) -> Tensor:
        """Return values that depend on the position on the run's curve, such as weights of loss terms: W.

        Args:
            progress: completed share of the curve, 0 to 1.
        """
        return torch.zeros(0)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, divisors: Tensor, curve_values: Tensor) -> BatchLoss:
        """Compute the loss of a micro-batch.

        The result must not depend on how clips are divided into micro-batches, except for rounding: every term is a
        sum over targets, divided by what all micro-batches and processes of the step count together. A micro-batch
        without clips goes through the model too, because sharded weights need every process in every pass.

        Args:
            model: wrapped model, called as a module; it returns a dataclass of tensors.
            batch: micro-batch on the model's device.
            divisors: D, the sums of `Counts.divisors` over all micro-batches and processes of the step.
            curve_values: W, from `curve_values`, on the model's device.
        """

    @abstractmethod
    def training_metrics(self, parts: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Name the metrics of the latest steps; `loss` (the total), norm and speeds are added by the trainer.

        Args:
            parts: means of `BatchLoss.parts` over the steps.
        """

    @abstractmethod
    def evaluation_sums(self, model: nn.Module, batch: Any) -> Tensor:
        """Measure a micro-batch of held-out clips, by the loss that is trained.

        Args:
            model: as in `loss`, in evaluation mode, without gradients.
            batch: micro-batch on the model's device.

        Returns:
            A vector of sums over targets, of the same size for every micro-batch; it is summed over micro-batches and
            processes.
        """

    @abstractmethod
    def evaluation_metrics(self, sums: Tensor) -> dict[str, float]:
        """Name the metrics of an evaluation, `loss` among them: the lowest one decides which checkpoint is best.

        Args:
            sums: results of `evaluation_sums`, summed over all micro-batches and processes.
        """

    def known_share(self, metrics: Mapping[str, float], first: Mapping[str, float]) -> float:
        """Return how well a model predicts the one clip that it is trained on: at most 1, for trials.

        Args:
            metrics: of an evaluation of the clip.
            first: the same before training.
        """
        return 1 - metrics["loss"] / first["loss"]

    def recall(self, core: Any, samples: TrainingSamples) -> float | None:
        """Return the share of the first clip's targets that the model writes by itself from its texts and voice.

        Args:
            core: model without wrappers, in any mode.
            samples: deterministic samples.

        Returns:
            A number from 0 to 1; None if it is not defined for this kind of target.
        """
        return None

    @abstractmethod
    def sample_songs(self, core: Any, request: SongRequest) -> dict[str, float]:
        """Sample songs, send them to the request's sink, and measure them. Every process must call this.

        Args:
            core: model without wrappers, in evaluation mode.
            request: songs to sample.

        Returns:
            Metrics, on the main process only.

        Raises:
            Interrupted: if any process was asked to stop; all of them raise it together.
        """
