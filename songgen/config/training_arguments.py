"""How a run trains: steps, optimizer, schedule, loss, evaluation, checkpoints and where it reports."""

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

ParameterGroup = Literal[
    "cross",
    "text_projection",
    "voice_aggregation",
    "voice_projection",
    "lyrics_embedding",
    "lyrics_encoder",
    "lyrics_projection",
    "audio_embeddings",
    "decoder",
    "heads",
    "vocal_heads",
]


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """The run itself."""

    output_dir: str = ""
    """Folder of the run: checkpoints, metrics and at the end the model. Required for training."""

    overwrite_output_dir: bool = False
    """Start a new run although `output_dir` holds one: that one is moved to `<output_dir>.backup-1` (or -2, ...)."""

    resume: str = "auto"
    """`auto`: go on from the last good checkpoint in `output_dir`, if there is one; `never`: do not; or the folder
    of a checkpoint."""

    allow_config_changes: bool = False
    """Go on from a checkpoint although keys that change what is computed have other values now; they take effect.
    Model, tokenizers, codec and data can never change within a run."""

    allow_world_size_change: bool = False
    """Go on from a checkpoint of another number of processes: no clip is lost or seen twice and the learning rate goes
    on along its curve, but dropout draws other numbers than in an uninterrupted run."""

    allow_inexact_resume: bool = False
    """Go on from a checkpoint whose random state is missing; dropout then draws other numbers."""

    preprocessing_only: bool = False
    """This file is for preprocessing: nothing is trained, so no model and no output folder is required."""

    do_train: bool = True
    """Train the model."""

    do_eval: bool = False
    """Evaluate on the evaluation split: at the intervals of `eval_strategy` and at the end; without `do_train` only
    that."""

    seed: int = 456
    """Seed of everything random."""

    num_train_epochs: PositiveFloat = 3.0
    """Passes over the training data; `max_steps` wins where it is given."""

    max_steps: Annotated[int, Range(at_least=-1)] = -1
    """Optimizer steps. -1: as many as `num_train_epochs` takes."""

    per_device_train_batch_size: PositiveInt = 8
    """Clips that a process trains on at once."""

    per_device_eval_batch_size: PositiveInt = 8
    """Clips that a process evaluates at once."""

    gradient_accumulation_steps: PositiveInt = 1
    """Batches of each process that make one optimizer step."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the computation; weights and optimizer stay float32."""

    deterministic: bool = False
    """Use only operations that give the same bits every time; slower on a GPU, and an operation that has no such form
    is an error. Two runs on the same machine with the same versions are then equal."""

    torch_compile: bool = False
    """Compile the model with torch.compile."""

    dataloader_num_workers: NonNegativeInt = 0
    """Processes that read training data, beside each training process."""

    eval_dataloader_num_workers: NonNegativeInt = 0
    """Processes that read evaluation data, beside each training process."""

    dataloader_timeout: PositiveInt = 600
    """Seconds after which a process that reads data and gives nothing counts as hanging, which ends the run."""

    ddp_timeout: PositiveInt = 600
    """Seconds after which a process that hears nothing from the others gives up. Until the first step is done, it waits
    half an hour at least. An evaluation that generates songs and a checkpoint must fit into it."""

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """AdamW, or its 8-bit form from bitsandbytes (`pip install -c constraints.txt -e ".[8bit]"`)."""

    learning_rate: PositiveFloat = 5e-5
    """Highest learning rate."""

    adam_beta1: Decay = 0.9
    """Decay of the mean of the gradients."""

    adam_beta2: Decay = 0.99
    """Decay of the mean of the squared gradients."""

    adam_epsilon: PositiveFloat = 1e-8
    """Added to the denominator of AdamW's update."""

    weight_decay: NonNegativeFloat = 1e-4
    """Decoupled weight decay; norms, biases and embeddings are left out."""

    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""

    lr_scheduler_type: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "multistep", "cosine_with_restarts"
    ] = "cosine"
    """Course of the learning rate after the warm-up."""

    warmup_steps: NonNegativeInt = 0
    """Optimizer steps over which the learning rate rises from 0."""

    warmup_ratio: Probability = 0.0
    """The same as a share of all steps; give one of the two."""

    lr_min_ratio: Probability = 0.0
    """Share of `learning_rate` at which a falling schedule ends."""

    lr_scheduler_milestones: list[PositiveFloat] = field(default_factory=list)
    """For multistep: where the rate drops, in rising order. Numbers below 1 are shares of all steps, others
    optimizer steps."""

    lr_scheduler_gamma: Annotated[float, Range(above=0, at_most=1)] = 0.5
    """For multistep: factor of the learning rate at every milestone."""

    lr_scheduler_restarts: NonNegativeInt = 1
    """For cosine_with_restarts: how many times the rate jumps back up."""

    ema_decay: Decay | None = None
    """Keep an exponential moving average of the weights with this decay. null: none."""

    non_finite: Literal["stop", "skip"] = "stop"
    """When loss or gradients are not finite: end the run, or leave that step out."""

    max_skipped_steps: PositiveInt = 5
    """With `non_finite` skip: steps left out in a row after which the run ends anyway; with dtype float16 also those
    whose gradients overflow at the floor of the loss scale."""

    loss_spike_policy: Literal["off", "warn", "skip", "rewind"] = "warn"
    """When the loss of a step is far above the recent ones, its clips are written to `loss_spikes.jsonl`. `warn`: the
    update is made; `skip`: it is left out; `rewind`: the weights go back to the latest checkpoint, the data goes on
    behind the step; `off`: nothing is watched."""

    loss_spike_threshold: PositiveFloat = 8.0
    """Robust standard deviations (from the median absolute deviation) above the median of the last 100 losses from
    which a loss is a spike. There are none before the 21st step."""

    loss_spike_budget: PositiveInt = 3
    """Updates in a row that `skip` leaves out, or how often `rewind` goes back in the whole run; after that spikes are
    only warned of."""

    loss_scale_floor: PositiveFloat = 8192.0
    """With dtype float16: the loss scale never falls below this."""

    loss_scale_cap: PositiveFloat = 32768.0
    """With dtype float16: the loss scale begins here and never rises above it."""

    codebook_weighting: bool = True
    """Weight the losses of the codebooks; false weights them equally."""

    codebook_weights_start: list[NonNegativeFloat] | None = None
    """Weights of the codebooks at the beginning, one each. null: as published, the coarse ones first (0.25 for
    the first three of eight, 0.05 for the others)."""

    codebook_weights_end: list[NonNegativeFloat] | None = None
    """Weights of the codebooks that the loss moves to over the run. null: all equal."""

    add_vocal_loss: bool = False
    """Train the vocal heads of the `mixed_pro` layout."""

    vocal_loss_weight: NonNegativeFloat = 0.1
    """Factor of the vocal heads' loss."""

    freeze_cross: bool = False
    """Freeze everything between the conditions and the decoder: text projection, voice aggregation and projection,
    lyrics embedding, lyrics encoder, lyrics projection."""

    freeze_text_encoder: bool = True
    """Always true: the text encoder is not part of the trained model."""

    freeze_embed_prompts: bool = False
    """Freeze the embedding of the lyrics."""

    freeze: list[ParameterGroup] = field(default_factory=list)
    """Parameter groups to freeze besides; `cross` is all that `freeze_cross` freezes."""

    learning_rate_factors: dict[ParameterGroup, PositiveFloat] = field(default_factory=dict)
    """Factor of the learning rate for some parameter groups, such as {"heads": 0.1}; all others have 1."""

    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    """When to evaluate during training (`evaluation_strategy` is read too)."""

    eval_steps: PositiveInt | None = None
    """Optimizer steps between evaluations."""

    eval_epochs: PositiveFloat | None = None
    """The same in epochs; it wins over `eval_steps`."""

    predict_with_generate: bool = False
    """Generate songs at evaluation."""

    eval_generation_steps: PositiveInt | None = None
    """Optimizer steps between evaluations that generate. null: every evaluation does."""

    num_generated_samples: PositiveInt = 4
    """Songs to generate at an evaluation."""

    add_audio_samples_to_wandb: bool = False
    """Send generated audio to the trackers; it is always written to `output_dir`."""

    logging_steps: PositiveInt = 10
    """Optimizer steps between two lines of metrics."""

    logging_epochs: PositiveFloat | None = None
    """The same in epochs; it wins over `logging_steps`."""

    save_steps: PositiveInt | None = 500
    """Optimizer steps between checkpoints; an evaluation with the lowest loss so far is followed by one as well. null:
    only the last one."""

    save_epochs: PositiveFloat | None = None
    """The same in epochs; it wins over `save_steps`."""

    save_total_limit: Annotated[int, Range(at_least=2)] | None = 3
    """Checkpoints to keep, the newest ones, besides the best by evaluation loss. null: all."""

    report_to: list[Tracker] | Tracker = field(default_factory=lambda: ["none"])
    """Trackers: wandb, tensorboard or none. `metrics.jsonl` is always written."""

    wandb_project: str = "songgen"
    """Project in the trackers."""

    wandb_run_name: str | None = None
    """Name of the run in the trackers. null: the name of `output_dir`."""

    push_to_hub: bool = False
    """Upload the final model. The account is the one of `hf auth login` or HF_TOKEN."""

    hub_model_id: str | None = None
    """Repository to upload to. null: the name of `output_dir` under the logged-in account."""

    hub_private: bool = True
    """Make a new repository private."""

    def num_warmup_steps(self, num_steps: int) -> int:
        """Return the optimizer steps of the warm-up in a run of `num_steps`."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * num_steps)

    def milestone_steps(self, num_steps: int) -> list[int]:
        """Return the optimizer steps of the milestones in a run of `num_steps`."""
        return [round(place * num_steps) if place < 1 else round(place) for place in self.lr_scheduler_milestones]

    def logging_interval(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps between two lines of metrics."""
        return _interval(self.logging_epochs, steps_per_epoch) or self.logging_steps

    def save_interval(self, steps_per_epoch: int) -> int | None:
        """Return the optimizer steps between checkpoints; None if only the last one is written."""
        return _interval(self.save_epochs, steps_per_epoch) or self.save_steps

    def eval_interval(self, steps_per_epoch: int) -> int | None:
        """Return the optimizer steps between evaluations; None if there are none during training."""
        if not self.do_eval or self.eval_strategy == "no":
            return None
        if self.eval_strategy == "epoch":
            return _interval(self.eval_epochs or 1.0, steps_per_epoch)
        return _interval(self.eval_epochs, steps_per_epoch) or self.eval_steps

    def trackers(self) -> list[str]:
        """Return the trackers that are switched on; none is an empty list."""
        names = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in names if name != "none"]

    def frozen_groups(self) -> list[str]:
        """Return the names of the parameter groups that the run freezes."""
        switches = {"cross": self.freeze_cross, "lyrics_embedding": self.freeze_embed_prompts}
        return list(dict.fromkeys([*(group for group, frozen in switches.items() if frozen), *self.freeze]))


def _interval(epochs: float | None, steps_per_epoch: int) -> int | None:
    return None if epochs is None else max(1, round(epochs * steps_per_epoch))
