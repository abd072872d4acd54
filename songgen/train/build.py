"""Builds a trainer from a configuration. Every part is made here and checked against the others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from songgen.config import RunConfig
from songgen.data.curriculum.growth import KnownRows
from songgen.data.dataset import SongDataset
from songgen.data.integrity import require_intact_data
from songgen.families.family import Family
from songgen.families.objective import Objective
from songgen.families.registry import family_of
from songgen.families.songs import Processes, TrainingData, evaluation_data, training_data, used_splits
from songgen.families.trainable import Trainable
from songgen.runtime.processes.agreement import from_main
from songgen.runtime.processes.commands import Inbox
from songgen.runtime.processes.deepspeed_launch import deepspeed_plugin
from songgen.runtime.processes.group import StartPatience
from songgen.runtime.processes.heartbeat import Heartbeat
from songgen.runtime.tensor_files import non_finite_names
from songgen.tasks import Task
from songgen.train.checkpoints.files import shown
from songgen.train.checkpoints.manager import CheckpointManager
from songgen.train.checkpoints.resume import (
    Resumption,
    continue_curve,
    count_epochs,
    count_steps,
    find_resumption,
    require_same_songs,
)
from songgen.train.checkpoints.state import CurvePosition, TrainerState
from songgen.train.control.control import RunControl
from songgen.train.control.journal import Planned, planned_commands
from songgen.train.control.work import OwedWork
from songgen.train.data_growth import DataGrowth, recorded_growth
from songgen.train.evaluation import Evaluator, SongSchedule
from songgen.train.final_model import ModelWriter
from songgen.train.intervals import Intervals
from songgen.train.optimization.anomalies import AnomalyPolicy, AnomalyWatch
from songgen.train.optimization.deepspeed import prepare_zero
from songgen.train.optimization.ema import MovingAverage
from songgen.train.optimization.engine import AcceleratedEngine, Engine, GradientLimit
from songgen.train.optimization.loss_scale import LossScaleBounds
from songgen.train.optimization.master_weights import (
    MasterWeights,
    cast_weights,
    describe_precision,
    require_possible_weights,
)
from songgen.train.optimization.optimizer import OptimizerOptions, build_optimizer
from songgen.train.optimization.schedules import LearningRateSchedule
from songgen.train.optimization.sharding import autocast_forward, require_shardable
from songgen.train.reporting.console import Console, RunSummary
from songgen.train.reporting.milestones import Milestones
from songgen.train.reporting.plots.background import BackgroundPlots
from songgen.train.reporting.reporter import Reporter
from songgen.train.reporting.trackers import Trackers, has_samples
from songgen.train.same_everywhere import require_same_model
from songgen.train.step import TrainingStep
from songgen.train.totals import StepTotals
from songgen.train.trainer import Trainer

logger = logging.getLogger(__name__)

SECONDS_PER_HOUR = 3600


def build_trainer(
    config: RunConfig, task: Task | None, accelerator: Accelerator, console: Console, heartbeat: Heartbeat
) -> Trainer:
    """Build a trainer. Configuration and data are checked first, before anything moves to a device.

    Args:
        config: resolved configuration.
        task: what the launching script trains, a hint to the family; None: whatever the model is made for.
        accelerator: from `songgen.runtime.processes.start.start_processes`.
        console: console output of this process.
        heartbeat: heartbeat of this process.

    Raises:
        ValueError: if model, data and configuration do not fit together; the message says what to change.
    """
    training = config.training
    output_dir = Path(training.output_dir)
    require_possible_weights(training.weights_dtype, accelerator.distributed_type)
    require_shardable(config, accelerator)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    checkpoints = _checkpoints(config, rank, world_size)
    resumption = find_resumption(config, checkpoints)
    if config.data.verify_data_hashes:
        splits = used_splits(config)
        require_intact_data(config.data.dataset_folders(), splits, output_dir, rank=rank, world_size=world_size)
    with accelerator.local_main_process_first():
        family = family_of(config.model.model_name_or_path, config.model.model_revision)
        core = family.open_model(config, task)
    if bad := non_finite_names(core.state_dict()):
        raise ValueError(f"{config.model.model_name_or_path} holds NaN or infinity in {shown(bad)}; start from another")
    objective = family.objective(config, core)
    processes = Processes(rank, world_size)
    data, held_out, growth = _open_data(config, family, core, objective, processes, resumption)
    # The number of steps depends on the position: a resumed epoch may have other batches (see `count_steps`).
    state = TrainerState() if resumption is None else resumption.state
    planned = _planned(output_dir, training.replay, state.step, rank)
    total_steps = count_steps(config, data.plan, state)
    evaluator = _evaluator(config, objective, held_out, total_steps)
    family.prepare_model(config, core, data)
    trainable = family.choose_trained(config, core)
    if config.adapter.lora is not None and trainable.form is None:
        raise ValueError(f"lora: models of the family {family.name} train without adapters; remove the key")
    checkpoints.form = trainable.form
    content = {**data.signature, **family.frozen_content(core, trainable)}
    require_same_model(content, core)
    _put_in_place(state, config, total_steps, data.plan.steps_per_epoch(0), content, resumption)
    engine = _prepare(config, core, trainable, accelerator)
    schedule, inbox = _schedule(config, state.curve), Inbox(output_dir)
    reporter = _reporter(config, family, core, engine, data, held_out, accelerator, console, state)
    control = RunControl(
        inbox, state, config, output_dir, schedule, accelerator.scaler, evaluator, reporter, rank, planned
    )
    average = _average(config, engine)
    writer = ModelWriter(family, accelerator, core, engine, config, state)
    family.start(config, core, [data] if held_out is None else [data, held_out], processes)
    return Trainer(
        config=config,
        accelerator=accelerator,
        output_dir=output_dir,
        objective=objective,
        core=core,
        engine=engine,
        data=data,
        total_steps=total_steps,
        training_step=TrainingStep(accelerator, engine, objective, _gradient_limit(config)),
        average=average,
        anomalies=AnomalyWatch(AnomalyPolicy.of(training), output_dir, config.data.dataset_folders(), rank == 0),
        loss_scale=_loss_scale(config, accelerator),
        intervals=_intervals(config, data.plan.steps_per_epoch(0), total_steps),
        growth=growth,
        evaluator=evaluator,
        checkpoints=checkpoints,
        reporter=reporter,
        totals=StepTotals(objective, accelerator.device),
        heartbeat=heartbeat,
        patience=StartPatience(training.ddp_timeout),
        control=control,
        writer=writer,
        owed_work=OwedWork(control, writer, average, heartbeat),
        inbox=inbox,
        resumption=resumption,
        state=state,
    )


def _open_data(
    config: RunConfig,
    family: Family[Any],
    core: nn.Module,
    objective: Objective,
    processes: Processes,
    resumption: Resumption | None,
) -> tuple[TrainingData, TrainingData | None, DataGrowth | None]:
    """Open the clips to train on and, if the configuration asks for evaluation, the held-out clips.

    Returns:
        Both, and what reads the clips again as the data sets grow, if the configuration asks for it.

    Raises:
        ValueError: if they do not fit the model.
    """
    assert objective.data_needs.target_kind == family.target_kind, family.name

    def check(songs: SongDataset) -> None:
        family.check_data(config, core, songs, objective.data_needs)

    held_out = evaluation_data(config, objective, check, processes) if config.training.do_eval else None
    if not config.training.reload_dataloaders_every_n_epochs:
        return training_data(config, objective, check, processes), held_out, None

    def read(known_rows: KnownRows) -> TrainingData:
        return training_data(config, objective, check, processes, known_rows)

    def start(data: TrainingData) -> None:
        family.start(config, core, [data] if held_out is None else [data, held_out], processes)

    growth = DataGrowth(config, processes, read, start)
    return growth.first(resumption.state.plan if resumption else {}), held_out, growth


def _evaluator(
    config: RunConfig, objective: Objective, data: TrainingData | None, total_steps: int
) -> Evaluator | None:
    """Return the evaluator of the held-out clips; None if there are none."""
    training = config.training
    if data is None:
        return None
    if training.eval_random_texts and len(data.samples) < 2:
        raise ValueError("eval_random_texts: random texts are those of two held-out clips, and there is one only")
    songs = SongSchedule(
        num_songs=training.num_generated_samples,
        interval=training.eval_generation_steps,
        last_step=total_steps,
        at_evaluations=training.predict_with_generate,
        random_texts=training.eval_random_texts,
        originals_logged=has_samples(Path(training.output_dir), step=0),
    )
    return Evaluator(objective, data, songs)


def _checkpoints(config: RunConfig, rank: int, world_size: int) -> CheckpointManager:
    """Return the manager that saves and finds the run's checkpoints."""
    return CheckpointManager(
        Path(config.training.output_dir),
        save_total_limit=config.training.save_total_limit,
        rank=rank,
        world_size=world_size,
        allow_inexact=config.training.allow_inexact_resume,
    )


def _planned(output_dir: Path, replay: str, step: int, rank: int) -> list[Planned]:
    """Return the commands that the run carries out by itself, on the main process; the others learn of them from it.

    Raises:
        ValueError: if a journal is missing or damaged, on every process.
    """
    planned: list[Planned] = []
    from_main(rank, lambda: planned.extend(planned_commands(output_dir, replay, step)))
    return planned


def _put_in_place(
    state: TrainerState,
    config: RunConfig,
    total_steps: int,
    steps_per_epoch: int,
    content: dict[str, Any],
    resumption: Resumption | None,
) -> None:
    """Fit a new or loaded state to the run that begins now.

    Args:
        state: state of the trainer, changed in place.
        config: configuration of this launch.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
        content: identity of the data and the frozen weights of this launch; see `TrainerState.plan`.
        resumption: checkpoint that the state comes from; None for a new run.

    Raises:
        ValueError: if the state is a position in other songs than those of this launch.
    """
    require_same_songs(state.plan, content, mid_epoch=config.training.do_train and state.batches_in_epoch > 0)
    state.curve = continue_curve(state, total_steps, steps_per_epoch, resumption.changed if resumption else ())
    state.total_steps, state.plan = total_steps, content | recorded_growth(state.plan)
    if resumption is not None and "learning_rate" in resumption.changed and state.commands.learning_rate is not None:
        logger.info("learning_rate has changed: it replaces the one of the command lr")
        state.commands.learning_rate = None


def _loss_scale(config: RunConfig, accelerator: Accelerator) -> LossScaleBounds:
    """Return the bounds of float16's loss scale, which starts at its cap."""
    training = config.training
    bounds = LossScaleBounds(training.loss_scale_floor, training.loss_scale_cap, training.max_skipped_steps)
    bounds.begin(accelerator.scaler)
    return bounds


def _intervals(config: RunConfig, steps_per_epoch: int, total_steps: int) -> Intervals:
    """Return the numbers of steps between logging, evaluations and checkpoints; warn if none is due before the end."""
    training = config.training
    intervals = Intervals.of(training, steps_per_epoch, total_steps)
    if training.do_train and total_steps > 1:
        for key, problem in intervals.problems(total_steps).items():
            logger.warning('%s %s ("auto" follows the length of the run)', key, problem)
    return intervals


def _gradient_limit(config: RunConfig) -> GradientLimit:
    """Return the limit of the gradients."""
    training = config.training
    return GradientLimit(training.max_grad_norm, by_element=training.gradient_clip_algorithm == "value")


def _average(config: RunConfig, engine: Engine) -> MovingAverage | None:
    """Return the moving average of the weights; None if none is kept."""
    decay = config.training.ema_decay
    return MovingAverage(engine.parameters, decay, engine.show_weights) if decay else None


def _schedule(config: RunConfig, curve: CurvePosition) -> LearningRateSchedule:
    """Return the learning rate schedule, and warn if the warm-up never ends."""
    training, total_steps = config.training, curve.length
    warmup_steps = training.num_warmup_steps(total_steps, curve.steps_per_epoch)
    if warmup_steps >= total_steps and training.lr_scheduler_type != "constant":
        logger.warning(
            "the warm-up of %d steps is not shorter than the run of %d steps: learning_rate %g is never reached; for "
            "small data, set warmup_steps to 0 and warmup_ratio to a share of the steps",
            warmup_steps, total_steps, training.learning_rate,
        )  # fmt: skip
    return LearningRateSchedule(
        name=training.lr_scheduler_type,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        min_ratio=training.lr_min_ratio,
        restarts=training.lr_scheduler_restarts,
        damping=training.lr_scheduler_damping,
        milestones=tuple(training.milestone_steps(total_steps, curve.steps_per_epoch)),
        gamma=training.lr_scheduler_gamma,
    )


def _prepare(config: RunConfig, core: nn.Module, trainable: Trainable, accelerator: Accelerator) -> Engine:
    """Move the model to its device, wrap it, and build its optimizer."""
    training = config.training
    # FSDP moves each shard to the device itself; the whole model may not fit on one.
    if accelerator.distributed_type == DistributedType.FSDP:
        autocast_forward(accelerator, core)
    else:
        core.to(accelerator.device)
    options = OptimizerOptions(
        learning_rate=training.learning_rate,
        name=training.optimizer,
        betas=(training.adam_beta1, training.adam_beta2),
        epsilon=training.adam_epsilon,
        weight_decay=training.weight_decay,
    )
    masters = None
    if training.weights_dtype != "float32":
        masters = MasterWeights(trainable.parameters(core))  # before the model's own are rounded
        cast_weights(core, getattr(torch, training.weights_dtype))
    optimizer = build_optimizer(core, trainable, options, masters)
    if plugin := deepspeed_plugin(training.dtype):
        return prepare_zero(core, trainable, optimizer, plugin, training.dtype, accelerator.device)
    model, optimizer = accelerator.prepare(core, optimizer)
    return AcceleratedEngine(accelerator, model, optimizer, trainable, masters)


def _reporter(
    config: RunConfig,
    family: Family[Any],
    core: nn.Module,
    engine: Engine,
    data: TrainingData,
    held_out: TrainingData | None,
    accelerator: Accelerator,
    console: Console,
    state: TrainerState,
) -> Reporter:
    """Return the reporter of the run: console, metrics file and trackers."""
    training, total_steps = config.training, state.total_steps
    trained = sum(entry.numel() for entry in engine.parameters.values())
    frames = config.data.max_frames_per_batch
    summary = RunSummary(
        model=family.describe(config, core),
        trained_parameters=trained,
        frozen_parameters=sum(entry.numel() for entry in core.parameters()) - trained,
        num_clips=len(data.samples),
        hours=float(data.samples.dataset.durations.sum()) / SECONDS_PER_HOUR,
        num_evaluation_clips=len(held_out.samples) if held_out is not None else 0,
        micro_batch=f"{frames:,} frames" if frames else f"{training.per_device_train_batch_size} clips",
        world_size=accelerator.num_processes,
        accumulation=training.gradient_accumulation_steps,
        device=str(accelerator.device),
        precision=describe_precision(training.dtype, training.weights_dtype),
        total_steps=total_steps,
        num_epochs=round(count_epochs(data.plan, state, total_steps), 2),
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

    plots = training.do_train and (training.every_plot_step or training.plot_epochs) is not None
    return Reporter(
        console,
        summary,
        open_trackers,
        Milestones(tuple(training.loss_milestones), tuple(training.accuracy_milestones)),
        BackgroundPlots(Path(training.output_dir)) if plots and accelerator.is_main_process else None,
    )
