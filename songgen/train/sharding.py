"""Weights that are sharded over the processes (FSDP2): whole for a while, and sharded again behind an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule


def shard_again(model: nn.Module) -> None:
    """Leave no module whole. A forward pass that no backward pass follows does: it keeps a gathered copy of weights.

    The next pass would compute with that copy, whatever was written to the shards since; and the optimizer would not
    know the parameters that stand in the module.
    """
    for module in _sharded_modules(model):
        module.reshard()


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Gather sharded weights for a while, so that each process can use the model without the others."""
    modules = _sharded_modules(model)
    resharding = [_reshards_after_forward(module) for module in modules]
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
    """Those parts whose parameters are gathered together; none in a model that is not sharded."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _reshards_after_forward(module: FSDPModule) -> bool:
    """What `set_reshard_after_forward` was told, or the wrapper's own default; torch lets one only set it."""
    return any(group.post_forward_mesh_info is not None for group in module._get_fsdp_state()._fsdp_param_groups)
