"""Launches with DeepSpeed: detecting them, and checking that their settings are supported."""

from __future__ import annotations

import os
from typing import Any

from accelerate.utils import DeepSpeedPlugin
from accelerate.utils.imports import is_deepspeed_available

ZERO_STAGE = 2
"""Supported stage. Stage 1 saves less memory, and stage 3 shards the weights, as FSDP2 does."""

_ACCELERATE_SECTIONS = {
    "zero_optimization",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "steps_per_print",
    "bf16",
    "fp16",
}
"""Sections that accelerate writes into every DeepSpeed configuration."""


def deepspeed_plugin(dtype: str) -> DeepSpeedPlugin | None:
    """Return the DeepSpeed settings of `accelerate launch`; None without DeepSpeed.

    Args:
        dtype: precision of the configuration.

    Raises:
        ValueError: if DeepSpeed is not installed, or settings are not supported; the message lists all problems.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    if not is_deepspeed_available():
        raise ValueError(
            'the launch asks for DeepSpeed, which is not installed: pip install -c constraints.txt -e ".[deepspeed]", '
            "or launch with helpers/accelerate_configs/fsdp2_zero2_8_gpus.yaml, which shards the same and needs nothing"
        )
    plugin = DeepSpeedPlugin()
    problems = _problems(plugin.deepspeed_config)
    if dtype == "float16":
        problems.append(
            "dtype float16: set bfloat16, or launch with helpers/accelerate_configs/fsdp2_zero2_8_gpus.yaml, which "
            "scales losses"
        )
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise ValueError(f"the launch asks DeepSpeed for something that is not supported here:\n{listed}")
    return plugin


def _problems(settings: dict[str, Any]) -> list[str]:
    """Return the settings in accelerate's DeepSpeed configuration that are not supported or would be ignored."""
    zero = settings["zero_optimization"]
    problems = []
    if zero.get("stage") != ZERO_STAGE:
        problems.append(
            f"ZeRO stage {zero.get('stage')}: set zero_stage to {ZERO_STAGE}; to shard the weights too, launch with "
            "helpers/accelerate_configs/fsdp2_8_gpus.yaml"
        )
    for name in ("offload_optimizer", "offload_param"):
        device = (zero.get(name) or {}).get("device")
        if device not in (None, "none"):
            problems.append(f"{name}_device {device}: set it to none")
    if settings.get("gradient_clipping") not in (None, "auto"):
        problems.append("gradient_clipping: leave it out, max_grad_norm of the configuration counts")
    if settings.get("gradient_accumulation_steps") not in (1, "auto"):
        problems.append("gradient_accumulation_steps: set it to 1, that of the configuration counts")
    unknown = sorted(set(settings) - _ACCELERATE_SECTIONS)
    if unknown:
        problems.append(f"sections {', '.join(unknown)} of the DeepSpeed file: leave them out, they are not used")
    return problems
