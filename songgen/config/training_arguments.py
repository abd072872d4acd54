"""Configuration keys of training: steps, optimizer, schedule, loss, evaluation, checkpoints and trackers."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from songgen.config.types import (
    Decay,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Range,
)

Tracker = Literal["wandb", "tensorboard", "none"]

Automatic = Literal["auto"]

ParameterGroup = str
"""Name of a group of parameters; which ones there are depends on the model, and is checked when it is opened."""


@dataclass(frozen=True)
class AutomaticInterval:
    """Interval that follows the length of a run."""

    per_run: int
    """How often the interval is due in a run."""

    longest: int
    """Most optimizer steps."""

    def of(self, num_steps: int) -> int:
        """Return the number of optimizer steps in a run of `num_steps`."""
        return min(self.longest, max(1, num_steps // self.per_run))


# With the published data (541,253 clips, 128 a step) these are the published intervals in every stage of 40 epochs or
# more. Shorter runs log, save and evaluate as often in proportion, instead of never.
LOGGING_INTERVAL = AutomaticInterval(per_run=80, longest=2_000)
SAVE_INTERVAL = AutomaticInterval(per_run=16, longest=10_000)
EVAL_INTERVAL = AutomaticInterval(per_run=8, longest=20_000)
PLOT_INTERVAL = AutomaticInterval(per_run=16, longest=2_000)


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """The run: steps, optimizer, schedule, loss, evaluation, checkpoints and trackers."""

    output_dir: str = ""
    """Folder of the run, with checkpoints, metrics and finally the model. Required for training."""

    overwrite_output_dir: bool = False
    """Whether to start a new run if `output_dir` has one, which is moved to `<output_dir>.backup-1` (or -2, ...)."""

    resume: str = "auto"
    """Checkpoint to resume from: `auto` for the last valid one in `output_dir`, if there is one; `never`; or the folder
    of a checkpoint."""

    replay: str = "auto"
    """Commands of a journal to carry out at their steps: `auto` for those that this run received after the checkpoint
    that it resumes from; `never` to drop these; or the `journal.jsonl` of another run, which is then repeated."""

    allow_config_changes: bool = False
    """Whether to resume although keys that affect the computation have changed; the new values take effect. Model,
    tokenizers, codec and data can never change within a run."""

    allow_world_size_change: bool = False
    """Whether to resume from a checkpoint of another number of processes: no clip is lost or repeated and the learning
    rate continues along its schedule, but dropout differs from that of an uninterrupted run."""

    allow_inexact_resume: bool = False
    """Whether to resume from a checkpoint without random state; dropout differs from that of an uninterrupted run."""

    preprocessing_only: bool = False
    """Whether the file is for preprocessing only, so that no model and no output folder is required."""

    do_train: bool = True
    """Whether to train the model."""

    do_eval: bool = False
    """Whether to evaluate on the evaluation split, at the intervals of `eval_strategy` and at the end; without
    `do_train`, the run only evaluates."""

    seed: int = 456
    """Seed of all random numbers."""

    num_train_epochs: PositiveFloat = 3.0
    """Number of passes over the training data, unless `max_steps` is given."""

    max_steps: Annotated[int, Range(at_least=-1)] = -1
    """Number of optimizer steps. -1: as many as `num_train_epochs` needs."""

    per_device_train_batch_size: PositiveInt = 8
    """Number of clips in a training batch of a process."""

    per_device_eval_batch_size: PositiveInt = 8
    """Number of clips in an evaluation batch of a process."""

    gradient_accumulation_steps: PositiveInt = 1
    """Number of batches of each process per optimizer step."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the computation: that of matrix products (autocast); losses, sums and norms are float32. float16
    scales the loss."""

    weights_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights in the model, float32 or that of `dtype`. In 16 bits, frozen weights take half of the
    memory, and the optimizer keeps a float32 copy of the trained ones, which it updates and which checkpoints and the
    final model hold; gradients are 16-bit. Not with FSDP or DeepSpeed."""

    deterministic: bool = False
    """Whether to use deterministic operations only, so that two runs on the same machine with the same versions are
    equal bit for bit. Slower on a GPU; an operation without a deterministic form is an error."""

    torch_compile: bool = False
    """Whether to compile the model with torch.compile."""

    dataloader_num_workers: NonNegativeInt = 0
    """Number of processes that read training data, for each training process."""

    eval_dataloader_num_workers: NonNegativeInt = 0
    """Number of processes that read evaluation data, for each training process."""

    reload_dataloaders_every_n_epochs: NonNegativeInt = 0
    """Number of epochs after which the data sets are read again, so that clips that were appended to them in the
    meantime are trained on; their earlier rows must be unchanged. The steps and the learning rate of the rest of the
    run follow the new number of clips. 0: never; a data set that has changed is refused on resume. (Clips are shuffled
    again in every epoch in any case.)"""

    dataloader_timeout: PositiveInt = 600
    """Seconds to wait for a process that reads data; if it takes longer, the run ends."""

    ddp_timeout: PositiveInt = 600
    """Seconds that processes wait for each other; at least half an hour until the first step is complete. Writing a
    checkpoint and generating the songs of an evaluation must take less."""

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """Optimizer: AdamW, or its 8-bit form from bitsandbytes (`pip install -c constraints.txt -e ".[8bit]"`)."""

    learning_rate: PositiveFloat = 5e-5
    """Peak learning rate."""

    adam_beta1: Decay = 0.9
    """Decay rate of the first moment (mean of the gradients) in AdamW."""

    adam_beta2: Decay = 0.99
    """Decay rate of the second moment (mean of the squared gradients) in AdamW."""

    adam_epsilon: PositiveFloat = 1e-8
    """Term added to the denominator of AdamW's update."""

    weight_decay: NonNegativeFloat = 1e-4
    """Decoupled weight decay, applied to all weights except norms, biases and embeddings."""

    max_grad_norm: PositiveFloat = 1.0
    """Norm to which gradients are clipped; with `gradient_clip_algorithm` `value`, largest absolute value of each
    element."""

    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    """Clipping of the gradients of a step: `norm` scales all of them down together, so that their direction stays;
    `value` clips each element by itself."""

    lr_scheduler_type: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "multistep", "cosine_with_restarts"
    ] = "cosine"
    """Schedule of the learning rate after the warm-up."""

    warmup_steps: NonNegativeInt = 0
    """Number of optimizer steps in which the learning rate rises from 0."""

    warmup_ratio: Probability = 0.0
    """Length of the warm-up as a share of all steps, in place of `warmup_steps`."""

    warmup_epochs: NonNegativeFloat = 0.0
    """Length of the warm-up in epochs, in place of `warmup_steps`."""

    lr_min_ratio: Probability = 0.0
    """For `linear`, `cosine` and `cosine_with_restarts`: share of `learning_rate` at which they end (eta_min /
    learning_rate)."""

    lr_scheduler_milestones: list[PositiveFloat] = field(default_factory=list)
    """For `multistep`: points at which the learning rate drops, in ascending order, as optimizer steps or, below 1, as
    shares of all steps."""

    lr_scheduler_milestone_epochs: list[PositiveFloat] = field(default_factory=list)
    """For `multistep`: points at which the learning rate drops, in epochs, in place of `lr_scheduler_milestones`."""

    lr_scheduler_gamma: Annotated[float, Range(above=0, at_most=1)] = 0.5
    """For `multistep`: factor of the learning rate at each milestone."""

    lr_scheduler_restarts: NonNegativeInt = 1
    """For `cosine_with_restarts`: number of times that the learning rate returns to its peak."""

    lr_scheduler_damping: Annotated[float, Range(above=0, at_most=1)] = 1.0
    """For `cosine_with_restarts`: factor of the peak at each restart. 1: every restart reaches `learning_rate`; 0.5:
    half of it, then a quarter."""

    ema_decay: Decay | None = None
    """Decay of an exponential moving average of the weights. null: no average is kept."""

    non_finite: Literal["stop", "skip"] = "stop"
    """Reaction to a loss or gradients that are not finite: end the run, or skip the update."""

    max_skipped_steps: PositiveInt = 5
    """For `non_finite` skip: number of consecutive skipped updates after which the run ends. With dtype float16,
    updates whose gradients overflow at the floor of the loss scale count too."""

    loss_spike_policy: Literal["off", "warn", "skip", "rewind"] = "warn"
    """Reaction to a loss far above the recent ones, besides writing the step's clips to `loss_spikes.jsonl`: `warn`
    makes the update; `skip` leaves it out; `rewind` restores the weights of the latest checkpoint and continues with
    the data after this step; `off` does not look for spikes."""

    loss_spike_threshold: PositiveFloat = 8.0
    """Number of robust standard deviations (from the median absolute deviation) above the median of the last 100 losses
    at which a loss counts as a spike, from the 21st step on."""

    loss_spike_budget: PositiveInt = 3
    """Number of consecutive updates that `skip` leaves out, or of rewinds in the whole run; further spikes only cause a
    warning."""

    loss_scale_floor: PositiveFloat = 8192.0
    """For dtype float16: lower bound of the loss scale."""

    loss_scale_cap: PositiveFloat = 32768.0
    """For dtype float16: initial value and upper bound of the loss scale."""

    codebook_weighting: bool = True
    """Whether the losses of the codebooks have different weights. false: equal weights."""

    codebook_weights_start: list[NonNegativeFloat] | None = None
    """Weights of the codebooks at the beginning of the run. null: as published, with more weight on the coarse ones
    (0.25 for each of the first three of eight, 0.05 for the others)."""

    codebook_weights_end: list[NonNegativeFloat] | None = None
    """Weights of the codebooks that are reached in the course of the run. null: equal weights."""

    add_vocal_loss: bool = False
    """Whether to train the vocal heads of the `mixed_pro` layout."""

    vocal_loss_weight: NonNegativeFloat = 0.1
    """Weight of the loss of the vocal heads."""

    freeze_cross: bool = False
    """Whether to freeze everything between the conditions and the decoder: text projection, voice aggregation and
    projection, lyrics embedding, lyrics encoder and lyrics projection."""

    freeze_text_encoder: bool = True
    """Always true, because the text encoder is not part of the trained model."""

    freeze_embed_prompts: bool = False
    """Whether to freeze the embedding of the lyrics."""

    freeze: list[ParameterGroup] = field(default_factory=list)
    """Further parameter groups to freeze; `cross` includes everything that `freeze_cross` freezes."""

    learning_rate_factors: dict[ParameterGroup, PositiveFloat] = field(default_factory=dict)
    """Factors of the learning rate for some parameter groups, such as {"heads": 0.1}; it is 1 for all others."""

    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """Unit of the intervals between evaluations in training, or no evaluation (also read as `evaluation_strategy`)."""

    eval_steps: PositiveInt | Automatic | None = "auto"
    """Number of optimizer steps between evaluations. auto: an eighth of the run, at most 20,000."""

    eval_epochs: PositiveFloat | None = None
    """Epochs between evaluations, in place of `eval_steps`."""

    predict_with_generate: bool = False
    """Whether evaluation generates songs."""

    eval_generation_steps: PositiveInt | None = None
    """Number of optimizer steps between evaluations that generate songs. null: all evaluations do."""

    num_generated_samples: PositiveInt = 4
    """Number of songs that an evaluation generates."""

    eval_random_texts: bool = False
    """Whether songs of evaluations get random texts instead of a clip's own: the caption of one held-out clip and the
    lyrics of another, the same in every evaluation. There is no original to compare such songs with."""

    add_audio_samples_to_wandb: bool = False
    """Whether to send generated audio to the trackers; it is always written to `output_dir`."""

    logging_steps: PositiveInt | Automatic = "auto"
    """Number of optimizer steps between two lines of metrics. auto: an eightieth of the run, at most 2,000."""

    logging_epochs: PositiveFloat | None = None
    """Epochs between two lines of metrics, in place of `logging_steps`."""

    every_plot_step: PositiveInt | Automatic | None = "auto"
    """Number of optimizer steps between two plots of the metrics in `output_dir`/plots, for which matplotlib must be
    installed; they are drawn every two minutes at most. auto: a sixteenth of the run, at most 2,000. null: no plots;
    `songgen plot` draws them at any time."""

    plot_epochs: PositiveFloat | None = None
    """Epochs between two plots, in place of `every_plot_step`."""

    loss_milestones: list[PositiveFloat] = field(default_factory=lambda: [5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.15, 0.05])
    """Training losses whose next one is announced with the progress, with the step at which it is expected; in
    descending order. Empty: none."""

    accuracy_milestones: list[Probability] = field(default_factory=lambda: [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
    """Accuracies of the evaluation, announced likewise, in ascending order."""

    save_steps: PositiveInt | Automatic | None = "auto"
    """Number of optimizer steps between checkpoints; an evaluation with the lowest loss so far is followed by a
    checkpoint too. auto: a sixteenth of the run, at most 10,000. null: only the final checkpoint."""

    save_epochs: PositiveFloat | None = None
    """Epochs between checkpoints, in place of `save_steps`."""

    save_total_limit: Annotated[int, Range(at_least=2)] | None = 3
    """Number of newest checkpoints to keep, in addition to the one with the lowest evaluation loss. null: all."""

    report_to: list[Tracker] | Tracker = field(default_factory=lambda: ["none"])
    """Trackers: wandb, tensorboard or none. `metrics.jsonl` is always written."""

    wandb_project: str = "songgen"
    """Name of the project in the trackers."""

    wandb_run_name: str | None = None
    """Name of the run in the trackers. null: the name of `output_dir`."""

    push_to_hub: bool = False
    """Whether to upload the final model, with the account of `hf auth login` or HF_TOKEN."""

    hub_model_id: str | None = None
    """Repository to upload to. null: the name of `output_dir`, in the account that is logged in."""

    hub_private: bool = True
    """Whether a new repository is private."""

    def num_warmup_steps(self, num_steps: int, steps_per_epoch: int) -> int:
        """Return the number of warm-up steps in a run of `num_steps` optimizer steps."""
        if self.warmup_epochs:
            return math.ceil(self.warmup_epochs * steps_per_epoch)
        return self.warmup_steps or math.ceil(self.warmup_ratio * num_steps)

    def milestone_steps(self, num_steps: int, steps_per_epoch: int) -> list[int]:
        """Return the points at which `multistep` drops, as optimizer steps in a run of `num_steps`."""
        if self.lr_scheduler_milestone_epochs:
            return [round(epochs * steps_per_epoch) for epochs in self.lr_scheduler_milestone_epochs]
        return [round(place * num_steps) if place < 1 else round(place) for place in self.lr_scheduler_milestones]

    def logging_interval(self, num_steps: int, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps between two lines of metrics in a run of `num_steps`."""
        interval = _interval(self.logging_epochs, steps_per_epoch) or self.logging_steps
        return LOGGING_INTERVAL.of(num_steps) if interval == "auto" else interval

    def plot_interval(self, num_steps: int, steps_per_epoch: int) -> int | None:
        """Return the number of optimizer steps between plots in a run of `num_steps`; None for no plots."""
        interval = _interval(self.plot_epochs, steps_per_epoch) or self.every_plot_step
        return PLOT_INTERVAL.of(num_steps) if interval == "auto" else interval

    def save_interval(self, num_steps: int, steps_per_epoch: int) -> int | None:
        """Return the number of optimizer steps between checkpoints in a run of `num_steps` (None: at its end)."""
        interval = _interval(self.save_epochs, steps_per_epoch) or self.save_steps
        return SAVE_INTERVAL.of(num_steps) if interval == "auto" else interval

    def eval_interval(self, num_steps: int, steps_per_epoch: int) -> int | None:
        """Return the number of optimizer steps between evaluations in a run of `num_steps`; None: only at its end."""
        if not self.do_eval or self.eval_strategy == "no":
            return None
        if self.eval_strategy == "epoch":
            return _interval(self.eval_epochs or 1.0, steps_per_epoch)
        interval = _interval(self.eval_epochs, steps_per_epoch) or self.eval_steps
        return EVAL_INTERVAL.of(num_steps) if interval == "auto" else interval

    def trackers(self) -> list[str]:
        """Return the names of the trackers in use."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in names if name != "none"]

    def frozen_groups(self) -> list[str]:
        """Return the names of the parameter groups to freeze."""
        switches = {"cross": self.freeze_cross, "lyrics_embedding": self.freeze_embed_prompts}
        return list(dict.fromkeys([*(group for group, frozen in switches.items() if frozen), *self.freeze]))


def _interval(epochs: float | None, steps_per_epoch: int) -> int | None:
    return None if epochs is None else max(1, round(epochs * steps_per_epoch))
