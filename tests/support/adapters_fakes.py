"""Adapters that peft makes on tiny models, with random matrices, so that they change what the model computes."""

from typing import Any

import torch
from model_fakes import batch, tiny
from peft import LoraConfig
from peft.functional import inject_adapter_in_model
from torch import nn

from songgen.adapters.folder import Adapter, AdapterRecipe, peft_names, weights_fingerprint

TARGETS = ["q_proj", "v_proj", "fc1"]

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "whole_modules": {"modules_to_save": ["decoder.lm_heads.0", "enc_to_dec_proj"]},
    "embeddings": {"target_modules": ["embed_prompts", "q_proj"]},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r".*\.fc1": 3}},
    "pattern_of_targets": {"target_modules": r".*\.self_attn\.(q|k)_proj"},
}

Made = tuple[nn.Module, Adapter]


def make_adapter(seed: int = 1, base: nn.Module | None = None, base_name: str = "base", **config: Any) -> Made:
    """A model as it is in training, with an attached adapter, and the adapter as it is written."""
    model = tiny() if base is None else base
    fingerprint = weights_fingerprint(model.state_dict())
    lora = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "lora_dropout": 0.1, **config})
    inject_adapter_in_model(lora, model)
    names = peft_names(name for name, _ in model.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    state = model.state_dict()
    recipe = AdapterRecipe(base_name, fingerprint, "0.1.0", steps=3)
    return model.eval(), Adapter(lora, {written: state[name].clone() for name, written in names.items()}, recipe)


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch(model), return_logits=True).logits
