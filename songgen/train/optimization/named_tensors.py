"""Saving and loading of parameters and optimizer state as whole tensors by name, for plain, DDP and FSDP2 models.

`torch.distributed.checkpoint.state_dict` would do the same, but it refuses the optimizer state of a model in which a
parameter has not yet received a gradient (torch 2.13), which happens whenever a condition is absent from the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

_LISTED_PROBLEMS = 20


def gather_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Copy tensors to the CPU, whole.

    Every process must call this with the same names, because shards are gathered one tensor at a time.

    Args:
        tensors: plain tensors or DTensors by name.
        keep: False on processes that only take part in the gathering; they get an empty dictionary.
    """
    gathered = {}
    for name, tensor in tensors.items():
        value = tensor.detach()
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            gathered[name] = whole.to("cpu", copy=True).contiguous()
    return gathered


@torch.no_grad()
def copy_tensors(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into the tensors of the same names; each process copies its own shard.

    Raises:
        ValueError: if names or shapes differ; the message lists them.
    """
    _require_same_shapes(values, targets)
    for name, target in targets.items():
        target.copy_(_like(values[name], target))


def optimizer_tensors(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state on this process by `<parameter>.<entry>`, without hyper-parameters."""
    return {
        f"{name}.{entry}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in parameters.items()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `optimizer_tensors` returned; the optimizer keeps its own learning rate, decay and betas.

    Raises:
        ValueError: if a tensor does not belong to a trained parameter.
    """
    on_device = counts_on_device(optimizer)
    for name, entries in optimizer_entries(tensors, parameters).items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            entry: _restored(tensor, parameter, on_device) for entry, tensor in entries.items()
        }


def optimizer_entries(tensors: Mapping[str, Tensor], parameters: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """Group tensors named `<parameter>.<entry>` by parameter.

    Raises:
        ValueError: if a tensor belongs to none of the parameters.
    """
    entries: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition(".")
        if name not in parameters:
            raise ValueError(f"the checkpoint's optimizer state names {name!r}, which is not trained now")
        entries.setdefault(name, {})[entry] = tensor
    return entries


def counts_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether AdamW's step counters are on the parameters' device: only if it is fused or capturable."""
    return any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)


def _restored(saved: Tensor, parameter: nn.Parameter, counts_on_device: bool) -> Tensor | int:
    """Return an entry of the optimizer's state as it was before `optimizer_tensors`.

    Args:
        saved: whole tensor on the CPU.
        parameter: parameter that it belongs to.
        counts_on_device: whether AdamW's step counter belongs on the device.
    """
    if saved.shape == parameter.shape:
        return _like(saved, parameter)
    if saved.ndim > 0:  # maps and scales of bitsandbytes, which moves them to the device before its first step only
        return saved.to(parameter.device, copy=True)
    if not saved.is_floating_point():  # bitsandbytes counts its steps in a Python int
        return int(saved)
    return saved.to(parameter.device if counts_on_device else "cpu", copy=True)


def _like(value: Tensor, target: Tensor) -> Tensor:
    """Copy a whole tensor to the device of another, with the same sharding."""
    value = value.to(target.device, copy=True)
    if isinstance(target, DTensor):
        return distribute_tensor(value, target.device_mesh, target.placements)
    return value


def _require_same_shapes(saved: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
    """Compare the parameters of a checkpoint with those that are trained now."""
    problems = [f"{name}: not in the checkpoint" for name in sorted(set(present) - set(saved))]
    problems += [f"{name}: in the checkpoint, not trained now" for name in sorted(set(saved) - set(present))]
    problems += [
        f"{name}: {list(saved[name].shape)} in the checkpoint, {list(present[name].shape)} now"
        for name in sorted(set(saved) & set(present))
        if saved[name].shape != present[name].shape
    ]
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems[:_LISTED_PROBLEMS])
        raise ValueError(
            f"the checkpoint was trained with other parameters ({len(problems)} differences):\n{listed}\n"
            "Freezing and model sizes must stay as they were. To continue from its weights in another way, choose a "
            "new output_dir and give the present one as model_name_or_path."
        )
