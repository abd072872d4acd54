"""AdamW over the trained parameters, and its learning rates."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from songgen.families.trainable import FACTOR_KEY, Trainable
from songgen.train.optimization.master_weights import MasterWeights

OPTIMIZERS = ("adamw", "adamw_8bit")

FUSED_DEVICES = {"cpu", "cuda"}
"""Types of devices for which torch has a fused AdamW."""


@dataclass(frozen=True)
class OptimizerOptions:
    """Settings of AdamW."""

    learning_rate: float
    """Base learning rate, multiplied by the schedule's factor."""
    name: str = "adamw"
    """Name of the optimizer, one of `OPTIMIZERS`."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the first and second moment."""
    epsilon: float = 1e-8
    """Number added to the root of the second moment."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of the parameters that decay."""


def build_optimizer(
    model: nn.Module, trainable: Trainable, options: OptimizerOptions, masters: MasterWeights | None = None
) -> torch.optim.Optimizer:
    """Build AdamW (fused if the device has it) for the trained parameters of a model that is on its device.

    Args:
        model: the model.
        trainable: which parameters are trained.
        options: settings.
        masters: float32 weights to update in place of the model's own.

    Raises:
        ValueError: if nothing is left to train, the name is unknown, or bitsandbytes is needed and not installed.
    """
    if options.name not in OPTIMIZERS:
        raise ValueError(f"optimizer {options.name!r} is none of {', '.join(OPTIMIZERS)}")
    groups = trainable.optimizer_groups(model, options.weight_decay)
    if not groups:
        raise ValueError("every parameter of the model is frozen: there is nothing to train")
    if masters is not None:
        groups = masters.in_groups(groups)
    arguments: dict[str, Any] = {"lr": options.learning_rate, "betas": options.betas, "eps": options.epsilon}
    if options.name == "adamw_8bit":
        return _eight_bit_class()(groups, **arguments)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, fused=devices <= FUSED_DEVICES, **arguments)


def _eight_bit_class() -> Any:
    """Return the 8-bit AdamW class of bitsandbytes."""
    try:
        return importlib.import_module("bitsandbytes").optim.AdamW8bit
    except ImportError as error:
        raise ValueError(
            "optimizer adamw_8bit needs the package bitsandbytes, which is not installed: "
            'pip install -c constraints.txt -e ".[8bit]", or set optimizer to adamw'
        ) from error


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the run's learning rate, multiplied by each parameter group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get(FACTOR_KEY, 1.0)


def get_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Return the run's learning rate, without the factors of parameter groups."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / group.get(FACTOR_KEY, 1.0)
