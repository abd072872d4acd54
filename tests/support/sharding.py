"""Runs whose weights are sharded over processes without a GPU (FSDP2).

Accelerate ignores its FSDP plugin where there is no GPU, so here its state is told of the plugin afterwards;
everything else is what accelerate and the product do, as the files of `helpers/accelerate_configs` say.
"""

import os
from collections.abc import Callable
from typing import Any

import yaml
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from forked import before_each_step
from launching import ROOT
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from songgen.train.trainer import Trainer

ACCELERATE_CONFIGS = ROOT / "helpers" / "accelerate_configs"


def launch_sharded(file: str) -> None:
    """Let this process shard as a file of `helpers/accelerate_configs` says; its processes and devices aside."""
    settings = yaml.safe_load((ACCELERATE_CONFIGS / file).read_text())["fsdp_config"]
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
    begin = AcceleratorState.__init__

    def begin_sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = begin_sharded


def shard(then: Callable[[int], None] | None = None, file: str = "fsdp2_8_gpus.yaml") -> Callable[[int], None]:
    """A hook that shards the run's model, and sees at each step that it is."""

    def require_shards(trainer: Trainer, batches: Any) -> None:
        parameters = [entry for entry in trainer.engine.model.parameters() if entry.requires_grad]
        assert all(isinstance(entry, DTensor) for entry in parameters)
        assert any(entry.to_local().numel() < entry.numel() for entry in parameters)
        # Not only the whole model: the layers that it names are gathered one by one.
        core: Any = trainer.core
        named = [it for it in core.modules() if core._no_split_modules & {base.__name__ for base in type(it).__mro__}]
        assert named and all(isinstance(layer, FSDPModule) for layer in named)

    def hook(rank: int) -> None:
        launch_sharded(file)
        before_each_step(require_shards)
        if then is not None:
            then(rank)

    return hook
