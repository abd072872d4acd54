"""Bytes of a real training step: what autograd keeps, and what the allocator of the CPU hands out at most."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of all storages that a forward pass keeps for the backward pass, without the parameters themselves."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.nbytes():
            kept[storage.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del loss
    return size


def peak_bytes(step: Callable[[], Any]) -> int:
    """Most bytes that tensors allocated in a call had at one moment, beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
