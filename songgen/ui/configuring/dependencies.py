"""Which keys mean something only with some values of another key.

A key that is in no entry always means something. A key in several entries needs all of them, and what depends on a
choice that means nothing itself means nothing either. Keys that a kind of model does not use are stated by its family
(`songgen.families.costs.ModelCosts.unused_keys`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from songgen.config.checks import SCHEDULES_OF_OPTION
from songgen.ui.configuring.sections import LORA_PREFIX, SECTIONS, form_keys

Condition = Callable[[Any], bool]


def _is(*values: Any) -> Condition:
    return lambda value: value in values


def _is_not(*values: Any) -> Condition:
    return lambda value: value not in values


def _contains(*words: str) -> Condition:
    return lambda value: any(word in value for word in words) if isinstance(value, list | str) else False


_NOTHING: tuple[Any, ...] = (None, "", [])
_given, _not_given = _is_not(*_NOTHING), _is(*_NOTHING)


@dataclass(frozen=True)
class Dependency:
    """Keys that mean something only with some values of another one."""

    choice: str | tuple[str, ...]
    """The other key; several if one of them is enough."""

    holds: Condition
    """Function that returns whether the keys mean something with a value of it."""

    keys: tuple[str, ...]
    """The keys."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The other keys."""
        return (self.choice,) if isinstance(self.choice, str) else self.choice


_SECTION_KEYS = {section.name: section.keys for section in SECTIONS}

TOKENIZING = _SECTION_KEYS["manifests"]
"""Keys that only tokenizing reads."""

ALSO_TOKENIZING = frozenset({
    "preprocessing_only", "model_name_or_path", "model_revision", "audio_codec", "voice_encoder", "lyrics_tokenizer",
    "description_tokenizer_name", "save_to_disk", "eval_split_name", "max_train_samples", "max_eval_samples",
    "min_duration_in_seconds", "max_duration_in_seconds", "max_text_length", "max_description_token_length",
    "max_prompt_token_length", "ref_voice_column_name", "voice_min_energy", "seed",
})  # fmt: skip
"""Keys that both tokenizing and training read. All others, also new ones, are for training."""

DEPENDENCIES = (
    Dependency("preprocessing_only", _is(True), TOKENIZING),
    Dependency(
        "preprocessing_only", _is(False),
        tuple(name for name in form_keys() if name not in ALSO_TOKENIZING and name not in TOKENIZING),
    ),
    Dependency("do_train", _is(True), (
        *_SECTION_KEYS["optimizer"], *_SECTION_KEYS["schedule"], "num_train_epochs", "max_steps",
        "gradient_accumulation_steps", "max_frames_per_batch", "group_by_length", "order", "save_steps", "save_epochs",
        "save_total_limit", "eval_strategy", "loss_scale_floor", "loss_scale_cap", "non_finite", "loss_spike_policy",
    )),
    Dependency("do_eval", _is(True), (
        "max_eval_samples", "eval_strategy", "per_device_eval_batch_size", "predict_with_generate",
        "eval_dataloader_num_workers", "accuracy_milestones",
    )),
    Dependency("eval_strategy", _is("steps"), ("eval_steps",)),
    Dependency("eval_strategy", _is("steps", "epoch"), ("eval_epochs",)),
    Dependency("predict_with_generate", _is(True), (
        "num_generated_samples", "eval_generation_steps", "eval_random_texts", "guidance_scale", "num_inference_steps",
        "do_sample", "max_length", "add_audio_samples_to_wandb",
    )),
    Dependency("do_sample", _is(True), ("temperature", "top_k", "top_p")),
    Dependency("max_frames_per_batch", _not_given, ("per_device_train_batch_size",)),
    *(Dependency("lr_scheduler_type", _is(*schedules), (key,)) for key, schedules in SCHEDULES_OF_OPTION.items()),
    Dependency("lr_scheduler_restarts", _is_not(0), ("lr_scheduler_damping",)),
    Dependency("dtype", _is("float16"), ("loss_scale_floor", "loss_scale_cap")),
    Dependency("non_finite", _is("skip"), ("max_skipped_steps",)),
    Dependency("loss_spike_policy", _is_not("off"), ("loss_spike_threshold",)),
    Dependency("loss_spike_policy", _is("skip", "rewind"), ("loss_spike_budget",)),
    Dependency("add_vocal_loss", _is(True), ("vocal_loss_weight",)),
    Dependency("codebook_weighting", _is(True), ("codebook_weights_start", "codebook_weights_end")),
    Dependency("timestep_sampling", _is_not("uniform", "discrete"), ("timestep_mean", "timestep_std")),
    Dependency("feature_cache_dir", _is_not(""), ("feature_cache_gib", "voice_feature_crops")),
    Dependency("voice_choices", _not_given, ("ref_voice_column_name",)),
    Dependency("lora", _is_not(None), tuple(name for name in form_keys() if name.startswith(LORA_PREFIX))),
    Dependency("lora", _not_given, ("lora_config_path", "loras")),
    Dependency("lora_config_path", _not_given, ("lora", "loras")),
    Dependency("loras", _not_given, ("lora", "lora_config_path")),
    Dependency(("lora", "lora_config_path", "loras"), _given, ("lora_learning_rate", "lora_plus_ratio")),
    Dependency("report_to", _contains("wandb", "tensorboard"), (
        "wandb_project", "wandb_run_name", "add_audio_samples_to_wandb",
    )),
    Dependency("push_to_hub", _is(True), ("hub_model_id", "hub_private")),
)  # fmt: skip
"""The table."""


def meaningful_keys(values: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys that mean something with the values of a configuration.

    Args:
        values: value of every key, with defaults.
    """
    known: dict[str, bool] = {}

    # Both functions call each other along the table, which has cycles: `lora`, `lora_config_path` and `loras` exclude
    # each other. `allows` ends them: for `_not_given`, and only for that, it does not ask whether the choice means
    # something itself. Any other condition on such a cycle would recurse without end.
    def means(name: str) -> bool:
        if name not in known:
            known[name] = all(allows(entry) for entry in DEPENDENCIES if name in entry.keys)
        return known[name]

    def allows(entry: Dependency) -> bool:
        # That something is not given is so too if it means nothing; keys may exclude each other in this way.
        return any(
            entry.holds(values[choice]) and (entry.holds is _not_given or means(choice)) for choice in entry.choices
        )

    return frozenset(name for name in form_keys() if means(name))
