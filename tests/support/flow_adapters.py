"""Adapters of a tiny flow model as a run makes and writes them, with random weights, so that they change something."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from songgen.config import RunConfig
from songgen.families.flow.model import FlowModel
from songgen.families.flow.parameter_groups import choose_trained
from songgen.families.trainable import Trainable, WeightForm
from songgen.runtime.file_hashes import record_hashes

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "rank_pattern": {"to_q": 2}, "alpha_pattern": {"mlp": 3}},
    "dora": {"use_dora": True, "target_modules": ["attention", "proj_in_conv"]},
    "whole_modules": {"modules_to_save": ["condition_embedder"]},
    "all": {"target_modules": ["all-linear", "proj_in_conv"]},
}


@dataclass(frozen=True)
class Trained:
    """A model as it is after training an adapter."""

    core: FlowModel
    trainable: Trainable
    folder: Path
    """What the run wrote."""

    @property
    def form(self) -> WeightForm:
        assert self.trainable.form is not None
        return self.trainable.form


def configured(base: Path, **lora: Any) -> RunConfig:
    table = {"r": 4, "lora_alpha": 8, **lora}
    paths = {"model_name_or_path": str(base), "output_dir": "out", "save_to_disk": "data"}
    return RunConfig.from_dict({**paths, "lora": table})


def trained_adapter(base: Path, folder: Path, **lora: Any) -> Trained:
    """A model with an adapter, and the folder that its run would write."""
    core = FlowModel.open(base)
    trainable = choose_trained(configured(base, **lora), core)
    generator = torch.Generator().manual_seed(1)
    parameters = trainable.parameters(core)
    for parameter in parameters.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir(parents=True)
    trained = Trained(core, trainable, folder)
    trained.form.write(folder, dict(parameters), steps=3, plan={})
    record_hashes(folder, (*trained.form.names, *trained.form.write_others(folder, dict(parameters))))
    return trained


@torch.no_grad()
def velocity(transformer: nn.Module) -> Tensor:
    """What a transformer computes for fixed inputs."""
    generator = torch.Generator().manual_seed(3)
    noisy, context, conditions = (torch.randn(2, *size, generator=generator) for size in ((8, 4), (8, 8), (5, 32)))
    times = torch.rand(2, generator=generator)
    found: Tensor = transformer.eval()(
        hidden_states=noisy, timestep=times, timestep_r=times, encoder_hidden_states=conditions,
        context_latents=context, return_dict=False,
    )[0]  # fmt: skip
    return found
