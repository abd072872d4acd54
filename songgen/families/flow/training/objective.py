"""Objective of the flow family: the mean squared error of the velocity over the frames of the clips.

Shapes: B clips, T frames, C channels, S strata of the distribution of timesteps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from songgen.config import RunConfig
from songgen.config.keys import all_keys
from songgen.data.samples import Sample, TrainingSamples
from songgen.data.schema import LATENTS
from songgen.families.flow.model import FlowModel
from songgen.families.flow.pipeline import TOKENIZER
from songgen.families.flow.prompts import PipelinePrompts
from songgen.families.flow.songs.options import Sampling
from songgen.families.flow.songs.samples import sample_songs, sampling_of
from songgen.families.flow.training.batch import FlowBatch, FlowCollator
from songgen.families.flow.training.text_features import TextFeatures
from songgen.families.flow.training.timesteps import BANDS, Timesteps
from songgen.families.objective import BatchLoss, Counts, DataNeeds, Objective, SongRequest
from songgen.tasks import MIX

ERRORS, FRAMES = "band_errors", "band_frames"
"""Names of the loss's parts: shares of the loss and of the frames that are in each band of timesteps, 4 each."""

REFERENCE_SECONDS = 30
"""Length of a timbre reference, as in diffusers' pipeline."""

RECALL_STEPS = 20
"""Steps in which a clip is generated to see whether it comes back; a turbo model has eight."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlowObjective(Objective):
    """Flow matching over latents: every frame of every clip of a step counts the same."""

    collator: FlowCollator
    """Makes micro-batches, with noise and timesteps."""
    texts: TextFeatures
    """Features of captions and lyrics."""
    needs: DataNeeds
    """Requirements on a data set."""
    drops_conditions: bool
    """Whether samples without any condition are trained, for guidance."""
    songs: Sampling | None = None
    """Options for generating songs; None to generate none."""

    @property
    def data_needs(self) -> DataNeeds:
        """See `Objective`."""
        return self.needs

    def collate(self, samples: Sequence[Sample]) -> FlowBatch:
        """See `Objective`."""
        return self.collator(samples)

    def count(self, batches: Sequence[FlowBatch]) -> Counts:
        """See `Objective`: the divisor is the number of frames."""
        frames = torch.cat([batch.frames for batch in batches])
        total = int(frames.sum())
        channels = batches[0].latents.shape[-1]
        return Counts(torch.tensor([total]), int((frames > 0).sum()), total, total * channels)

    def loss(self, model: nn.Module, batch: FlowBatch, divisors: Tensor, curve_values: Tensor) -> BatchLoss:
        """See `Objective`."""
        frames = divisors.clamp(min=1)
        shares = self._errors(model, batch, batch.timesteps) / frames
        # Not the losses of the bands: a step may have no clip in a band. Their shares of loss and frames can be
        # averaged over steps, and the loss of a band is the ratio of the means.
        in_band = nn.functional.one_hot(batch.bands, BANDS).to(shares.dtype)
        parts = {ERRORS: shares.detach() @ in_band, FRAMES: (batch.frames / frames) @ in_band}
        return BatchLoss(shares.sum(), parts)

    def training_metrics(self, parts: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Name `band_<k>/loss`, of the bands from the data (1) to the noise (4) in which a clip was trained."""
        pairs = zip(parts[ERRORS], parts[FRAMES], strict=True)
        return {f"band_{band}/loss": errors / share for band, (errors, share) in enumerate(pairs, 1) if share > 0}

    def evaluation_sums(self, model: nn.Module, batch: FlowBatch) -> Tensor:
        """See `Objective`: sums of errors and of frames in each band, 2 x 4.

        A clip is measured once in each stratum of the distribution, always with the same noise.
        """
        # float64 keeps sums over many frames exact; Apple's devices do not have it.
        dtype = torch.float32 if batch.latents.device.type == "mps" else torch.float64
        sums = torch.zeros(2, BANDS, dtype=dtype, device=batch.latents.device)
        count = batch.strata.shape[1]
        for stratum in range(count):
            band = stratum * BANDS // count
            sums[0, band] += self._errors(model, batch, batch.strata[:, stratum]).to(dtype).sum()
            sums[1, band] += batch.frames.sum()
        return sums.flatten()

    def evaluation_metrics(self, sums: Tensor) -> dict[str, float]:
        """Name `loss`, the mean over the distribution of the timesteps, and `band_<k>/loss`."""
        errors, frames = sums.double().cpu().view(2, BANDS)
        metrics = {"loss": float(errors.sum() / frames.sum())}
        return metrics | {
            f"band_{band}/loss": float(errors[band - 1] / frames[band - 1]) for band in range(1, BANDS + 1)
        }

    @torch.no_grad()
    def recall(self, core: FlowModel, samples: TrainingSamples) -> float | None:
        """See `Objective`: share of the variance of the clip's latents that is right when they are generated.

        They are generated from noise that was not trained, without guidance.
        """
        device, was_training = core.device, core.training
        batch = self.collate([samples[0, 0]]).to(device)
        noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
        written, times = noise.to(device), self.collator.timesteps.path(RECALL_STEPS)
        core.eval()
        try:
            with torch.autocast(device.type, core.dtype, enabled=core.dtype != torch.float32):
                for time, following in zip(times[:-1], times[1:], strict=True):
                    at = torch.full((1,), time, device=device)
                    written = written + (following - time) * self._velocity(core, batch, written, at).float()
        finally:
            core.train(was_training)
        spread = (batch.latents - batch.latents.mean()).square().mean()
        return max(0.0, 1 - float((written - batch.latents).square().mean() / spread.clamp(min=1e-12)))

    def sample_songs(self, core: FlowModel, request: SongRequest) -> dict[str, float]:
        """See `Objective`, and `songgen.families.flow.songs.samples.sample_songs` for the metrics."""
        assert self.songs is not None, "the configuration asks for no songs"
        return sample_songs(core, request, self.songs)

    def _errors(self, model: nn.Module, batch: FlowBatch, timesteps: Tensor) -> Tensor:
        """Return the squared error of the velocity: mean over channels, sum over the frames of each clip (B)."""
        times = timesteps[:, None, None]
        velocity = self._velocity(model, batch, times * batch.noise + (1 - times) * batch.latents, timesteps)
        inside = torch.arange(velocity.shape[1], device=velocity.device) < batch.frames[:, None]
        difference = velocity.float() - (batch.noise - batch.latents)
        return torch.where(inside[..., None], difference, 0.0).square().mean(dim=-1).sum(dim=-1)

    def _velocity(self, model: nn.Module, batch: FlowBatch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity that the model predicts for noisy latents with the conditions of a batch (B x T x C)."""
        device = batch.latents.device
        velocity: Tensor = model(
            noisy=noisy,
            timesteps=timesteps,
            # The placeholder of an empty micro-batch has no frame. The model gets one, since attention over nothing is
            # not a number.
            frames=batch.frames.clamp(min=1),
            captions=self.texts.captions(batch.caption_ids, batch.caption_mask, device),
            caption_mask=batch.caption_mask,
            lyrics=self.texts.lyrics(batch.lyrics_ids, batch.lyrics_mask, device),
            lyrics_mask=batch.lyrics_mask,
            references=batch.references,
            reference_of=batch.reference_of,
            is_unconditional=batch.is_unconditional if self.drops_conditions else None,
        ).velocity
        return velocity


def timesteps_of(config: RunConfig, core: FlowModel) -> Timesteps:
    """Return the distribution of the timesteps of a run.

    Raises:
        ValueError: if mean or deviation are given for a distribution that has none.
    """
    flow = config.flow
    sampling = flow.timestep_sampling
    if sampling == "auto":
        sampling = "discrete" if core.is_turbo else "logit_normal"
    ignored = [
        name
        for name in ("timestep_mean", "timestep_std")
        if sampling != "logit_normal" and getattr(flow, name) != all_keys()[name].default
    ]
    if ignored:
        raise ValueError(f"{', '.join(ignored)}: without effect on timesteps that are {sampling}; remove")
    return Timesteps(sampling, flow.shift, flow.timestep_mean, flow.timestep_std)


def flow_objective(config: RunConfig, core: FlowModel) -> FlowObjective:
    """Build the objective of a run.

    Raises:
        ValueError: if keys of the timesteps do not fit together.
    """
    timesteps = timesteps_of(config, core)
    limits = " ".join(f"{limit:.3f}" for limit in timesteps.band_limits())
    logger.info("timesteps: %s, shift %g; limits of the four bands: %s", timesteps.sampling, timesteps.shift, limits)
    prompts = PipelinePrompts(core.part(TOKENIZER))
    silence = core.silence(round(REFERENCE_SECONDS * core.frame_rate))[0].float().cpu()
    return FlowObjective(
        collator=FlowCollator(timesteps, silence, config.flow.timbre_reference),
        texts=core.texts,
        needs=DataNeeds(
            LATENTS,
            (MIX,),
            empty_caption_ids=prompts.empty_caption_ids,
            empty_lyrics_ids=prompts.empty_lyrics_ids,
        ),
        drops_conditions=config.model.condition_dropout > 0,
        songs=sampling_of(config, core) if config.training.do_eval else None,
    )
