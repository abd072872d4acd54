"""Keys of the published files without effect here, and keys that are refused."""

import re
from dataclasses import dataclass

from songgen.config.types import PositiveInt


@dataclass(frozen=True, kw_only=True)
class IgnoredArguments:
    """Published keys that are validated and named once in a warning; each field says what happens instead."""

    config_name: str | None = None
    """The configuration is read from the folder of `model_name_or_path`."""

    feature_extractor_name: str | None = None
    """The codec decides how audio is read: `audio_codec`."""

    prompt_tokenizer_name: str | None = None
    """Lyrics have a tokenizer of their own: `lyrics_tokenizer`."""

    cache_dir: str | None = None
    """Set HF_HUB_CACHE or HF_HOME in the environment."""

    use_fast_tokenizer: bool = True
    """The fast tokenizer is used wherever there is one."""

    pad_token_id: int | None = None
    """Ids of special tokens follow from the codec's codebook size."""

    decoder_start_token_id: int | None = None
    """Ids of special tokens follow from the codec's codebook size."""

    bandwidth: float = 6.0
    """Part of the codec: `audio_codec` {"type": ..., "path": ..., "bandwidth": ...}."""

    asr_model_name_or_path: str = "distil-whisper/distil-large-v3"
    """Training does not compute the word error rate."""

    clap_model_name_or_path: str = "laion/larger_clap_music_and_speech"
    """Training does not compute a CLAP score."""

    cross_attention_implementation_strategy: str | None = None
    """`attn_implementation` applies to both kinds of attention."""

    prompt_padding_side: str | None = "right"
    """Padding is masked, so its side does not matter."""

    add_prenet: bool = True
    """Conditions are always projected, and lyrics encoded; a model's own config.json may say otherwise."""

    overwrite_cache: bool = False
    """Finished preprocessing is reused only if input and settings are the same; remove the folder to repeat it."""

    pad_to_max_length: bool = False
    """Batches are padded to their longest clip, and padding is masked."""

    pad_to_multiple_of: PositiveInt | None = 2
    """Batches are padded to their longest clip, and padding is masked."""

    use_auth_token: bool | None = None
    """The account is that of `hf auth login` or HF_TOKEN."""

    trust_remote_code: bool = False
    """Code from the hub is never run."""

    temporary_save_to_disk: str | None = None
    """Unfinished work is kept in `<save_to_disk>.work` and resumed from there."""

    label_atype: list[str] | str = "labels"
    """The script and `track_pattern` decide which tracks are trained."""

    compute_clap_similarity_metric: bool = True
    """Training does not compute a CLAP score."""

    compute_noise_level_metric: bool = True
    """Training does not compute the noise level."""

    noise_level_to_compute_clean_wer: float = 25.0
    """Training does not compute the word error rate."""

    include_inputs_for_metrics: bool = False
    """Metrics always get the inputs that they need."""


ALIASES = {"evaluation_strategy": "eval_strategy"}
"""Alternative names of keys."""

SECRET_KEYS = ("token", "hub_token", "push_to_hub_token", "wandb_api_key")
"""Keys for credentials: refused, because a configuration is saved, logged and shared."""

SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
"""Pattern of a hub token, which is refused as part of any value."""

USE_INSTEAD = {
    "bf16": '"dtype": "bfloat16"',
    "fp16": '"dtype": "float16"',
    "optim": "optimizer",
    "resume_from_checkpoint": "resume",
    "hub_private_repo": "hub_private",
    "logging_strategy": "logging_steps or logging_epochs",
    "save_strategy": "save_steps or save_epochs",
    "run_name": "wandb_run_name",
    "lr_scheduler_kwargs": "the keys that begin with lr_scheduler_, and lr_min_ratio",
    "data_seed": "seed",
}
"""Keys of the Hugging Face training arguments -> their names here."""
