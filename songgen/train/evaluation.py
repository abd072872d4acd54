"""Evaluation on held-out clips: losses and accuracies in which each target counts once on any number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from songgen.families.tokens.song_samples import SongSamples
from songgen.families.tokens.songs import TrainingData
from songgen.families.tokens.token_metrics import TokenMetrics
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.commands import Inbox, Interrupted
from songgen.runtime.distributed import sum_over_processes
from songgen.train.optimization.sharding import shard_again
from songgen.train.reporting.reporter import Reporter


@dataclass(frozen=True)
class Evaluator:
    """Evaluates a model on the same clips in the same way each time: no dropout, no random choice."""

    data: TrainingData
    """Held-out clips; their samples are deterministic."""
    songs: SongSamples | None
    """Generates songs; None generates nothing."""

    def go_on(self, evaluated_step: int | None) -> None:
        """Take up a run whose latest evaluation was after so many steps: songs that were due then were generated."""
        if self.songs is not None:
            self.songs.latest_step = evaluated_step or 0

    def run(
        self,
        model: nn.Module,
        core: SongGenForConditionalGeneration,
        step: int,
        reporter: Reporter,
        inbox: Inbox,
    ) -> dict[str, float]:
        """Compute all metrics; every process takes part and gets the same numbers.

        Args:
            model: as the accelerator wrapped it.
            core: the model itself.
            step: optimizer steps done.
            reporter: is handed generated songs.
            inbox: asked between batches and while songs are drawn.

        Returns:
            those of `TokenMetrics`, `vocal_loss` of the auxiliary heads where they are trained, and at steps that
            generate those of `SongSamples`.

        Raises:
            Interrupted: any process was asked to stop; all of them raise it together.
        """
        was_training = model.training
        model.eval()
        try:
            metrics = self._losses(model, core, inbox)
            if self.songs is not None and self.songs.due(step):
                metrics.update(self.songs.generate(core, step, reporter, inbox))
        finally:
            shard_again(core)
            model.train(was_training)
        return metrics

    @torch.no_grad()
    def _losses(self, model: nn.Module, core: SongGenForConditionalGeneration, inbox: Inbox) -> dict[str, float]:
        """Losses and accuracies over all clips; each clip is computed by one process."""
        layout, device = core.layout, core.device
        tokens = TokenMetrics(layout, device)
        ones = torch.ones(layout.num_heads, dtype=torch.long, device=device)
        vocal = torch.zeros(2, layout.num_heads, dtype=torch.float64, device=device)
        for batches in self.data.steps(epoch=0):
            if inbox.stop_requested_anywhere():
                raise Interrupted
            # An empty batch runs too: sharded weights need every process in every pass.
            for batch in (entry.to(device, non_blocking=True) for entry in batches):
                output = model(**batch.model_inputs(), target_counts=ones, return_logits=True)
                labels = layout.labels(batch.codes, batch.frames, core.vocabulary)
                mask = layout.target_mask(batch.frames, labels.shape[-1], train_every_eos=core.config.train_every_eos)
                tokens.update(output.logits, labels, mask)
                if output.vocal_codebook_losses is not None:
                    vocal += torch.stack([output.vocal_codebook_losses.double(), mask.sum(dim=(0, 2)).double()])
        tokens.reduce(sum_over_processes)
        metrics = tokens.compute()
        entropy, targets = sum_over_processes(vocal).cpu()
        if targets.any():
            metrics["vocal_loss"] = float((entropy / targets).mean())
        return metrics
