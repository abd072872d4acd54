"""All uses of private names of torch and DeepSpeed; no other module of songgen uses one.

Checked with torch 2.13.0 (names and the texts of gloo's errors) and DeepSpeed 0.19.8. setup.py limits torch and
DeepSpeed to checked versions: check each function here before raising that limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.utils.data._utils import signal_handling

_GLOO_SOURCE = re.compile(r"gloo/\S+\.(?:cc|h):\d+\]")
"""Source line with which gloo's messages begin, such as `[.../gloo/transport/tcp/pair.cc:553]`."""


def is_lost_connection(error: BaseException) -> bool:
    """Return whether a collective operation failed because a process is gone or did not answer in time.

    NCCL and the store raise their own classes. Gloo raises a bare RuntimeError in all_reduce, broadcast, all_gather
    and barrier alike, after a closed connection as after a timeout (measured by killing a peer), so its text is read.
    """
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and _GLOO_SOURCE.search(str(error)) is not None


def set_timeouts(seconds: float) -> None:
    """Set the timeout of collective operations in all process groups, including those for sharding."""
    for group in distributed_c10d._world.pg_map:
        distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def default_store() -> Any:
    """Return the key-value store through which the processes found each other."""
    return distributed_c10d._get_default_store()


def loader_workers(iterator: Any) -> list[Any]:
    """Return the worker processes of an iterator of a `DataLoader`; none if it reads by itself."""
    return list(getattr(iterator, "_workers", ()))


def awaited_worker(iterator: Any) -> int | None:
    """Return the number of the worker that provides the next batch of an iterator of a `DataLoader`."""
    task = iterator._task_info.get(iterator._rcvd_idx)
    return None if task is None else int(task[0])


def shut_down_workers(iterator: Any) -> None:
    """Shut down the workers of an iterator."""
    iterator._shutdown_workers()


def forget_workers(iterator: Any) -> None:
    """Stop watching the workers of an iterator before they are killed; torch would raise an error for each."""
    if getattr(iterator, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


def reshards_after_forward(module: Any) -> bool:
    """Return the current setting of `set_reshard_after_forward` of an `FSDPModule`; torch has no public getter."""
    return any(group.post_forward_mesh_info is not None for group in module._get_fsdp_state()._fsdp_param_groups)


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called around a module's `forward`; torch has no public way to ask."""
    return any(
        getattr(module, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )


class NotifiedModule(nn.Module):
    """A module that learns when it was moved or cast: every public way (`to`, `cuda`, `half`) calls `_apply`."""

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.on_move()
        return self

    def on_move(self) -> None:
        """Do what follows a move or cast, while the module may not be complete yet."""


def multiply_all(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply many tensors by a scalar, in place and in few kernels."""
    torch._foreach_mul_(list(tensors), factor)


def move_all(tensors: Sequence[Tensor], targets: Sequence[Tensor], weight: float) -> None:
    """Move many tensors a share of the way towards others, in place and in few kernels."""
    torch._foreach_lerp_(list(tensors), list(targets), weight)


def own_piece(parameter: Any) -> tuple[slice, slice]:
    """Return the piece of a parameter that this process updates under DeepSpeed's ZeRO-2.

    Returns:
        Its place in the flattened parameter, and in the flat partition.
    """
    mapping = parameter._hp_mapping
    if mapping is None:
        return slice(0, 0), slice(0, 0)
    inside, place = mapping.lp_fragment_address, mapping.hp_fragment_address
    return slice(inside.start, inside.start + inside.numel), slice(place.start, place.start + place.numel)
