"""A trial of a configuration: the real trainer on one clip, bounded in steps and seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from songgen.config import RunConfig
from songgen.data.schema import EVAL_SPLIT, TRAIN_SPLIT
from songgen.runtime.processes.commands import Interrupted
from songgen.tasks import Task
from songgen.train.build import build_trainer
from songgen.train.launch import Run
from songgen.train.optimization.anomalies import NonFiniteError
from songgen.train.reporting.console import Console
from songgen.train.trainer import Trainer
from songgen.tryout.verdict import NEEDED_STEPS, Findings

CHECK_EVERY = 10
"""Number of steps between two measurements of the accuracy."""

TIMED_STEPS = 3
"""Number of steps after which the time that a trial needs is known; the first one is not counted."""

WARMUP_STEPS = 5

WEIGHTS_SAMPLE = 4096
"""Number of values of each parameter whose change is measured."""

LEFT_OUT: dict[str, Any] = {
    "resume": "never",
    "overwrite_output_dir": False,
    "do_train": True,
    "do_eval": True,
    "train_split_name": TRAIN_SPLIT,
    "eval_split_name": EVAL_SPLIT,
    "max_train_samples": None,
    "max_eval_samples": None,
    "min_duration_in_seconds": 0.0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_frames_per_batch": None,
    "group_by_length": False,
    "order": "random",
    "reload_dataloaders_every_n_epochs": 0,
    "dataloader_num_workers": 0,
    "eval_dataloader_num_workers": 0,
    "lr_scheduler_type": "constant_with_warmup",
    "lr_scheduler_milestones": [],
    "lr_scheduler_milestone_epochs": [],
    "lr_min_ratio": 0.0,
    "lr_scheduler_gamma": 0.5,
    "lr_scheduler_restarts": 1,
    "lr_scheduler_damping": 1.0,
    "warmup_epochs": 0.0,
    "every_plot_step": None,
    "plot_epochs": None,
    "replay": "never",
    "warmup_steps": WARMUP_STEPS,
    "warmup_ratio": 0.0,
    "ema_decay": None,
    "non_finite": "stop",
    "loss_spike_policy": "off",
    "eval_strategy": "no",
    "predict_with_generate": False,
    "eval_generation_steps": None,
    "eval_random_texts": False,
    "save_steps": 1,
    "save_epochs": None,
    "report_to": ["none"],
    "push_to_hub": False,
}
"""Keys of a configuration that a trial replaces: what belongs to many clips and to long runs."""


@dataclass(frozen=True)
class Limits:
    """Limits of a trial."""

    seconds: float
    """Seconds of training."""
    steps: int
    """Number of optimizer steps."""


def trial_config(config: RunConfig, clip: Path, output_dir: Path, limits: Limits) -> RunConfig:
    """Return the configuration of a trial: model, learning rate and losses of `config`, on one clip."""
    values = config.to_dict() | LEFT_OUT
    values |= {"save_to_disk": str(clip), "output_dir": str(output_dir), "max_steps": limits.steps}
    return RunConfig.from_dict(values)


def run_trial(config: RunConfig, task: Task | None, console: Console, limits: Limits, *, keep: bool) -> Findings:
    """Train on the clip until it is learned, or a limit is reached.

    Args:
        config: configuration of the trial.
        task: task that the model is trained for; None for a model without tasks.
        console: console of the run.
        limits: limits of the trial.
        keep: whether to write the model into the output folder.

    Returns:
        What was measured. An error of the training is part of it.
    """
    found = Findings()
    with Run(config, task) as run:
        try:
            trainer = build_trainer(config, task, run.accelerator, console, run.supervision.heartbeat)
            run.take_commands(trainer.inbox, console)
            with trainer.reporter:
                _Trial(trainer, found, limits).run()
            if keep:
                trainer.finish()
        except ValueError as error:
            found.refusal = str(error)
        except NonFiniteError:
            found.refusal = (
                f"after {len(found.losses)} steps the loss or its gradients are NaN or infinite; a lower "
                f"{found.rate_key} than {found.learning_rate:g} or dtype float32 may help. In the very first step, the "
                "weights of the model or the clip are at fault"
            )
        run.done(len(found.losses), stopped=False)
    return found


class _Trial:
    """A trial under way."""

    def __init__(self, trainer: Trainer, found: Findings, limits: Limits) -> None:
        self.trainer = trainer
        self.found = found
        self.limits = limits
        trainable, own_rate = trainer.engine.trainable, trainer.config.adapter.lora_learning_rate
        found.learning_rate, found.frozen = trainer.config.training.learning_rate, trainable.frozen_groups
        found.has_adapter = trainable.form is not None
        if found.has_adapter and own_rate is not None:
            found.learning_rate, found.rate_key = own_rate, "lora_learning_rate"
        found.device = trainer.accelerator.device.type
        found.mastery = trainer.objective.mastery
        self._first: dict[str, float] = {}

    def run(self) -> None:
        """Train and measure."""
        found, before = self.found, self._weights()
        self.trainer.reporter.start(0)
        self._first = self._measured() or {}
        began = time.monotonic()
        for batches in self.trainer.remaining_steps():
            result = self.trainer.step(batches)
            self.trainer.obey(result)
            found.losses.append(result.loss)
            found.norms.append(float(result.gradient_norm))
            found.seconds = time.monotonic() - began
            if len(found.losses) == 1:
                after_first = found.seconds
            elif len(found.losses) <= TIMED_STEPS:
                found.seconds_per_step = (found.seconds - after_first) / (len(found.losses) - 1)
                needed = found.seconds_per_step * NEEDED_STEPS
                found.too_slow = len(found.losses) == TIMED_STEPS and needed > self.limits.seconds
            is_over = (
                found.too_slow
                or (found.seconds > self.limits.seconds and len(found.losses) > TIMED_STEPS)
                or len(found.losses) == self.limits.steps
                or self.trainer.stopped
            )
            is_due = is_over or len(found.losses) % CHECK_EVERY == 0
            if (is_due and self._has_learned()) or is_over:
                break
        found.weight_change = float((self._weights() - before).norm() / before.norm().clamp(min=1e-12))

    def _has_learned(self) -> bool:
        """Measure the clip, and let the model sing it once it predicts it."""
        trainer, found = self.trainer, self.found
        metrics = self._measured()
        if metrics is None or not self._first:
            return False
        found.known = trainer.objective.known_share(metrics, self._first)
        step, loss = trainer.state.step, metrics["loss"]
        trainer.reporter.console.info(f"step {step}: loss {loss:.3g}, {found.mastery.known.format(found.known)}")
        if found.is_known:
            assert trainer.evaluator is not None
            found.recall = trainer.objective.recall(trainer.core, trainer.evaluator.data.samples)
        return found.learned

    def _measured(self) -> dict[str, float] | None:
        """Return the metrics of the clip; None if the run was asked to stop."""
        trainer, evaluator = self.trainer, self.trainer.evaluator
        assert evaluator is not None
        try:
            return evaluator.run(
                trainer.engine.model, trainer.core, trainer.state.step, trainer.reporter, trainer.inbox
            )
        except Interrupted:
            return None

    def _weights(self) -> Tensor:
        """Return some values of every trained parameter, as one vector."""
        with torch.no_grad():
            parts = [entry.detach().flatten()[:WEIGHTS_SAMPLE] for entry in self.trainer.engine.parameters.values()]
            return torch.cat([part.float().cpu() for part in parts])
