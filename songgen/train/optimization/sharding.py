"""Weights that are sharded over the processes (FSDP2): precision, gathering, and sharding again."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule

from songgen.config import RunConfig
from songgen.runtime.private_names import reshards_after_forward
from songgen.runtime.processes.deepspeed_launch import deepspeed_plugin


def require_shardable(config: RunConfig, accelerator: Accelerator) -> None:
    """Refuse a quantized base in a launch that shards weights or their optimizer state. Call it before loading.

    Raises:
        ValueError: if the launch is one; the message says what to change.
    """
    lora = config.adapter.lora_arguments()
    if lora is None or lora.quantization == "none":
        return
    is_fsdp = accelerator.distributed_type == DistributedType.FSDP
    if is_fsdp or deepspeed_plugin(config.training.dtype) is not None:
        launch = "FSDP" if is_fsdp else "DeepSpeed"
        raise ValueError(
            f'lora.quantization: "{lora.quantization}" does not work with {launch}, which does not know the format of '
            "quantized weights; launch with data parallelism (ddp_8_gpus.yaml), in which each process holds the "
            'quantized base, or set quantization to "none"'
        )


def autocast_forward(accelerator: Accelerator, model: nn.Module) -> None:
    """Make a model that is sharded next compute as it does with DDP. Call it before `prepare`.

    The mixed-precision policy that accelerate (1.15) gives FSDP2 casts everything: weights, voice samples, the residual
    stream, losses and sums of gradients would all be bfloat16 or float16. Here, weights, gradients and losses stay in
    float32, also between processes, and only matrix products use lower precision.
    """
    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    forward = model.forward

    @functools.wraps(forward)
    def autocast(*args: Any, **kwargs: Any) -> Any:
        # Autocast's cache would keep a cast copy of each layer's weights until the end of the forward pass, long after
        # the layer was sharded again: the memory that sharding saves would be lost.
        with accelerator.autocast(AutocastKwargs(cache_enabled=False)):
            return forward(*args, **kwargs)

    model.forward = autocast


def shard_again(model: nn.Module) -> None:
    """Shard all weights again. A forward pass without a backward pass leaves a gathered copy of them.

    The next pass would compute with that copy, even if the shards have changed since; and the parameters of the module
    would not be those of the optimizer.
    """
    for module in _sharded_modules(model):
        module.reshard()


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Gather sharded weights in this context, so that each process can use the model by itself."""
    modules = _sharded_modules(model)
    # Without this setting, each forward pass would gather and free the weights again; that is a collective operation,
    # and processes that sample songs of different lengths do not run the same number of passes.
    resharding = [reshards_after_forward(module) for module in modules]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module, reshards in zip(modules, resharding, strict=True):
            module.set_reshard_after_forward(reshards, recurse=False)
            module.reshard()


def _sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """Return the modules whose parameters are gathered together; empty if the model is not sharded."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
