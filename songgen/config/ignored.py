"""Keys of the published files that have no effect here, and keys that are refused."""

import re
from dataclasses import dataclass

from songgen.config.types import PositiveInt


@dataclass(frozen=True, kw_only=True)
class IgnoredArguments:
    """Published keys that are read, checked and named once in a warning. Each says what happens instead."""

    config_name: str | None = None
    """The configuration is read from the folder of `model_name_or_path`."""

    feature_extractor_name: str | None = None
    """The codec says how audio is read: `audio_codec`."""

    prompt_tokenizer_name: str | None = None
    """Lyrics have their own tokenizer: `lyrics_tokenizer`."""

    cache_dir: str | None = None
    """Set HF_HUB_CACHE or HF_HOME in the environment."""

    use_fast_tokenizer: bool = True
    """The fast tokenizer is taken wherever there is one."""

    pad_token_id: int | None = None
    """Special tokens follow from the codec's codebook size."""

    decoder_start_token_id: int | None = None
    """Special tokens follow from the codec's codebook size."""

    bandwidth: float = 6.0
    """Part of the codec: `audio_codec` {"type": ..., "path": ..., "bandwidth": ...}."""

    asr_model_name_or_path: str = "distil-whisper/distil-large-v3"
    """Training computes no word error rate."""

    clap_model_name_or_path: str = "laion/larger_clap_music_and_speech"
    """Training computes no CLAP score."""

    cross_attention_implementation_strategy: str | None = None
    """`attn_implementation` holds for both kinds of attention."""

    prompt_padding_side: str | None = "right"
    """Padding is masked, so its side does not matter."""

    add_prenet: bool = True
    """The projections between conditions and decoder are always there."""

    overwrite_cache: bool = False
    """Finished preprocessing is reused only where input and settings agree; remove the folder to do it again."""

    pad_to_max_length: bool = False
    """Batches are padded to their own longest clip, and padding is masked."""

    pad_to_multiple_of: PositiveInt | None = 2
    """Batches are padded to their own longest clip, and padding is masked."""

    use_auth_token: bool | None = None
    """The account is the one of `hf auth login` or HF_TOKEN."""

    trust_remote_code: bool = False
    """Code from the hub is never run."""

    temporary_save_to_disk: str | None = None
    """Unfinished work lies in `<save_to_disk>.work` and is picked up there."""

    label_atype: list[str] | str = "labels"
    """The script and `track_pattern` say which tracks are trained."""

    compute_clap_similarity_metric: bool = True
    """Training computes no CLAP score."""

    compute_noise_level_metric: bool = True
    """Training computes no noise level."""

    noise_level_to_compute_clean_wer: float = 25.0
    """Training computes no word error rate."""

    include_inputs_for_metrics: bool = False
    """Metrics always get what they need."""


ALIASES = {"evaluation_strategy": "eval_strategy"}
"""Other names under which a key is read."""

SECRET_KEYS = ("token", "hub_token", "push_to_hub_token", "wandb_api_key")
"""Keys that hold credentials: refused, because a configuration is saved, logged and shared."""

SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
"""A token of the hub, which is refused wherever it stands in a configuration."""

USE_INSTEAD = {
    "bf16": '"dtype": "bfloat16"',
    "fp16": '"dtype": "float16"',
    "optim": "optimizer",
    "resume_from_checkpoint": "resume",
    "hub_private_repo": "hub_private",
    "logging_strategy": "logging_steps or logging_epochs",
    "save_strategy": "save_steps or save_epochs",
    "run_name": "wandb_run_name",
    "lr_scheduler_kwargs": "lr_min_ratio, lr_scheduler_milestones, lr_scheduler_gamma, lr_scheduler_restarts",
    "data_seed": "seed",
}
"""Keys of the Hugging Face training arguments that have another name here."""
