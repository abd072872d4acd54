"""Measures an adapter: held-out losses and songs with it and without it, from the same captions with the same seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from songgen.families.objective import Objective, SongRequest
from songgen.families.songs import TrainingData, first_clips
from songgen.runtime.processes.agreement import gather_lists
from songgen.runtime.processes.commands import Inbox, Interrupted
from songgen.train.optimization.sharding import shard_again, whole_weights

WITHOUT, WITH, ORIGINAL = "without", "with", "original"

ROUNDING = 1e-6
"""Ratio of two losses that may differ by rounding only."""

SPREADS = 2.0
"""Standard errors below which a mean difference can be chance."""


@dataclass(frozen=True)
class Sound:
    """A generated or original song."""

    waveform: NDArray[np.float32]
    """Samples, or channels x samples."""
    sample_rate: int
    """Rate in Hz."""


@dataclass(frozen=True)
class ComparedSong:
    """A held-out clip with its songs."""

    name: str
    """Name of the clip in its data set."""
    caption: str
    """Caption."""
    lyrics: str
    """Lyrics."""
    sounds: dict[str, dict[str, Sound]] = field(default_factory=dict)
    """`original`, `without` and `with` the adapter -> track -> sound."""

    @property
    def is_unchanged(self) -> bool:
        """Whether the adapter changed no sample."""
        before, after = self.sounds.get(WITHOUT, {}), self.sounds.get(WITH, {})
        return before.keys() == after.keys() and all(
            np.array_equal(before[track].waveform, after[track].waveform) for track in before
        )


@dataclass(frozen=True)
class Comparison:
    """Measures of an adapter."""

    metrics: dict[str, dict[str, float]]
    """`without` and `with` -> metrics of the evaluation, and of the songs."""
    improvements: list[float]
    """Loss without the adapter minus loss with it, of each clip, in nats."""
    songs: list[ComparedSong]
    """Songs."""
    idle: bool = False
    """Whether the adapter's weights add nothing: each second matrix is 0."""

    @property
    def improvement(self) -> float:
        """Mean improvement of the clips in nats."""
        return sum(self.improvements) / len(self.improvements)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean improvement; 0 for one clip."""
        count = len(self.improvements)
        if count < 2:
            return 0.0
        variance = sum((value - self.improvement) ** 2 for value in self.improvements) / (count - 1)
        return math.sqrt(variance / count)

    def warnings(self) -> list[str]:
        """Return the reasons to doubt the adapter, each with a suggestion; none for one that lowers the loss."""
        found = []
        before = self.metrics[WITHOUT].get("loss", math.nan)
        if self.idle:
            found.append(
                "the adapter changes nothing: every second matrix (lora_B) is 0, as before training. Train it for more "
                "steps, or with a higher lora_learning_rate"
            )
        if self.songs and all(song.is_unchanged for song in self.songs):
            found.append(
                "every song is the same with and without the adapter, sample by sample: train it longer, with a higher "
                "lora_learning_rate, or on more layers (target_modules)"
            )
        size, chance = abs(self.improvement), SPREADS * self.standard_error
        if size <= ROUNDING * before:
            found.append("the held-out loss is the same with and without the adapter")
        elif size <= chance:
            found.append(
                f"the held-out loss differs by {self.improvement:.2g}, which can be chance: between clips it varies by "
                f"{self.standard_error:.2g} (standard error of {len(self.improvements)} clips)"
            )
        elif self.improvement < 0:
            found.append(
                f"the held-out loss is higher with the adapter, by {size:.2g}: it was trained for too long or with too "
                "high a learning rate, or the held-out clips are of another style; try an earlier checkpoint, or a "
                "strength below 1"
            )
        return found


@dataclass(frozen=True)
class ComparedModel:
    """A model whose adapter can be left out."""

    objective: Objective
    """Measures clips and samples songs."""
    model: nn.Module
    """Model as wrapped for distributed training."""
    core: nn.Module
    """Model without wrappers."""
    without: Callable[[], AbstractContextManager[None]]
    """Context in which it computes what its base does."""

    def compare(self, held_out: TrainingData, inbox: Inbox, *, clips: int, songs: int) -> Comparison:
        """Measure the model with and without its adapter. Every process must call this.

        Args:
            held_out: held-out clips.
            inbox: checked for a stop request.
            clips: number of clips whose losses are measured, the first ones.
            songs: number of songs to generate, at most `clips`.

        Returns:
            The comparison; its songs are on the main process only.

        Raises:
            Interrupted: if any process was asked to stop; all of them raise it together.
        """
        data = first_clips(held_out, max(clips, songs))
        was_training = self.model.training
        self.model.eval()
        metrics: dict[str, dict[str, float]] = {}
        losses: dict[str, list[float]] = {}
        rows = [data.samples.dataset.row(index) for index in range(min(songs, len(data.samples)))]
        compared = [ComparedSong(row.id, row.caption, row.lyrics) for row in rows]
        try:
            for side, context in ((WITHOUT, self.without), (WITH, nullcontext)):
                with context():
                    metrics[side], losses[side] = self._measure(data, inbox)
                    if compared:
                        metrics[side] |= self._sample(data, inbox, compared, side)
        finally:
            shard_again(self.core)
            self.model.train(was_training)
        improvements = [before - after for before, after in zip(losses[WITHOUT], losses[WITH], strict=True)]
        return Comparison(metrics, improvements, compared if data.rank == 0 else [])

    @torch.no_grad()
    def _measure(self, data: TrainingData, inbox: Inbox) -> tuple[dict[str, float], list[float]]:
        """Return the metrics of all clips, and the loss of each clip in the order of the processes."""
        device = next(self.model.parameters()).device
        own: list[list[float]] = []
        for batches in data.steps(epoch=0):
            if inbox.stop_requested_anywhere():
                raise Interrupted
            for batch in batches:  # empty ones too: sharded weights need every process in every pass
                sums = self.objective.evaluation_sums(self.model, batch.to(device, non_blocking=True))
                if batch.ids:
                    own.append(sums.double().cpu().tolist())
        every = [torch.tensor(sums, dtype=torch.float64) for share in gather_lists(own) for sums in share]
        total: Tensor = torch.stack(every).sum(dim=0)
        return self.objective.evaluation_metrics(total), [self._loss(sums) for sums in every]

    def _loss(self, sums: Tensor) -> float:
        return self.objective.evaluation_metrics(sums)["loss"]

    def _sample(self, data: TrainingData, inbox: Inbox, songs: Sequence[ComparedSong], side: str) -> dict[str, float]:
        """Generate the songs and put them into `songs` (main process); return their metrics."""
        request = SongRequest(
            samples=data.samples,
            num_songs=len(songs),
            step=0,
            with_originals=side == WITHOUT,
            random_texts=False,
            sink=_Collector(songs, side),
            inbox=inbox,
            whole_weights=lambda: whole_weights(self.core),
            rank=data.rank,
            world_size=data.plan.world_size,
        )
        return self.objective.sample_songs(self.core, request)


@dataclass(frozen=True)
class _Collector:
    """Keeps the sounds of songs; see `songgen.families.objective.AudioSink`."""

    songs: Sequence[ComparedSong]
    side: str

    def audio(self, name: str, waveform: NDArray[np.float32], sample_rate: int, step: int) -> Path | None:
        """Keep a sound: `NAME/generated_TRACK` or `NAME/original_TRACK`."""
        clip, _, rest = name.rpartition("/")
        kind, _, track = rest.partition("_")
        side = ORIGINAL if kind == ORIGINAL else self.side
        for song in self.songs:
            if song.name == clip:
                song.sounds.setdefault(side, {})[track] = Sound(np.asarray(waveform, np.float32), sample_rate)
        return None
