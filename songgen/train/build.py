"""From a configuration to a trainer: every part is made here, checked against the others, and nowhere else."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType

from songgen.config import RunConfig
from songgen.models.freeze import freeze
from songgen.models.modeling_songgen import SongGenForConditionalGeneration
from songgen.tasks import Task
from songgen.train.anomalies import AnomalyPolicy, AnomalyWatch
from songgen.train.checkpoint import CheckpointManager
from songgen.train.console import Console, RunSummary
from songgen.train.data_check import require_intact_data
from songgen.train.data_parts import build_evaluator, build_training_data, cache_captions, used_splits
from songgen.train.deepspeed import prepare_zero
from songgen.train.deepspeed_launch import deepspeed_plugin
from songgen.train.distributed import StartPatience
from songgen.train.ema import MovingAverage
from songgen.train.engine import AcceleratedEngine, Engine
from songgen.train.evaluation import Evaluator
from songgen.train.heartbeat import Heartbeat
from songgen.train.loss_scale import LossScaleBounds
from songgen.train.model_parts import frozen_content, load_model
from songgen.train.optimizer import OptimizerOptions, build_optimizer
from songgen.train.reporting import Reporter
from songgen.train.resume import continue_curve, count_steps, find_resumption, require_same_songs
from songgen.train.schedules import CodebookWeights, LearningRateSchedule
from songgen.train.sharding import autocast_forward
from songgen.train.signals import STOP_FILE, StopSignals
from songgen.train.state import TrainerState
from songgen.train.step import TrainingStep
from songgen.train.totals import StepTotals
from songgen.train.trackers import Trackers
from songgen.train.trainer import Intervals, Trainer
from songgen.train.training_data import TrainingData

logger = logging.getLogger(__name__)

SECONDS_PER_HOUR = 3600


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
    require_intact_data(
        config.data,
        used_splits(config),
        output_dir,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    with accelerator.local_main_process_first():
        core = load_model(config, task)
    auxiliary_tracks = task.auxiliary_tracks if config.training.add_vocal_loss else ()
    data = build_training_data(config, core, auxiliary_tracks, accelerator)
    state = TrainerState() if resumption is None else resumption.state
    total_steps = count_steps(config, data.plan, state)
    evaluator = build_evaluator(config, core, auxiliary_tracks, accelerator, total_steps)
    core.release("audio_codec")  # that it loads is known; between two rounds of songs it would only take memory
    frozen = freeze(core, [*config.training.frozen_groups(), *unused_groups(config, core)])
    logger.info("frozen: %s", ", ".join(frozen) or "nothing")
    content = data.signature | frozen_content(core)
    require_same_songs(state.plan, content, mid_epoch=config.training.do_train and state.batches_in_epoch > 0)
    state.curve = continue_curve(state, total_steps, resumption.changed if resumption else ())
    state.total_steps, state.plan = total_steps, content
    engine = _prepare(config, core, accelerator)
    cache_captions(core, [data] if evaluator is None else [data, evaluator.data])
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
        stop_signals=StopSignals(output_dir / STOP_FILE),
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
