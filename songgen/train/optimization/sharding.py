"""Weights that are sharded over the processes (FSDP2): their precision, gathering them, sharding them again."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from torch import nn
from torch.distributed.fsdp import FSDPModule

from songgen.runtime.private_names import reshards_after_forward


def autocast_forward(accelerator: Accelerator, model: nn.Module) -> None:
    """Let a model that is about to be sharded compute as it does within DDP. To be called before `prepare`.

    Accelerate (1.15) gives FSDP2 a policy that casts: weights, voice samples, the residual stream, the losses and the
    sums of gradients would all be bfloat16 or float16. Instead weights, gradients and losses stay in float32, on
    the way between processes too, and matrices are multiplied in lower precision.
    """
    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    forward = model.forward

    @functools.wraps(forward)
    def autocast(*args: Any, **kwargs: Any) -> Any:
        # A cache would keep a copy of each layer's weights until the pass has ended, although the layer is sharded.
        with accelerator.autocast(AutocastKwargs(cache_enabled=False)):
            return forward(*args, **kwargs)

    model.forward = autocast


def shard_again(model: nn.Module) -> None:
    """Shard all weights again. A forward pass without a backward pass leaves a gathered copy of them.

    The next pass would compute with that copy, whatever was written to the shards since; and the parameters that the
    module shows would not be those of the optimizer.
    """
    for module in _sharded_modules(model):
        module.reshard()


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Gather sharded weights within the context, so that each process can use the model by itself."""
    modules = _sharded_modules(model)
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
    """Return the modules whose parameters are gathered together; none in a model that is not sharded."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
