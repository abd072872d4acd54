"""Sections of the configuration form: which keys they show, in which order, and under which names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from songgen.config.keys import ConfigKey, all_keys
from songgen.config.lora import lora_keys
from songgen.ui.fields import Field, field_of_key


@dataclass(frozen=True)
class Section:
    """Section of the form."""

    name: str
    """Name in addresses and in `SECTIONS`."""

    title: str
    """Heading."""

    keys: tuple[str, ...]
    """Keys in the order in which they are shown; those of the table `lora` begin with `lora.`."""


LORA_PREFIX = "lora."

_BOUND = r"[<>]=? [\d.e+-]+"

SECTIONS = (
    Section("model", "Model", (
        "model_name_or_path", "output_dir", "model_revision", "track_pattern", "prompt_cross_attention",
        "rope_embeddings", "dropout", "train_every_eos", "audio_codec", "text_encoder", "voice_encoder",
        "description_tokenizer_name", "lyrics_tokenizer",
    )),
    Section("data", "Data and conditions", (
        "save_to_disk", "do_eval", "eval_split_name", "max_train_samples", "max_eval_samples",
        "min_duration_in_seconds", "max_duration_in_seconds", "max_text_length", "max_description_token_length",
        "max_prompt_token_length", "voice_choices", "ref_dur_sec", "ref_voice_column_name", "voice_min_energy",
        "caption_variants", "caption_dropout", "lyrics_dropout", "condition_dropout", "input_masking",
    )),
    Section("manifests", "Songs to tokenize", (
        "train_dataset_name", "train_split_name", "train_dataset_config_name", "train_dataset_samples",
        "train_metadata_dataset_name", "eval_dataset_name", "eval_dataset_config_name", "eval_metadata_dataset_name",
        "loading_method", "audio_roots", "id_column_name", "target_audio_column_name", "ref_audio_column_name",
        "description_column_name", "prompt_column_name", "language_column_name", "default_language", "keep_columns",
        "voice_storage", "long_clips", "max_bad_fraction", "audio_encoder_per_device_batch_size",
        "preprocessing_num_workers", "save_codec_steps", "audio_timeout_seconds", "audio_memory_gib",
    )),
    Section("length", "Length and batches", (
        "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
        "max_frames_per_batch", "group_by_length", "order", "reload_dataloaders_every_n_epochs", "seed",
    )),
    Section("optimizer", "Optimizer and losses", (
        "learning_rate", "optimizer", "weight_decay", "max_grad_norm", "gradient_clip_algorithm", "adam_beta1",
        "adam_beta2", "adam_epsilon", "learning_rate_factors", "ema_decay", "add_vocal_loss", "vocal_loss_weight",
        "codebook_weighting", "codebook_weights_start", "codebook_weights_end", "freeze_cross", "freeze_embed_prompts",
        "freeze",
    )),
    Section("schedule", "Learning rate schedule", (
        "lr_scheduler_type", "warmup_steps", "warmup_ratio", "warmup_epochs", "lr_min_ratio",
        "lr_scheduler_milestones", "lr_scheduler_milestone_epochs", "lr_scheduler_gamma", "lr_scheduler_restarts",
        "lr_scheduler_damping",
    )),
    Section("precision", "Precision and memory", (
        "dtype", "weights_dtype", "gradient_checkpointing", "attn_implementation", "torch_compile",
        "loss_scale_floor", "loss_scale_cap", "deterministic", "dataloader_num_workers",
    )),
    Section("adapter", "Adapter (LoRA)", (
        "lora", "lora.r", "lora.lora_alpha", "lora.lora_dropout", "lora.target_modules", "lora.quantization",
        "lora.use_rslora", "lora.use_dora", "lora.modules_to_save", "lora.rank_pattern", "lora.alpha_pattern",
        "lora_config_path", "loras", "lora_learning_rate", "lora_plus_ratio",
    )),
    Section("flow", "Flow matching", (
        "timestep_sampling", "shift", "timestep_mean", "timestep_std", "timbre_reference",
    )),
    Section("evaluation", "Evaluation and songs", (
        "eval_strategy", "eval_steps", "eval_epochs", "per_device_eval_batch_size", "predict_with_generate",
        "num_generated_samples", "eval_generation_steps", "eval_random_texts", "guidance_scale", "num_inference_steps",
        "do_sample", "temperature", "top_k", "top_p", "max_length", "eval_dataloader_num_workers",
    )),
    Section("saving", "Saving and resuming", (
        "save_steps", "save_epochs", "save_total_limit", "resume", "overwrite_output_dir", "allow_config_changes",
        "allow_world_size_change", "allow_inexact_resume", "replay", "push_to_hub", "hub_model_id", "hub_private",
    )),
    Section("logging", "Logging", (
        "logging_steps", "logging_epochs", "every_plot_step", "plot_epochs", "report_to", "wandb_project",
        "wandb_run_name", "add_audio_samples_to_wandb", "loss_milestones", "accuracy_milestones",
    )),
    Section("advanced", "Advanced", (
        "do_train", "preprocessing_only", "non_finite", "max_skipped_steps", "loss_spike_policy",
        "loss_spike_threshold", "loss_spike_budget", "verify_data_hashes", "feature_cache_dir", "feature_cache_gib",
        "voice_feature_crops", "dataloader_timeout", "ddp_timeout", "freeze_text_encoder",
    )),
)  # fmt: skip
"""Sections in the order of the form. A key that is in none of them is shown in the last one."""

COMMON = frozenset({
    "model_name_or_path", "output_dir", "save_to_disk", "do_eval", "max_duration_in_seconds", "voice_choices",
    "condition_dropout", "train_dataset_name", "eval_dataset_name", "loading_method", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_frames_per_batch", "group_by_length",
    "learning_rate", "optimizer", "weight_decay", "ema_decay", "add_vocal_loss", "lr_scheduler_type", "warmup_steps",
    "warmup_ratio", "warmup_epochs", "lr_min_ratio", "lr_scheduler_milestones", "lr_scheduler_milestone_epochs",
    "lr_scheduler_gamma", "lr_scheduler_restarts", "lr_scheduler_damping", "dtype", "gradient_checkpointing",
    "dataloader_num_workers", "lora", "lora.r", "lora.lora_alpha", "lora.lora_dropout", "lora.target_modules",
    "lora.quantization", "lora_config_path", "timestep_sampling", "shift", "eval_strategy", "eval_steps", "eval_epochs",
    "predict_with_generate", "num_generated_samples", "guidance_scale", "save_steps", "save_epochs",
    "save_total_limit", "resume", "allow_config_changes", "logging_steps", "logging_epochs", "report_to",
    "preprocessing_only", "input_masking",
})  # fmt: skip
"""Keys that are shown at first; others appear on request, or if they are set."""

PATH_KEYS = frozenset({
    "model_name_or_path", "save_to_disk", "output_dir", "resume", "lora_config_path", "train_dataset_name",
    "eval_dataset_name", "train_metadata_dataset_name", "eval_metadata_dataset_name", "audio_roots", "lyrics_tokenizer",
    "description_tokenizer_name", "audio_codec", "text_encoder", "voice_encoder", "feature_cache_dir", "replay",
})  # fmt: skip
"""Keys whose fields have a button to choose a file or folder."""


@cache
def form_keys() -> dict[str, ConfigKey]:
    """Return every key that has a field: those of the configuration, and with `lora.` those of the table `lora`."""
    keys = {name: key for name, key in all_keys().items() if key.group != "ignored"}
    return keys | {LORA_PREFIX + name: key for name, key in lora_keys().items()}


@cache
def form_field(name: str) -> Field:
    """Return the field of a key."""
    return replace(field_of_key(form_keys()[name]), name=name)


def bounds_text(name: str) -> str:
    """Return the range of a number, and the words that it may be, in signs that need no translation."""
    field = form_field(name)
    bounds = (
        re.search(rf"{_BOUND}( and {_BOUND})?", field.expected) if field.kind in ("integer", "number", "text") else None
    )
    signs = bounds.group().replace(">=", "≥").replace("<=", "≤").replace(" and ", ", ") if bounds else ""
    words = [f'"{word}"' for word in field.choices] if field.kind == "text" else []
    return ", ".join([*filter(None, [signs]), *words])


def form_sections() -> list[tuple[Section, list[Field]]]:
    """Return every section with its fields."""
    return [(section, [form_field(name) for name in _keys_of(section)]) for section in SECTIONS]


def _keys_of(section: Section) -> Iterator[str]:
    """Yield the keys of a section; of the last one also those that are in no other, such as new keys."""
    yield from section.keys
    if section is SECTIONS[-1]:
        placed = {name for each in SECTIONS for name in each.keys}
        yield from (name for name in form_keys() if name not in placed)
