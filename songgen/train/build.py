"""From a configuration to a trainer: every part is made here, checked against the others, and nowhere else."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from songgen.conditioning import FeatureCache
from songgen.config import RunConfig
from songgen.data.dataset import SongDataset, check_against_model
from songgen.data.plan import BatchPlan
from songgen.data.samples import SampleOptions, TrainingSamples
from songgen.generation.options import GenerationOptions
from songgen.models.freeze import freeze
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.tasks import VOCAL, Task
from songgen.train.anomalies import AnomalyPolicy, AnomalyWatch
from songgen.train.checkpoint import CheckpointManager
from songgen.train.console import Console, RunSummary
from songgen.train.data_check import require_intact_data
from songgen.train.deepspeed import prepare_zero
from songgen.train.deepspeed_launch import deepspeed_plugin
from songgen.train.distributed import StartPatience
from songgen.train.ema import MovingAverage
from songgen.train.engine import AcceleratedEngine, Engine
from songgen.train.evaluation import Evaluator
from songgen.train.final_model import whole_weights
from songgen.train.heartbeat import Heartbeat
from songgen.train.loss_scale import LossScaleBounds
from songgen.train.model_parts import frozen_content, load_model, model_fingerprints
from songgen.train.optimizer import OptimizerOptions, build_optimizer
from songgen.train.reporting import Reporter
from songgen.train.resume import continue_curve, count_steps, find_resumption, require_same_songs
from songgen.train.schedules import CodebookWeights, LearningRateSchedule
from songgen.train.song_samples import SongSamples
from songgen.train.state import TrainerState
from songgen.train.step import TrainingStep
from songgen.train.totals import StepTotals
from songgen.train.trackers import SAMPLES_FOLDER, Trackers
from songgen.train.trainer import Intervals, Trainer
from songgen.train.training_data import TrainingData, data_sha256, evaluation_split, open_songs

logger = logging.getLogger(__name__)

ORIGINALS_STEP = "step_00000000"
"""Folder of the originals among the samples of a run."""

SECONDS_PER_HOUR = 3600

TEXT_CACHE_BYTES = 1024**3
"""Captions' features are kept in memory when those of all captions together take no more than this."""


def build_trainer(
    config: RunConfig, task: Task, accelerator: Accelerator, console: Console, heartbeat: Heartbeat
) -> Trainer:
    """Make a trainer.

    The order is that of cost: the model's configuration and the data are checked before anything moves to a device.

    Args:
        config: resolved configuration.
        task: what the model is to write.
        accelerator: from `songgen.train.distributed.start_processes`.
        console: of this process.
        heartbeat: of this process.

    Raises:
        ValueError: model, data and configuration do not fit together; the message says what to change.
    """
    output_dir = Path(config.training.output_dir)
    checkpoints = CheckpointManager(
        output_dir,
        save_total_limit=config.training.save_total_limit,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        allow_inexact=config.training.allow_inexact_resume,
    )
    resumption = find_resumption(config, checkpoints)
    require_intact_data(config.data, _used_splits(config), accelerator.process_index)
    with accelerator.local_main_process_first():
        core = load_model(config, task)
    auxiliary_tracks = task.auxiliary_tracks if config.training.add_vocal_loss else ()
    data = _training_data(config, core, auxiliary_tracks, accelerator)
    state = TrainerState() if resumption is None else resumption.state
    total_steps = count_steps(config, data.plan, state)
    evaluator = _evaluator(config, core, auxiliary_tracks, accelerator, total_steps)
    core.release("audio_codec")  # that it loads is known; between two rounds of songs it would only take memory
    frozen = freeze(core, [*config.training.frozen_groups(), *unused_groups(config, core)])
    logger.info("frozen: %s", ", ".join(frozen) or "nothing")
    content = data.signature | frozen_content(core)
    require_same_songs(state.plan, content, mid_epoch=config.training.do_train and state.batches_in_epoch > 0)
    state.curve = continue_curve(state, total_steps, resumption.changed if resumption else ())
    state.total_steps, state.plan = total_steps, content
    engine = _prepare(config, core, accelerator)
    _cache_captions(core, [data] if evaluator is None else [data, evaluator.data])
    loss_scale = LossScaleBounds(
        config.training.loss_scale_floor, config.training.loss_scale_cap, config.training.max_skipped_steps
    )
    loss_scale.begin(accelerator.scaler)
    steps_per_epoch = data.plan.steps_per_epoch(0)
    device = accelerator.device
    return Trainer(
        config=config,
        accelerator=accelerator,
        output_dir=output_dir,
        core=core,
        engine=engine,
        data=data,
        total_steps=total_steps,
        training_step=TrainingStep(
            accelerator=accelerator,
            engine=engine,
            layout=core.layout,
            train_every_eos=core.config.train_every_eos,
            max_gradient_norm=config.training.max_grad_norm,
            vocal_loss_weight=config.training.vocal_loss_weight if auxiliary_tracks else 0.0,
        ),
        schedule=_schedule(config, state.curve.length),
        codebook_weights=CodebookWeights.build(
            core.layout.num_codebooks,
            weighted=config.training.codebook_weighting,
            start=config.training.codebook_weights_start,
            end=config.training.codebook_weights_end,
        ),
        average=MovingAverage(engine.model, config.training.ema_decay) if config.training.ema_decay else None,
        anomalies=AnomalyWatch(
            AnomalyPolicy.of(config.training), output_dir, config.data.dataset_folders(), accelerator.is_main_process
        ),
        loss_scale=loss_scale,
        intervals=Intervals(
            log=config.training.logging_interval(steps_per_epoch),
            evaluate=config.training.eval_interval(steps_per_epoch),
            save=config.training.save_interval(steps_per_epoch),
        ),
        evaluator=evaluator,
        checkpoints=checkpoints,
        reporter=_reporter(config, core, data, evaluator, accelerator, console, total_steps),
        totals=StepTotals(core.layout, device),
        heartbeat=heartbeat,
        patience=StartPatience(config.training.ddp_timeout),
        resumption=resumption,
        state=state,
    )


def unused_groups(config: RunConfig, core: SongGenForConditionalGeneration) -> list[str]:
    """Groups of parameters that no training target reaches with this configuration; they must not be trained."""
    groups = [] if config.training.add_vocal_loss else ["vocal_heads"]
    if not core.config.prompt_cross_attention:
        groups += ["lyrics_encoder", "lyrics_projection"]
    return groups


def _schedule(config: RunConfig, total_steps: int) -> LearningRateSchedule:
    """The learning rate over the run."""
    training = config.training
    warmup_steps = training.num_warmup_steps(total_steps)
    if warmup_steps >= total_steps and training.lr_scheduler_type != "constant":
        logger.warning(
            "warmup_steps %d is not less than the run's %d steps: learning_rate %g is never reached; for small data, "
            "set warmup_steps to 0 and warmup_ratio to a share of the steps",
            warmup_steps, total_steps, training.learning_rate,
        )  # fmt: skip
    return LearningRateSchedule(
        name=training.lr_scheduler_type,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        min_ratio=training.lr_min_ratio,
        restarts=training.lr_scheduler_restarts,
        milestones=tuple(training.milestone_steps(total_steps)),
        gamma=training.lr_scheduler_gamma,
    )


def _used_splits(config: RunConfig) -> list[str]:
    """The split to train on, then the one to evaluate on, if any."""
    names = config.data.train_split_name
    used = [names if isinstance(names, str) else names[0]]
    return [*used, evaluation_split(config.data)] if config.training.do_eval else used


def _training_data(
    config: RunConfig,
    core: SongGenForConditionalGeneration,
    auxiliary_tracks: tuple[str, ...],
    accelerator: Accelerator,
) -> TrainingData:
    """The training clips, checked against the model."""
    split = _used_splits(config)[0]
    songs = open_songs(config.data, split, (*core.task.target_tracks, *auxiliary_tracks), config.data.max_train_samples)
    _require_fit(config, core, songs, auxiliary_tracks)
    samples = TrainingSamples(
        songs,
        _sample_options(config),
        (*core.task.target_tracks, *auxiliary_tracks),
        seed=config.training.seed,
    )
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


def _evaluator(
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
    if uses_voice and not songs.info.voice_sample_rate:
        logger.warning("%s holds no reference voices: the model is trained without them", songs.name)


def _cache_captions(core: SongGenForConditionalGeneration, data: Sequence[TrainingData]) -> None:
    """Compute the captions' features once, where they fit into memory: every epoch asks for the same ones.

    Each caption is encoded alone: inside of a batch its features would differ in their last bits with its neighbours,
    and a resumed run, which meets the captions in other batches first, would no longer equal an uninterrupted one.
    """
    encoder = core.text_encoder
    captions = {part.samples.options.empty_caption_ids for part in data}
    size = sum(int(part.samples.dataset.caption_lengths().sum()) for part in data)
    size += sum(int(part.samples.dataset.variant_lengths().sum()) for part in data if part.samples.varies_captions)
    size *= encoder.hidden_size * encoder.dtype.itemsize
    fits = size <= TEXT_CACHE_BYTES
    decision = "computed once" if fits else "computed for each batch"
    logger.info("features of all captions take %.1f MB: %s", size / 1e6, decision)
    if not fits:
        return
    encoder.cache = FeatureCache(2 * TEXT_CACHE_BYTES)
    for part in data:
        songs = part.samples.dataset
        for row in map(songs.row, range(len(songs))):
            texts = [row.caption_ids, *(row.caption_variants if part.samples.varies_captions else ())]
            captions.update(tuple(ids.tolist()) for ids in texts)
    for caption in sorted(captions):
        encoder.encode(torch.tensor([caption]))


def _prepare(config: RunConfig, core: SongGenForConditionalGeneration, accelerator: Accelerator) -> Engine:
    """Move the model to its device, wrap it, and make its optimizer."""
    training = config.training
    core.set_gradient_checkpointing(config.model.gradient_checkpointing)
    core.set_input_masking(config.model.input_masking)
    if accelerator.distributed_type != DistributedType.FSDP:
        core.to(accelerator.device)
    if training.torch_compile:
        for layer in core.decoder.model.decoder.layers:
            layer.compile(dynamic=True)
    options = OptimizerOptions(
        learning_rate=training.learning_rate,
        name=training.optimizer,
        betas=(training.adam_beta1, training.adam_beta2),
        epsilon=training.adam_epsilon,
        weight_decay=training.weight_decay,
    )
    engine: Engine
    if plugin := deepspeed_plugin(training.dtype):
        engine = prepare_zero(core, build_optimizer(core, options), plugin, training.dtype, accelerator.device)
    else:
        engine = AcceleratedEngine(accelerator, *accelerator.prepare(core, build_optimizer(core, options)))
    for name, part in core.attached().items():
        core.attach(name, part)
    return engine


def _reporter(
    config: RunConfig,
    core: SongGenForConditionalGeneration,
    data: TrainingData,
    evaluator: Evaluator | None,
    accelerator: Accelerator,
    console: Console,
    total_steps: int,
) -> Reporter:
    """What the run shows and keeps."""
    training = config.training
    trained = sum(entry.numel() for entry in core.parameters() if entry.requires_grad)
    frames = config.data.max_frames_per_batch
    summary = RunSummary(
        model=f"{config.model.model_name_or_path}, layout {core.layout.name}",
        trained_parameters=trained,
        frozen_parameters=sum(entry.numel() for entry in core.parameters()) - trained,
        num_clips=len(data.samples),
        hours=float(data.samples.dataset.durations.sum()) / SECONDS_PER_HOUR,
        num_evaluation_clips=len(evaluator.data.samples) if evaluator is not None else 0,
        micro_batch=f"{frames:,} frames" if frames else f"{training.per_device_train_batch_size} clips",
        world_size=accelerator.num_processes,
        accumulation=training.gradient_accumulation_steps,
        device=str(accelerator.device),
        precision=training.dtype,
        total_steps=total_steps,
        num_epochs=round(total_steps / data.plan.steps_per_epoch(0), 2),
    )

    def open_trackers(resume_step: int | None) -> Trackers:
        return Trackers(
            Path(training.output_dir),
            training.trackers(),
            project=training.wandb_project,
            run_name=training.wandb_run_name,
            config=config.to_dict(),
            resume_step=resume_step,
            enabled=accelerator.is_main_process,
            send_audio=training.add_audio_samples_to_wandb,
        )

    return Reporter(console, summary, open_trackers)
