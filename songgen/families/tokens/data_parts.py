"""The clips that a run trains and evaluates on: opened as the configuration says, and checked against the model."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from songgen.config import RunConfig
from songgen.data.batch_plan import BatchPlan
from songgen.data.dataset import SongDataset, check_against_model
from songgen.data.samples import SampleOptions, TrainingSamples
from songgen.families.tokens.model_parts import model_fingerprints
from songgen.families.tokens.song_samples import SongSamples
from songgen.families.tokens.songs import TrainingData, data_sha256, evaluation_split, open_songs
from songgen.generation.options import GenerationOptions
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.tasks import VOCAL
from songgen.train.evaluation import Evaluator
from songgen.train.optimization.sharding import whole_weights
from songgen.train.reporting.trackers import SAMPLES_FOLDER

logger = logging.getLogger(__name__)

ORIGINALS_STEP = "step_00000000"
"""Folder of the originals among the samples of a run."""


def used_splits(config: RunConfig) -> list[str]:
    """The split to train on, then the one to evaluate on, if any."""
    names = config.data.train_split_name
    used = [names if isinstance(names, str) else names[0]]
    return [*used, evaluation_split(config.data)] if config.training.do_eval else used


def build_training_data(
    config: RunConfig,
    core: SongGenForConditionalGeneration,
    auxiliary_tracks: tuple[str, ...],
    accelerator: Accelerator,
) -> TrainingData:
    """The training clips, checked against the model."""
    split = used_splits(config)[0]
    songs = open_songs(config.data, split, (*core.task.target_tracks, *auxiliary_tracks), config.data.max_train_samples)
    _require_fit(config, core, songs, auxiliary_tracks)
    samples = TrainingSamples(
        songs,
        _sample_options(config),
        (*core.task.target_tracks, *auxiliary_tracks),
        seed=config.training.seed,
    )
    _warn_without_voices(samples)
    plan = BatchPlan(
        songs.num_frames,
        batch_size=None if config.data.max_frames_per_batch else config.training.per_device_train_batch_size,
        max_frames_per_batch=config.data.max_frames_per_batch,
        world_size=accelerator.num_processes,
        accumulation=config.training.gradient_accumulation_steps,
        seed=config.training.seed,
        group_by_length=config.data.group_by_length,
        order=config.data.order,
    )
    return TrainingData(
        samples,
        plan,
        core.task.target_tracks,
        auxiliary_tracks,
        accelerator.process_index,
        config.training.dataloader_num_workers,
        config.training.dataloader_timeout,
        content=data_sha256(config.data, split),
    )


def build_evaluator(
    config: RunConfig,
    core: SongGenForConditionalGeneration,
    auxiliary_tracks: tuple[str, ...],
    accelerator: Accelerator,
    total_steps: int,
) -> Evaluator | None:
    """The held-out clips and what is measured on them; None where the configuration asks for no evaluation."""
    training = config.training
    if not training.do_eval:
        return None
    tracks = (*core.task.target_tracks, *auxiliary_tracks)
    songs = open_songs(config.data, evaluation_split(config.data), tracks, config.data.max_eval_samples)
    _require_fit(config, core, songs, auxiliary_tracks)
    samples = TrainingSamples(songs, _sample_options(config), tracks, seed=training.seed, deterministic=True)
    plan = BatchPlan(
        songs.num_frames,
        batch_size=training.per_device_eval_batch_size,
        world_size=accelerator.num_processes,
        seed=training.seed,
        group_by_length=True,
    )
    data = TrainingData(
        samples,
        plan,
        core.task.target_tracks,
        auxiliary_tracks,
        accelerator.process_index,
        training.eval_dataloader_num_workers,
        training.dataloader_timeout,
    )
    generated = None
    if training.predict_with_generate:
        generated = SongSamples(
            samples=samples,
            target_tracks=core.task.target_tracks,
            options=GenerationOptions(
                do_sample=config.model.do_sample,
                temperature=config.model.temperature,
                top_k=config.model.top_k,
                top_p=config.model.top_p,
                guidance_scale=config.model.guidance_scale,
                max_length=config.model.max_length,
                seed=training.seed,
            ),
            num_songs=training.num_generated_samples,
            interval=training.eval_generation_steps,
            last_step=total_steps,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            whole_weights=lambda: whole_weights(core),
            originals_logged=(Path(training.output_dir) / SAMPLES_FOLDER / ORIGINALS_STEP).is_dir(),
        )
    return Evaluator(data, generated)


def _sample_options(config: RunConfig) -> SampleOptions:
    """How clips are varied."""
    return SampleOptions(
        voice_choices=config.data.voice_probabilities(),
        voice_min_energy=config.data.voice_min_energy,
        voice_seconds=config.data.ref_dur_sec,
        caption_variants=config.model.caption_variants,
        drop_caption=config.model.caption_dropout,
        drop_lyrics=config.model.lyrics_dropout,
        drop_all=config.model.condition_dropout,
    )


def _require_fit(
    config: RunConfig, core: SongGenForConditionalGeneration, songs: SongDataset, auxiliary_tracks: tuple[str, ...]
) -> None:
    """Compare data and model, and let the model's configuration remember the codec.

    Raises:
        ValueError: listing everything that does not agree.
    """
    uses_voice = config.data.voice_probabilities().get(VOCAL, 0.0) > 0
    check_against_model(
        songs,
        target_tracks=core.task.target_tracks,
        auxiliary_tracks=auxiliary_tracks,
        num_codebooks=core.layout.num_codebooks,
        codebook_size=core.vocabulary.codebook_size,
        voice_sample_rate=core.voice_encoder.sample_rate if uses_voice and songs.info.voice_sample_rate else None,
        **model_fingerprints(config, core),
    )
    core.config = dataclasses.replace(core.config, audio_codec_fingerprint=songs.info.codec_fingerprint)


def _warn_without_voices(samples: TrainingSamples) -> None:
    """Say so when voices are asked for and no clip has one, with the numbers that decide it."""
    options, songs = samples.options, samples.dataset
    if not options.voice_choices.get(VOCAL) or samples.has_voice().any():
        return
    stored, energies = int((songs.voice_lengths() > 0).sum()), songs.energies(VOCAL)
    known = energies[~np.isnan(energies)]
    loudest = f"{known.max():g}" if len(known) else "unknown"
    logger.warning(
        "%s: no clip has a reference voice, so the model is trained without them: %d of %d clips hold a vocal track "
        "for it, the highest energy of these tracks is %s, voice_min_energy is %g",
        songs.name, stored, len(songs), loudest, options.voice_min_energy,
    )  # fmt: skip
