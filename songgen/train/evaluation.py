"""Evaluation on held-out clips. Each target counts once, whatever the number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from songgen.families.objective import AudioSink, Objective, SongRequest
from songgen.families.songs import TrainingData
from songgen.runtime.processes.commands import Inbox, Interrupted
from songgen.runtime.processes.group import sum_over_processes
from songgen.train.optimization.sharding import shard_again, whole_weights


@dataclass
class SongSchedule:
    """Number of songs sampled at evaluations, and how often."""

    num_songs: int
    """Number of songs over all processes, at most the number of held-out clips."""
    interval: int | None
    """Steps between two evaluations that sample songs; None for every evaluation."""
    last_step: int
    """Final step of the run, at which songs are always sampled."""
    at_evaluations: bool = True
    """Whether evaluations sample songs; otherwise only commands do."""
    random_texts: bool = False
    """Whether songs get the caption of one clip and the lyrics of another."""
    originals_logged: bool = False
    """Whether the original recordings were already logged, by this process or by the run that it resumes."""
    latest_step: int = 0
    """Step at which songs were last sampled."""

    def due(self, step: int) -> bool:
        """Return whether the evaluation after `step` completed steps samples songs."""
        if self.interval is None or step >= self.last_step or not self.at_evaluations:
            return self.at_evaluations
        # Evaluations need not fall on multiples of the interval: sample at the first one past each multiple.
        return step // self.interval > self.latest_step // self.interval


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on the same clips in the same way each time: no dropout, no random choice."""

    objective: Objective
    """Objective that measures the clips and samples songs."""
    data: TrainingData
    """Held-out clips; their samples are deterministic."""
    songs: SongSchedule | None
    """Schedule of sampled songs; None if none can be sampled."""

    def resume(self, evaluated_step: int | None) -> None:
        """Continue a run that was last evaluated at this step; songs due up to then count as sampled."""
        if self.songs is not None:
            self.songs.latest_step = evaluated_step or 0

    def run(self, model: nn.Module, core: nn.Module, step: int, sink: AudioSink, inbox: Inbox) -> dict[str, float]:
        """Compute all metrics. Every process must call this, and all get the same values.

        Args:
            model: the model as wrapped for distributed training.
            core: the model without wrappers.
            step: completed optimizer steps.
            sink: receives the audio of sampled songs.
            inbox: checked for a stop request between micro-batches and while songs are sampled.

        Returns:
            The metrics of `Objective.evaluation_metrics` and, at steps that sample songs, those of
            `Objective.sample_songs` (on the main process only).

        Raises:
            Interrupted: if any process was asked to stop; all of them raise it together.
        """
        was_training = model.training
        model.eval()
        try:
            metrics = self._measure(model, inbox)
            if self.songs is not None and self.songs.due(step):
                metrics.update(self._sample(self.songs, core, step, sink, inbox))
                self.songs.latest_step = step
        finally:
            shard_again(core)
            model.train(was_training)
        return metrics

    def sample(
        self, model: nn.Module, core: nn.Module, step: int, sink: AudioSink, inbox: Inbox, *, num_songs: int | None
    ) -> dict[str, float]:
        """Sample songs now, whatever the schedule says; it stays as it is. Every process must call this.

        Args:
            model: as in `run`, and so are the others.
            core: model without wrappers.
            step: completed optimizer steps.
            sink: receives the audio.
            inbox: checked for a stop request.
            num_songs: number of songs over all processes; None for that of the schedule.

        Raises:
            Interrupted: if any process was asked to stop; all of them raise it together.
        """
        assert self.songs is not None
        was_training = model.training
        model.eval()
        try:
            return self._sample(self.songs, core, step, sink, inbox, num_songs=num_songs)
        finally:
            shard_again(core)
            model.train(was_training)

    @torch.no_grad()
    def _measure(self, model: nn.Module, inbox: Inbox) -> dict[str, float]:
        """Measure all clips; each clip is measured by exactly one process."""
        device = next(model.parameters()).device
        sums: Tensor | None = None
        for batches in self.data.steps(epoch=0):
            if inbox.stop_requested_anywhere():
                raise Interrupted
            # Empty micro-batches are run as well: with sharded weights, every process must take part in each forward
            # pass.
            for batch in batches:
                found = self.objective.evaluation_sums(model, batch.to(device, non_blocking=True))
                sums = found if sums is None else sums + found
        assert sums is not None, "every process has as many micro-batches, and a plan has at least one clip"
        return self.objective.evaluation_metrics(sum_over_processes(sums))

    def _sample(
        self,
        songs: SongSchedule,
        core: nn.Module,
        step: int,
        sink: AudioSink,
        inbox: Inbox,
        num_songs: int | None = None,
    ) -> dict[str, float]:
        """Sample songs.

        Raises:
            Interrupted: if any process was asked to stop; all of them raise it together.
        """
        request = SongRequest(
            samples=self.data.samples,
            num_songs=min(num_songs or songs.num_songs, len(self.data.samples)),
            step=step,
            with_originals=not songs.originals_logged,
            sink=sink,
            inbox=inbox,
            random_texts=songs.random_texts,
            whole_weights=lambda: whole_weights(core),
            rank=self.data.rank,
            world_size=self.data.plan.world_size,
        )
        metrics = self.objective.sample_songs(core, request)
        songs.originals_logged = True
        return metrics
