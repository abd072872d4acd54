"""float32 weights behind a model that has its weights in 16 bits.

An update of AdamW changes a weight by about the learning rate. With 5e-5 and weights around 0.02 that is 0.25 %, less
than half of the distance between two neighbours in bfloat16 (0.4 to 0.8 %): nearly all updates would be rounded away.
So the optimizer updates float32 copies ("masters"), and the model gets them rounded after each update. Rounding at
random instead would save the copies (4 of 16 bytes for each trained parameter), but it is a random walk on top of
training, and a checkpoint would hold rounded weights. Frozen weights, the most of them when adapters are trained, have
no copy.

What is lost: gradients are rounded to 16 bits, and added up in them over the micro-batches of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn

logger = logging.getLogger(__name__)


class MasterWeights:
    """float32 copies of the trained parameters of a model, and their exchange with it."""

    def __init__(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Copy parameters that are still in float32.

        Args:
            trained: trained parameters of the model by name, on their device.
        """
        self._shown = dict(trained)
        self.parameters = {name: nn.Parameter(entry.detach().clone().float()) for name, entry in trained.items()}

    def in_groups(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the optimizer's groups with the copies in place of the model's parameters."""
        copies = {id(self._shown[name]): copy for name, copy in self.parameters.items()}
        return [{**group, "params": [copies[id(entry)] for entry in group["params"]]} for group in groups]

    def take_gradients(self) -> None:
        """Move the gradients of the model to the copies, in float32."""
        for name, copy in self.parameters.items():
            shown = self._shown[name]
            copy.grad = None if shown.grad is None else shown.grad.float()
            shown.grad = None

    @torch.no_grad()
    def show(self) -> None:
        """Give the model the copies, rounded to its precision."""
        for name, copy in self.parameters.items():
            self._shown[name].copy_(copy)


@torch.no_grad()
def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Round all float32 parameters and buffers of a model to 16 bits, in place; the parameters stay the same objects.

    Other precisions stay: quantized weights are integers, or of a precision that belongs to their kernel.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dtype == torch.float32:
            tensor.data = tensor.data.to(dtype)


def describe_precision(dtype: str, weights_dtype: str) -> str:
    """Return the precision of a run as text, for its summary."""
    if dtype == "float32":
        return dtype
    how = "loss scaled" * (dtype == "float16")
    if weights_dtype == "float32":
        return ", ".join(filter(None, [f"{dtype} (autocast, float32 weights)", how]))
    return ", ".join(filter(None, [f"{dtype} (weights too, with float32 copies of the trained ones)", how]))


def require_possible_weights(weights_dtype: str, kind: DistributedType) -> None:
    """Refuse 16-bit weights where they cannot be trained, and warn of what they lose.

    Args:
        weights_dtype: precision of the weights in the model.
        kind: kind of launch.

    Raises:
        ValueError: if the launch shards the weights or the optimizer.
    """
    if weights_dtype == "float32":
        return
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"weights_dtype {weights_dtype} does not work with {kind.value}, which shards float32 weights: set it to "
            "float32, or launch with helpers/accelerate_configs/ddp_8_gpus.yaml"
        )
    logger.warning(
        "weights_dtype %s: frozen weights are rounded to it, and so are gradients, in which the micro-batches of a "
        "step are added up; trained weights are not, since the optimizer keeps them in float32",
        weights_dtype,
    )
