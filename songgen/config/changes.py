"""Effect on a run of a configuration key that changes between two launches."""

import enum
from typing import Any


class Change(enum.Enum):
    """Kinds of keys, by the effect of a change on a run that is resumed."""

    FREE = "takes effect at once"
    """Display, intervals, workers, policies for bad steps, keys of preprocessing: normal training is not altered."""
    COMPUTATION = "changes what is computed"
    """The result would no longer be that of the original run; the change takes effect only on explicit request."""
    CONTENT = "is compared by content"
    """A path or hub id, which may change as long as its content is the same."""
    FIXED = "cannot change within a run"
    """Weights, optimizer state and data would no longer match."""


KINDS: dict[Change, tuple[str, ...]] = {
    Change.FREE: (
        "resume",
        "replay",
        "allow_config_changes",
        "allow_world_size_change",
        "allow_inexact_resume",
        "output_dir",
        "overwrite_output_dir",
        "preprocessing_only",
        "do_train",
        "do_eval",
        "per_device_eval_batch_size",
        "dataloader_num_workers",
        "eval_dataloader_num_workers",
        "dataloader_timeout",
        "reload_dataloaders_every_n_epochs",
        "ddp_timeout",
        "non_finite",
        "max_skipped_steps",
        "loss_spike_policy",
        "loss_spike_threshold",
        "loss_spike_budget",
        "loss_scale_floor",
        "loss_scale_cap",
        "eval_strategy",
        "eval_steps",
        "eval_epochs",
        "predict_with_generate",
        "eval_generation_steps",
        "num_generated_samples",
        "eval_random_texts",
        "add_audio_samples_to_wandb",
        "logging_steps",
        "logging_epochs",
        "every_plot_step",
        "plot_epochs",
        "loss_milestones",
        "accuracy_milestones",
        "save_steps",
        "save_epochs",
        "save_total_limit",
        "report_to",
        "wandb_project",
        "wandb_run_name",
        "push_to_hub",
        "hub_model_id",
        "hub_private",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "guidance_scale",
        "max_length",
        "num_inference_steps",
        "eval_split_name",
        "max_eval_samples",
        "train_dataset_name",
        "train_dataset_config_name",
        "train_dataset_samples",
        "train_metadata_dataset_name",
        "eval_dataset_name",
        "eval_dataset_config_name",
        "eval_metadata_dataset_name",
        "loading_method",
        "audio_roots",
        "id_column_name",
        "target_audio_column_name",
        "ref_audio_column_name",
        "description_column_name",
        "prompt_column_name",
        "language_column_name",
        "default_language",
        "voice_storage",
        "keep_columns",
        "verify_data_hashes",
        "feature_cache_dir",
        "feature_cache_gib",
        "long_clips",
        "audio_timeout_seconds",
        "audio_memory_gib",
        "max_text_length",
        "max_bad_fraction",
        "audio_encoder_per_device_batch_size",
        "save_codec_steps",
        "preprocessing_num_workers",
    ),
    Change.COMPUTATION: (
        "seed",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_frames_per_batch",
        "group_by_length",
        "order",
        "dtype",
        "weights_dtype",
        "deterministic",
        "torch_compile",
        "attn_implementation",
        "gradient_checkpointing",
        "learning_rate",
        "learning_rate_factors",
        "lora_learning_rate",
        "lora_plus_ratio",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "weight_decay",
        "max_grad_norm",
        "gradient_clip_algorithm",
        "lr_scheduler_type",
        "warmup_steps",
        "warmup_ratio",
        "warmup_epochs",
        "lr_min_ratio",
        "lr_scheduler_milestones",
        "lr_scheduler_milestone_epochs",
        "lr_scheduler_gamma",
        "lr_scheduler_restarts",
        "lr_scheduler_damping",
        "ema_decay",
        "codebook_weighting",
        "codebook_weights_start",
        "codebook_weights_end",
        "vocal_loss_weight",
        "dropout",
        "train_every_eos",
        "caption_variants",
        "caption_dropout",
        "lyrics_dropout",
        "condition_dropout",
        "input_masking",
        "shift",
        "timestep_sampling",
        "timestep_mean",
        "timestep_std",
        "timbre_reference",
        "ref_voice_column_name",
        "ref_dur_sec",
        "voice_choices",
        "voice_feature_crops",
        "voice_min_energy",
    ),
    Change.CONTENT: (
        "model_name_or_path",
        "model_revision",
        "audio_codec",
        "text_encoder",
        "voice_encoder",
        "description_tokenizer_name",
        "lyrics_tokenizer",
        "save_to_disk",
        "lora_config_path",
        "loras",
    ),
    Change.FIXED: (
        "track_pattern",
        "prompt_cross_attention",
        "rope_embeddings",
        "optimizer",
        "add_vocal_loss",
        "freeze_cross",
        "freeze_text_encoder",
        "freeze_embed_prompts",
        "freeze",
        "lora",
        "train_split_name",
        "min_duration_in_seconds",
        "max_duration_in_seconds",
        "max_description_token_length",
        "max_prompt_token_length",
        "max_train_samples",
    ),
}
"""All configuration keys by kind of change."""

KIND_OF = {key: kind for kind, keys in KINDS.items() for key in keys}
"""Kind of change of each key."""

SCHEDULE_KEYS = frozenset(
    {
        "num_train_epochs",
        "max_steps",
        "lr_scheduler_type",
        "warmup_steps",
        "warmup_ratio",
        "warmup_epochs",
        "lr_min_ratio",
        "lr_scheduler_milestones",
        "lr_scheduler_milestone_epochs",
        "lr_scheduler_gamma",
        "lr_scheduler_restarts",
        "lr_scheduler_damping",
    }
)
"""Keys of the learning-rate schedule: when one changes, the schedule is recomputed for the whole run."""

EARLIER_DEFAULTS = {"max_duration_in_seconds": 35.0, "max_text_length": 500}
"""Keys that are null by default and had a value before, which is in the saved configurations of earlier runs. With
models of tokens, null means that value; data that differ are found by their lengths."""


def has_changed(key: str, then: Any, now: Any) -> bool:
    """Return whether a key has another meaning now than in a saved configuration."""
    if key in EARLIER_DEFAULTS and {then, now} == {None, EARLIER_DEFAULTS[key]}:
        return False
    return bool(then != now)
