"""AdamW over the trained parameters: which of them decay, and its state by parameter name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

OPTIMIZERS = ("adamw", "adamw_8bit")


FUSED_DEVICES = {"cpu", "cuda"}
"""Where torch has a fused AdamW."""


@dataclass(frozen=True)
class OptimizerOptions:
    """Settings of AdamW."""

    learning_rate: float
    """Base learning rate, multiplied by the schedule's factor."""
    name: str = "adamw"
    """One of `OPTIMIZERS`."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the first and second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of the parameters that decay."""


def decay_groups(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the trained parameters, split into those that decay and those that do not.

    Weights of linear and convolution layers decay. Embeddings, everything inside a normalization layer, biases and
    other vectors do not: pulling them towards zero is no regularization. Frozen parameters are in neither list.

    Returns:
        (names that decay, names that do not), each in the order of `model.named_parameters()`.
    """
    keep: set[str] = set()
    for prefix, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        if isinstance(module, nn.Embedding) or is_norm:
            keep.update(f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters())
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    no_decay = [name for name, parameter in trained if name in keep or parameter.ndim < 2 or "pos_bias" in name]
    excluded = set(no_decay)
    return [name for name, _ in trained if name not in excluded], no_decay


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Make AdamW (fused where the device has it) for the trained parameters of a model that lies on its device.

    Raises:
        ValueError: nothing is left to train, the name is unknown, or bitsandbytes is needed and not installed.
    """
    if options.name not in OPTIMIZERS:
        raise ValueError(f"optimizer {options.name!r} is none of {', '.join(OPTIMIZERS)}")
    parameters = dict(model.named_parameters())
    decay, no_decay = decay_groups(model)
    if not decay and not no_decay:
        raise ValueError("every parameter of the model is frozen: there is nothing to train")
    groups: list[dict[str, Any]] = [
        {"params": [parameters[name] for name in decay], "weight_decay": options.weight_decay},
        {"params": [parameters[name] for name in no_decay], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    arguments: dict[str, Any] = {"lr": options.learning_rate, "betas": options.betas, "eps": options.epsilon}
    if options.name == "adamw_8bit":
        return _eight_bit_class()(groups, **arguments)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, fused=devices <= FUSED_DEVICES, **arguments)


def _eight_bit_class() -> Any:
    """The 8-bit AdamW class of bitsandbytes."""
    try:
        return importlib.import_module("bitsandbytes").optim.AdamW8bit
    except ImportError as error:
        raise ValueError(
            "optimizer adamw_8bit needs the package bitsandbytes, which is not installed: "
            'pip install -c constraints.txt -e ".[8bit]", or set optimizer to adamw'
        ) from error


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of an optimizer the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
