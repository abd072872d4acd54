"""From a configuration to a trainer: every part is made here, checked against the others, and nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from songgen.config import RunConfig
from songgen.data.integrity import require_intact_data
from songgen.families.tokens.data_parts import build_evaluator, build_training_data, cache_captions, used_splits
from songgen.families.tokens.model_parts import frozen_content, load_model
from songgen.families.tokens.songs import TrainingData
from songgen.models.freeze import freeze
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.runtime.commands import Inbox
from songgen.runtime.deepspeed_launch import deepspeed_plugin
from songgen.runtime.distributed import StartPatience
from songgen.runtime.heartbeat import Heartbeat
from songgen.tasks import Task
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.resume import (
    Resumption,
    continue_curve,
    count_steps,
    find_resumption,
    require_same_songs,
)
from songgen.train.checkpoints.state import TrainerState
from songgen.train.evaluation import Evaluator
from songgen.train.optimization.anomalies import AnomalyPolicy, AnomalyWatch
from songgen.train.optimization.deepspeed import prepare_zero
from songgen.train.optimization.ema import MovingAverage
from songgen.train.optimization.engine import AcceleratedEngine, Engine
from songgen.train.optimization.loss_scale import LossScaleBounds
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer
from songgen.train.optimization.schedules import CodebookWeights, LearningRateSchedule
from songgen.train.optimization.sharding import autocast_forward
from songgen.train.reporting.console import Console, RunSummary
from songgen.train.reporting.reporter import Reporter
from songgen.train.reporting.trackers import Trackers
from songgen.train.step import TrainingStep
from songgen.train.totals import StepTotals
from songgen.train.trainer import Intervals, Trainer

logger = logging.getLogger(__name__)

SECONDS_PER_HOUR = 3600


def build_trainer(
    config: RunConfig, task: Task, accelerator: Accelerator, console: Console, heartbeat: Heartbeat
) -> Trainer:
    """Make a trainer, in the order of cost: configuration and data are checked before anything moves to a device.

    Args:
        config: resolved configuration.
        task: what the model is to write.
        accelerator: from `songgen.runtime.processes.start_processes`.
        console: of this process.
        heartbeat: of this process.

    Raises:
        ValueError: model, data and configuration do not fit together; the message says what to change.
    """
    training = config.training
    output_dir = Path(training.output_dir)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    checkpoints = _checkpoints(config, rank, world_size)
    resumption = find_resumption(config, checkpoints)
    require_intact_data(config.data, used_splits(config), output_dir, rank=rank, world_size=world_size)
    with accelerator.local_main_process_first():
        core = load_model(config, task)
    auxiliary_tracks = task.auxiliary_tracks if training.add_vocal_loss else ()
    data = build_training_data(config, core, auxiliary_tracks, accelerator)
    state = TrainerState() if resumption is None else resumption.state
    total_steps = count_steps(config, data.plan, state)
    evaluator = build_evaluator(config, core, auxiliary_tracks, accelerator, total_steps)
    core.release("audio_codec")  # that it loads is known; between two rounds of songs it would only take memory
    _freeze(config, core)
    _put_in_place(state, config, total_steps, data.signature | frozen_content(core), resumption)
    engine = _prepare(config, core, accelerator)
    cache_captions(core, [data] if evaluator is None else [data, evaluator.data])
    return Trainer(
        config=config,
        accelerator=accelerator,
        output_dir=output_dir,
        core=core,
        engine=engine,
        data=data,
        total_steps=total_steps,
        training_step=_training_step(config, core, engine, accelerator, with_vocal_loss=bool(auxiliary_tracks)),
        schedule=_schedule(config, state.curve.length),
        codebook_weights=_codebook_weights(config, core),
        average=MovingAverage(engine.model, training.ema_decay) if training.ema_decay else None,
        anomalies=AnomalyWatch(AnomalyPolicy.of(training), output_dir, config.data.dataset_folders(), rank == 0),
        loss_scale=_loss_scale(config, accelerator),
        intervals=_intervals(config, data.plan.steps_per_epoch(0)),
        evaluator=evaluator,
        checkpoints=checkpoints,
        reporter=_reporter(config, core, data, evaluator, accelerator, console, total_steps),
        totals=StepTotals(core.layout, accelerator.device),
        heartbeat=heartbeat,
        patience=StartPatience(training.ddp_timeout),
        inbox=Inbox(output_dir),
        resumption=resumption,
        state=state,
    )


def unused_groups(config: RunConfig, core: SongGenForConditionalGeneration) -> list[str]:
    """Groups of parameters that no training target reaches with this configuration; they must not be trained."""
    groups = [] if config.training.add_vocal_loss else ["vocal_heads"]
    if not core.config.prompt_cross_attention:
        groups += ["lyrics_encoder", "lyrics_projection"]
    return groups


def _checkpoints(config: RunConfig, rank: int, world_size: int) -> CheckpointManager:
    """What saves and finds the checkpoints of the run."""
    return CheckpointManager(
        Path(config.training.output_dir),
        save_total_limit=config.training.save_total_limit,
        rank=rank,
        world_size=world_size,
        allow_inexact=config.training.allow_inexact_resume,
    )


def _put_in_place(
    state: TrainerState, config: RunConfig, total_steps: int, content: dict[str, Any], resumption: Resumption | None
) -> None:
    """Fit a state, new or of a checkpoint, to the run that now begins.

    Args:
        state: changed in place.
        config: of this launch.
        total_steps: of the whole run.
        content: what the run is made of now, see `TrainerState.plan`.
        resumption: where the state comes from.

    Raises:
        ValueError: the state means a place in other songs.
    """
    require_same_songs(state.plan, content, mid_epoch=config.training.do_train and state.batches_in_epoch > 0)
    state.curve = continue_curve(state, total_steps, resumption.changed if resumption else ())
    state.total_steps, state.plan = total_steps, content


def _freeze(config: RunConfig, core: SongGenForConditionalGeneration) -> None:
    """Freeze what the configuration says, and what nothing would train."""
    frozen = freeze(core, [*config.training.frozen_groups(), *unused_groups(config, core)])
    logger.info("frozen: %s", ", ".join(frozen) or "nothing")


def _training_step(
    config: RunConfig,
    core: SongGenForConditionalGeneration,
    engine: Engine,
    accelerator: Accelerator,
    *,
    with_vocal_loss: bool,
) -> TrainingStep:
    """What makes a step of micro-batches."""
    return TrainingStep(
        accelerator=accelerator,
        engine=engine,
        layout=core.layout,
        train_every_eos=core.config.train_every_eos,
        max_gradient_norm=config.training.max_grad_norm,
        vocal_loss_weight=config.training.vocal_loss_weight if with_vocal_loss else 0.0,
    )


def _codebook_weights(config: RunConfig, core: SongGenForConditionalGeneration) -> CodebookWeights:
    """The weights of the codebooks over the run."""
    return CodebookWeights.build(
        core.layout.num_codebooks,
        weighted=config.training.codebook_weighting,
        start=config.training.codebook_weights_start,
        end=config.training.codebook_weights_end,
    )


def _loss_scale(config: RunConfig, accelerator: Accelerator) -> LossScaleBounds:
    """The bounds of float16's loss scale, which begins at its cap."""
    training = config.training
    bounds = LossScaleBounds(training.loss_scale_floor, training.loss_scale_cap, training.max_skipped_steps)
    bounds.begin(accelerator.scaler)
    return bounds


def _intervals(config: RunConfig, steps_per_epoch: int) -> Intervals:
    """After how many steps something is due."""
    return Intervals(
        log=config.training.logging_interval(steps_per_epoch),
        evaluate=config.training.eval_interval(steps_per_epoch),
        save=config.training.save_interval(steps_per_epoch),
    )


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


def _prepare(config: RunConfig, core: SongGenForConditionalGeneration, accelerator: Accelerator) -> Engine:
    """Move the model to its device, wrap it, and make its optimizer."""
    training = config.training
    core.set_gradient_checkpointing(config.model.gradient_checkpointing)
    core.set_input_masking(config.model.input_masking)
    if accelerator.distributed_type == DistributedType.FSDP:
        autocast_forward(accelerator, core)
    else:
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
    for name, part in core.attached().items():  # sharding takes the weights to the device, and not these
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
