"""Attaching a new adapter to a base model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from songgen.adapters.folder import ADAPTER_NAME
from songgen.adapters.options import AdapterOptions
from songgen.adapters.peft_config import lora_config_class
from songgen.adapters.targets import Targets

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger(__name__)


def attach(model: nn.Module, options: AdapterOptions, targets: Targets, *, seed: int) -> LoraConfig:
    """Attach a new adapter to a model in place: its class, `forward` and other layers stay as they are.

    The base is frozen, and is not changed. The output of a new adapter is 0, so the model computes what it did.

    Args:
        model: base model.
        options: options of the adapter.
        targets: layers that they name.
        seed: seed of the first weights. They depend on nothing else, so that they are the same on every process, and
            the random numbers of the run are those of a run without an adapter.

    Returns:
        The configuration for `adapter_config.json`.

    Raises:
        ValueError: if peft is not installed.
    """
    config = lora_config_class()(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        target_modules=list(targets.adapted),
        modules_to_save=list(targets.saved) or None,
        rank_pattern=dict(targets.ranks),
        alpha_pattern=dict(targets.alphas),
        bias="none",
    )
    from peft import inject_adapter_in_model  # peft is not imported by runs without an adapter

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER_NAME)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # On a quantized layer, peft makes the adapter in the precision of the products, in which small updates of
            # its weights would be lost.
            parameter.data = parameter.data.float()
    logger.info(
        "adapter of rank %d on %d layers%s",
        options.rank,
        len(targets.adapted),
        f", {len(targets.saved)} layers trained whole" if targets.saved else "",
    )
    return config
