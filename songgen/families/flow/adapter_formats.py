"""Adapters of flow models in the forms of diffusers and ComfyUI, and layers by the names that other programs use.

- this program and PEFT: `base_model.model.layers.0.self_attn.to_q.lora_A.weight`
- diffusers: `transformer.layers.0.self_attn.to_q.lora_A.weight`
- ComfyUI and ACE-Step 1.5: `base_model.model.layers.0.self_attn.q_proj.lora_A.weight`, also with `decoder.`
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from songgen.adapters.folder import COMFYUI_FILE, DIFFUSERS_FILE, PEFT_PREFIX, Adapter
from songgen.adapters.peft_config import adapter_scale
from songgen.adapters.weight_file import DIFFUSERS_KEY
from songgen.runtime.tensor_files import write_tensors

if TYPE_CHECKING:
    from peft import LoraConfig

PUBLISHED_PARTS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0", "decoder": ""}
"""Part of a layer's name in the published models of ACE-Step 1.5 -> the same part in diffusers, and here."""

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_IN_BLOCKS = (
    *(f"{part}.{name}" for part in ("self_attn", "cross_attn") for name in _ATTENTION),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
_OUTSIDE = (
    "condition_embedder",
    *(f"{part}.{name}" for part in ("time_embed", "time_embed_r") for name in ("linear_1", "linear_2", "time_proj")),
    "proj_in_conv",
)
"""Layers that can get an adapter, in a block and outside of the blocks."""

_PUBLISHED = {own: published for published, own in PUBLISHED_PARTS.items() if own}
_PUBLISHED_INPUT, _INPUT = "proj_in.1", "proj_in_conv"

_PREFIX = re.compile(r"^(base_model\.model\.|transformer\.|diffusion_model[._]|lora_unet_|lycoris_|decoder[._])*")
"""What other programs put in front of the names."""

_BLOCK = re.compile(r"layers_(\d+)_(\w+)")
_COMPONENT = "transformer"
_COMFYUI_PREFIX = "diffusion_model.decoder."
"""Prefix of ComfyUI's names of single parameters."""

_MATRIX, _FIRST, _MAGNITUDE = ".lora_", ".lora_A.weight", ".lora_magnitude_vector"

logger = logging.getLogger(__name__)


def published_name(module: str) -> str:
    """Return the name of a layer in the published models of ACE-Step 1.5."""
    if module == _INPUT:
        return _PUBLISHED_INPUT
    stem = module.removesuffix(".to_out.0")
    if stem != module:
        return f"{stem}.{_PUBLISHED['to_out.0']}"
    return ".".join(_PUBLISHED.get(part, part) for part in module.split("."))


def _flat(name: str) -> str:
    return name.replace(".", "_")


_KNOWN_IN_BLOCKS = {_flat(form): own for own in _IN_BLOCKS for form in (own, published_name(own))}
_KNOWN_OUTSIDE = {_flat(form): own for own in _OUTSIDE for form in (own, published_name(own))}
"""Name with `_` for `.`, as the tools of kohya write it, in either spelling -> name of the layer."""


def own_module(name: str) -> str | None:
    """Return the name of a layer that another program may have named; None if it is none of the transformer's."""
    flat = _flat(_PREFIX.sub("", name))
    if block := _BLOCK.fullmatch(flat):
        own = _KNOWN_IN_BLOCKS.get(block[2])
        return None if own is None else f"layers.{block[1]}.{own}"
    return _KNOWN_OUTSIDE.get(flat)


def own_names(adapter: Adapter) -> Adapter:
    """Return an adapter with the names of layers that are used here; unknown ones are kept, to be named in a message.

    Raises:
        ValueError: if two of its layers are the same layer here.
    """
    modules = {module: own_module(module) or module for module, _, _ in _parts(adapter)}
    if all(own == module for module, own in modules.items()):
        return adapter
    weights = {f"{PEFT_PREFIX}{modules[module]}{part}": tensor for module, part, tensor in _parts(adapter)}
    if len(weights) < len(adapter.weights):
        raise ValueError("the adapter holds weights of a layer twice, under different names of the layer")
    return replace(adapter, config=_with_own_names(adapter, modules), weights=weights)


def _with_own_names(adapter: Adapter, modules: Mapping[str, str]) -> LoraConfig:
    """Return the configuration of an adapter for other names of its layers, with the same ranks and scales."""
    config = copy.deepcopy(adapter.config)
    ranks = _ranks(adapter)
    alphas = {modules[name]: adapter_scale(config, name, rank) * rank for name, rank in ranks.items()}
    own_ranks = {modules[name]: rank for name, rank in ranks.items()}
    config.r, config.rank_pattern = _most_common(own_ranks)
    config.lora_alpha, config.alpha_pattern = _most_common(alphas)
    config.use_rslora = False  # the scales are in the values of alpha
    # A regular expression for other names cannot be translated: then the layers are those that have weights.
    targets = list(ranks) if isinstance(config.target_modules, str) else config.target_modules
    config.target_modules = [_own_entry(entry) for entry in targets or ()]
    config.modules_to_save = [_own_entry(entry) for entry in config.modules_to_save or ()] or None
    if isinstance(config.exclude_modules, list | set):
        config.exclude_modules = [_own_entry(entry) for entry in config.exclude_modules]
    return config


def _own_entry(entry: str) -> str:
    """Return the end of layers' names in the names that are used here."""
    parts = (PUBLISHED_PARTS.get(part, part) for part in entry.split("."))
    return own_module(entry) or ".".join(part for part in parts if part)


def _most_common(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the most frequent value, and the layers with another one."""
    usual = Counter(values.values()).most_common(1)[0][0]
    return usual, {name: value for name, value in values.items() if value != usual}


def write_shared_forms(folder: Path, adapter: Adapter) -> tuple[str, ...]:
    """Write an adapter for diffusers and ComfyUI, if its layers are those of the transformer.

    An adapter that a form cannot describe is left out of it, with a warning.

    Args:
        folder: folder of the adapter.
        adapter: the adapter, with the names that are used here.

    Returns:
        Names of the files.
    """
    parts, ranks = list(_parts(adapter)), _ranks(adapter)
    if not ranks or any(own_module(module) != module for module in ranks):
        return ()
    written = []
    if whole := sorted({module for module, part, _ in parts if _is_whole(part)}):
        logger.warning(
            "%s is not written: diffusers reads no layers that were trained whole (%s); open the folder there with "
            "PeftModel.from_pretrained(pipe.transformer, FOLDER)", DIFFUSERS_FILE, ", ".join(whole[:3]),
        )  # fmt: skip
    else:
        named = {f"{_COMPONENT}.{module}{part}": tensor for module, part, tensor in parts}
        write_tensors(folder / DIFFUSERS_FILE, named, {DIFFUSERS_KEY: _diffusers_metadata(adapter.config, ranks)})
        written.append(DIFFUSERS_FILE)
    if any(part.endswith(".bias") and not _is_whole(part) for _, part, _ in parts):
        logger.warning("%s is not written: ComfyUI reads no biases of adapters", COMFYUI_FILE)
    else:
        write_tensors(folder / COMFYUI_FILE, dict(_comfyui_weights(adapter.config, parts, ranks)))
        written.append(COMFYUI_FILE)
    return tuple(written)


def _diffusers_metadata(config: LoraConfig, ranks: Mapping[str, int]) -> str:
    """Return the LoraConfig that diffusers builds, as the text in the header of its file."""
    values = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
        "target_modules": sorted(ranks),
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "lora_bias": config.lora_bias,
    }
    return json.dumps({f"{_COMPONENT}.{key}": value for key, value in values.items()}, sort_keys=True)


def _comfyui_weights(
    config: LoraConfig, parts: Iterable[tuple[str, str, Tensor]], ranks: Mapping[str, int]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and weights of ComfyUI's file."""
    for module, part, tensor in parts:
        name = f"{PEFT_PREFIX}{published_name(module)}"
        if part == _MAGNITUDE:
            # In ComfyUI it has as many dimensions as the weight, or it would be spread over the inputs.
            yield f"{name}.dora_scale", tensor.reshape(-1, *(1,) * max(1, tensor.ndim - 1))
        elif part == ".bias":
            yield f"{_COMFYUI_PREFIX}{published_name(module)}.bias.set_weight", tensor
        elif _is_whole(part):
            yield f"{name}.set_weight", tensor
        else:
            yield f"{name}{part}", tensor
    for module, rank in ranks.items():
        # ComfyUI divides by the rank; so this is also the scale of rsLoRA.
        alpha = adapter_scale(config, module, rank) * rank
        yield f"{PEFT_PREFIX}{published_name(module)}.alpha", torch.tensor(alpha)


def _parts(adapter: Adapter) -> Iterator[tuple[str, str, Tensor]]:
    """Yield layer, rest of the name, and tensor of each weight."""
    for name, tensor in adapter.weights.items():
        bare = name.removeprefix(PEFT_PREFIX)
        module = bare.rpartition(_MATRIX)[0] or bare.rpartition(".")[0]
        yield module, bare.removeprefix(module), tensor


def _ranks(adapter: Adapter) -> dict[str, int]:
    """Return the rank of each layer that has matrices."""
    return {module: tensor.shape[0] for module, part, tensor in _parts(adapter) if part == _FIRST}


def _is_whole(part: str) -> bool:
    return not part.startswith(_MATRIX)
