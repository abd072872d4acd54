"""Objective of the token family: the mean cross-entropy of each head over its targets.

Shapes: H heads, K codebooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from songgen.config import RunConfig
from songgen.data.collate import Batch, collate
from songgen.data.samples import Sample, TrainingSamples
from songgen.data.schema import CODES
from songgen.families.objective import BatchLoss, Counts, DataNeeds, Mastery, Objective, SongRequest
from songgen.families.tokens.codebook_weights import CodebookWeights
from songgen.families.tokens.evaluation import TokenSums
from songgen.families.tokens.song_samples import SongSamples
from songgen.generation.options import GenerationOptions
from songgen.layout import TokenLayout
from songgen.models.modeling_songgen import SongGenForConditionalGeneration

HEADS, VOCAL_HEADS = "heads", "vocal_heads"
"""Names of the loss's parts: shares of each head's mean cross-entropy, H each."""


@dataclass(frozen=True)
class TokenObjective(Objective):
    """Weighted mean of the heads' losses, plus a share of the auxiliary vocal heads' loss."""

    layout: TokenLayout
    """Token layout, which gives the targets of a clip."""
    train_every_eos: bool
    """Whether the end of every track is a target, as in the model's configuration."""
    auxiliary_tracks: tuple[str, ...]
    """Tracks of the vocal heads; empty if these are not trained."""
    vocal_loss_weight: float
    """Factor of the vocal heads' loss."""
    codebook_weights: CodebookWeights
    """Weights of the codebooks over the run."""
    generation: GenerationOptions | None = None
    """Options for sampling songs, with the run's seed, so that steps can be compared by ear; None to sample none."""

    @property
    def data_needs(self) -> DataNeeds:
        """See `Objective`."""
        return data_needs(self.layout, self.auxiliary_tracks)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """See `Objective`."""
        return collate(samples, self.layout.tracks, self.auxiliary_tracks)

    def count(self, batches: Sequence[Batch]) -> Counts:
        """See `Objective`: the divisors are the targets of each head (H)."""
        frames = torch.cat([batch.frames for batch in batches])
        heads = self.layout.target_counts(frames, train_every_eos=self.train_every_eos)
        return Counts(
            divisors=heads,
            songs=int((frames > 0).sum()),
            frames=int(frames.sum()),
            targets=int(heads.sum()),
        )

    def curve_values(self, progress: float) -> Tensor:
        """See `Objective`: the weights of the codebooks (K)."""
        return self.codebook_weights(progress)

    def loss(self, model: nn.Module, batch: Batch, divisors: Tensor, curve_values: Tensor) -> BatchLoss:
        """See `Objective`."""
        output = model(
            **batch.model_inputs(), codebook_weights=curve_values, target_counts=divisors, return_logits=False
        )
        loss, parts = output.loss, {HEADS: output.codebook_losses.detach()}
        if output.vocal_loss is not None:
            loss = loss + self.vocal_loss_weight * output.vocal_loss
            parts[VOCAL_HEADS] = output.vocal_codebook_losses.detach()
        return BatchLoss(loss, parts)

    def training_metrics(self, parts: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Name `unweighted_loss` (plain mean over the heads, nats), `<head>/loss` and `vocal_loss`."""
        heads = parts[HEADS]
        metrics = {"unweighted_loss": sum(heads) / len(heads)}
        metrics |= {f"{name}/loss": value for name, value in zip(head_names(self.layout), heads, strict=True)}
        if self.auxiliary_tracks and VOCAL_HEADS in parts and self.vocal_loss_weight > 0:
            metrics["vocal_loss"] = sum(parts[VOCAL_HEADS]) / len(parts[VOCAL_HEADS])
        return metrics

    def evaluation_sums(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Objective`: a vector of `TokenSums`."""
        # Divided by 1, the losses are plain sums; they are divided once, after the sum over all micro-batches.
        ones = torch.ones(self.layout.num_heads, dtype=torch.long, device=batch.frames.device)
        output = model(**batch.model_inputs(), target_counts=ones, return_logits=False)
        return TokenSums(self.layout).of_batch(output)

    def evaluation_metrics(self, sums: Tensor) -> dict[str, float]:
        """Name the metrics of `TokenSums.metrics`."""
        return TokenSums(self.layout).metrics(sums)

    mastery: ClassVar[Mastery] = Mastery(
        wanted=0.95,
        wanted_recall=0.9,
        known="accuracy {:.3f} with the codes before given",
        recalled="{:.3f} of the codes come back when it sings alone",
        lacks="but does not sing it by itself",
        reason="the first wrong code leads to others",
    )

    def known_share(self, metrics: Mapping[str, float], first: Mapping[str, float]) -> float:
        """See `Objective`: share of the codes that are predicted right, given those before them."""
        return metrics["accuracy"]

    def recall(self, core: SongGenForConditionalGeneration, samples: TrainingSamples) -> float | None:
        """See `Objective`: equal codes of the greedy song, of those of the longer of both."""
        batch = collate([samples[0, 0]], self.layout.tracks)
        original = batch.codes[0]
        longest = original.shape[-1]
        # A song that does not end where the clip does may write a few frames more, which count as wrong.
        options = GenerationOptions(do_sample=False, max_frames=longest + max(2, longest // 10))
        written = SongSamples.write_song(core, batch, options)
        shared = min(longest, written.shape[-1])
        equal = (written[..., :shared] == original[..., :shared]).sum()
        return float(equal) / (original[..., 0].numel() * max(longest, written.shape[-1]))

    def sample_songs(self, core: SongGenForConditionalGeneration, request: SongRequest) -> dict[str, float]:
        """See `Objective`, and `SongSamples.generate` for the metrics."""
        assert self.generation is not None, "the configuration asks for no songs"
        return SongSamples(core, self.generation, request).generate()


def data_needs(layout: TokenLayout, auxiliary_tracks: tuple[str, ...]) -> DataNeeds:
    """Return the requirements of a layout, and of the vocal heads' tracks, on a data set."""
    advice = "without separated tracks, train without the loss of the vocal heads: --add_vocal_loss false"
    return DataNeeds(CODES, layout.tracks, auxiliary_tracks, advice)


def token_objective(config: RunConfig, core: SongGenForConditionalGeneration) -> TokenObjective:
    """Build the objective of a run.

    Raises:
        ValueError: if the weights of the codebooks do not fit the model.
    """
    training = config.training
    return TokenObjective(
        layout=core.layout,
        train_every_eos=core.config.train_every_eos,
        auxiliary_tracks=core.task.auxiliary_tracks if training.add_vocal_loss else (),
        vocal_loss_weight=training.vocal_loss_weight,
        codebook_weights=CodebookWeights.build(
            core.layout.num_codebooks,
            weighted=training.codebook_weighting,
            start=training.codebook_weights_start,
            end=training.codebook_weights_end,
        ),
        generation=_generation_options(config) if training.do_eval else None,
    )


def _generation_options(config: RunConfig) -> GenerationOptions:
    """Return the options for sampling songs at evaluations."""
    model = config.model
    return GenerationOptions(
        do_sample=model.do_sample,
        temperature=model.temperature,
        top_k=model.top_k,
        top_p=model.top_p,
        guidance_scale=model.guidance_scale,
        max_length=model.max_length,
        seed=config.training.seed,
    )


def head_names(layout: TokenLayout) -> list[str]:
    """Return the name of each head: its codebook, and its track unless it serves several."""
    owners: list[list[str]] = [[] for _ in range(layout.num_heads)]
    for track, heads in zip(layout.tracks, layout.heads, strict=True):
        for head in heads:
            owners[head].append(track)
    return [
        f"{tracks[0]}/codebook_{codebook}" if len(tracks) == 1 else f"codebook_{codebook}"
        for tracks, codebook in zip(owners, layout.head_codebook, strict=True)
    ]
