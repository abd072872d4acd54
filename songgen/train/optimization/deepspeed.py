"""DeepSpeed's ZeRO-2 (an optional package): optimizer and gradients are sharded, each process has the whole weights.

`accelerator.backward` would let DeepSpeed clip, decide and update inside the backward pass of the last micro-batch.
Here its engine's methods are called one by one, so that all processes agree on a step before the weights change.
Weights stay in float32, and `dtype: bfloat16` means autocasting, as with DDP; DeepSpeed's own bfloat16 would round the
weights.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import zlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn

from songgen.families.trainable import Trainable
from songgen.runtime.private_names import multiply_all, own_piece
from songgen.runtime.processes.group import agrees_everywhere, sum_over_processes
from songgen.train.optimization.engine import GradientLimit
from songgen.train.optimization.named_tensors import (
    copy_tensors,
    counts_on_device,
    optimizer_entries,
)

BUCKET_ELEMENTS = 50_000_000
"""Number of gradients or weights exchanged at once, unless the launch says otherwise (200 MB of float32)."""

CLIP_EPSILON = 1e-6
"""Number added to the norm before dividing by it, as in torch."""


def prepare_zero(
    core: nn.Module,
    trainable: Trainable,
    optimizer: torch.optim.Optimizer,
    plugin: DeepSpeedPlugin,
    dtype: str,
    device: torch.device,
) -> ZeroEngine:
    """Let DeepSpeed shard the optimizer and the gradients of a model that is on its device.

    Args:
        core: the model.
        trainable: which parameters are trained.
        optimizer: optimizer of the trained parameters.
        plugin: result of `deepspeed_plugin`.
        dtype: precision of the configuration.
        device: device of this process.

    Raises:
        ValueError: if the optimizer's state cannot be sharded.
    """
    if not isinstance(optimizer, torch.optim.AdamW):
        raise ValueError("DeepSpeed works with the optimizer adamw only: set optimizer to adamw, or launch with DDP")
    if device.type == "cpu":  # DeepSpeed would ask for the machine's accelerator
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    given = {key: value for key, value in plugin.deepspeed_config["zero_optimization"].items() if value != "auto"}
    for key in ("offload_optimizer", "offload_param"):
        given.pop(key, None)
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # required, not used: the training step counts batches itself
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "steps_per_print": math.inf,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            **given,
            "compute_grad_norm": False,
        },
    }
    # DeepSpeed fills its buckets in the order in which gradients are computed, and adds up buckets by position. Where
    # that order differs between processes (a condition that only some clips have), sums mix different parameters.
    arrivals: list[int] = []
    for index, parameter in enumerate(trainable.parameters(core).values()):
        parameter.register_post_accumulate_grad_hook(lambda _, index=index: arrivals.append(index))
    passes = _Passes(core, device.type, torch.bfloat16 if dtype == "bfloat16" else None)
    engine, *_ = deepspeed.initialize(model=passes, optimizer=optimizer, config=settings)
    return ZeroEngine(ZeroModel(engine), engine, trainable, arrivals)


class _Passes(nn.Module):
    """Module that DeepSpeed wraps: its output is a dictionary, since DeepSpeed finds no tensors in dataclasses."""

    def __init__(self, core: nn.Module, device_type: str, autocast: torch.dtype | None) -> None:
        """Wrap a model.

        Args:
            core: model that returns a dataclass of tensors.
            device_type: type of the device that it computes on.
            autocast: precision of its operations; None for that of its weights.
        """
        super().__init__()
        self.module = core
        self.output_type: type | None = None
        self._device_type, self._autocast = device_type, autocast

    def forward(self, **inputs: Any) -> dict[str, Any]:
        """Return the fields of the model's output."""
        with torch.autocast(self._device_type, self._autocast, enabled=self._autocast is not None):
            output = self.module(**inputs)
        self.output_type = type(output)
        return dict(vars(output))


class ZeroModel(nn.Module):
    """Model inside DeepSpeed's engine, called like the model itself."""

    def __init__(self, engine: nn.Module) -> None:
        """Wrap an engine whose module is a `_Passes`."""
        super().__init__()
        self.module = engine

    def forward(self, **inputs: Any) -> Any:
        """Run the model and return its dataclass."""
        values = self.module(**inputs)
        passes: Any = self.module.module
        return passes.output_type(**values)


@dataclass
class ZeroEngine:
    """DeepSpeed's ZeRO-2 as a `songgen.train.optimization.engine.Engine`.

    In DeepSpeed each group of the optimizer is one flat tensor, of which each process updates its partition. One
    parameter can be in the partitions of several processes.
    """

    model: ZeroModel
    """Wrapped model."""
    engine: Any
    """Engine of DeepSpeed."""
    trainable: Trainable
    """Trained parameters of the model."""
    arrivals: list[int]
    """Indices of the parameters in the order in which their gradients were computed since the last step."""

    def __post_init__(self) -> None:
        """Find the trained parameters."""
        self.parameters = self.trainable.parameters(self.engine)

    @property
    def optimizer(self) -> Any:
        """Optimizer of DeepSpeed: it owns the gradients, and the optimizer of the flat partitions."""
        return self.engine.optimizer

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """See `Engine`. The gradients of each micro-batch are exchanged, since no process holds all of them."""
        self.engine.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See `Engine`."""
        self.engine.backward(loss)

    @torch.no_grad()
    def clip_gradients(self, limit: GradientLimit) -> Tensor:
        """See `Engine`.

        Raises:
            ValueError: if the gradients came in different orders on the processes; DeepSpeed has then silently added
                up those of different parameters.
        """
        self._require_same_order()
        gradients = [gradient for group in self.optimizer.averaged_gradients.values() for gradient in group]
        norm = sum_over_processes(nn.utils.get_total_norm(gradients).float().square()).sqrt()
        multiply_all(gradients, (limit.max_norm / (norm + CLIP_EPSILON)).clamp(max=1.0))
        limit.clip_elements(gradients)
        return norm

    def _require_same_order(self) -> None:
        """Compare the order of the gradients with that of the other processes, and clear it.

        Raises:
            ValueError: if it differs.
        """
        digest = zlib.crc32(repr(self.arrivals).encode())
        self.arrivals.clear()
        if not agrees_everywhere(digest, self.engine.device):
            raise ValueError(
                "DeepSpeed adds up gradients in the order in which they are computed, and that differs between the "
                "processes, so this step's are wrong; the weights are those from before it. Launch with "
                "helpers/accelerate_configs/fsdp2_zero2_8_gpus.yaml instead, which shards the same: the run continues."
            )

    def step(self) -> None:
        """See `Engine`. DeepSpeed is configured neither to clip nor to look for overflows."""
        self.engine.step()

    def show_weights(self) -> None:
        """See `Engine`: the model's own weights are trained."""

    def discard_gradients(self) -> None:
        """See `Engine`. DeepSpeed frees the same tensors when it finds an overflow by itself."""
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.averaged_gradients:
            self.optimizer.averaged_gradients[group] = None
            self.optimizer.all_grad_tensors[group] = None

    @torch.no_grad()
    def optimizer_tensors(self, *, keep: bool) -> dict[str, Tensor]:
        """See `Engine`. Before the first update there is no state."""
        gathered = {}
        for flat, parameters in self._groups():
            for entry, value in self.optimizer.optimizer.state.get(flat, {}).items():
                for name, parameter in parameters.items():
                    whole = _gathered(parameter, value) if value.shape == flat.shape else value
                    if keep:
                        gathered[f"{name}.{entry}"] = whole.to("cpu", copy=True)
        return gathered

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """See `Engine`.

        Parameters of a group share one count of updates; if those of the checkpoint differ, the highest one is used.
        """
        copy_tensors(self.parameters, weights)
        self.optimizer.refresh_fp32_params()
        saved = optimizer_entries(optimizer, self.parameters)
        inner = self.optimizer.optimizer
        for flat, parameters in self._groups():
            entries = {name: saved[name] for name in parameters if name in saved}
            if not entries:
                continue
            count = torch.stack([own["step"] for own in entries.values()]).max()
            state = {"step": count.to(flat.device if counts_on_device(inner) else "cpu", copy=True)}
            for name, own in entries.items():
                inside, place = own_piece(parameters[name])
                for entry in own.keys() - {"step"}:
                    state.setdefault(entry, torch.zeros_like(flat))[place] = own[entry].flatten()[inside].to(flat)
            inner.state[flat] = state

    def _groups(self) -> list[tuple[Tensor, dict[str, nn.Parameter]]]:
        """Return this process's flat partition of each optimizer group, and the group's parameters by name."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        return [
            (flat, {names[parameter]: parameter for parameter in group})
            for flat, group in zip(
                self.optimizer.single_partition_of_fp32_groups, self.optimizer.bit16_groups, strict=True
            )
        ]


def _gathered(parameter: nn.Parameter, partition: Tensor) -> Tensor:
    """Assemble a parameter's state from the flat partitions of all processes.

    DeepSpeed's `safe_get_full_optimizer_state` would do it, but it only sees the state of the first group (0.19.8).
    """
    whole = partition.new_zeros(parameter.numel())
    inside, place = own_piece(parameter)
    whole[inside] = partition[place]
    return sum_over_processes(whole).view_as(parameter)
