"""Adapters that are a single file of weights, as diffusers, the tools of kohya and ComfyUI write and read them.

    MODULE.lora_A.weight, MODULE.lora_B.weight     also .lora_down / .lora_up, .lora.down / .lora.up, .lora_A.default
    MODULE.alpha                                   numerator of the scale: alpha / rank
    MODULE.dora_scale                              magnitudes of the outputs (DoRA); also .lora_magnitude_vector
    MODULE.set_weight                              weights of a layer that was trained whole

Without an alpha, the scale is that of the metadata `lora_adapter_metadata` (diffusers), and 1 without these.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from songgen.adapters.peft_config import adapter_scale, parse_config
from songgen.runtime.json_files import parse_json

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

DIFFUSERS_KEY = "lora_adapter_metadata"
"""Metadata of diffusers' files: the LoraConfig of each component as one JSON object, keys as `transformer.r`."""

_MAX_METADATA_BYTES = 1024**2

_FIRST, _SECOND, _ALPHA, _MAGNITUDE, _WHOLE = "lora_A.weight", "lora_B.weight", "alpha", "magnitude", "whole"

_PARTS = (
    (re.compile(r"\.lora_A(\.default)?(\.weight)?$|[._]lora[._]down\.weight$"), _FIRST),
    (re.compile(r"\.lora_B(\.default)?(\.weight)?$|[._]lora[._]up\.weight$"), _SECOND),
    (re.compile(r"\.alpha$"), _ALPHA),
    (re.compile(r"\.dora_scale$|\.lora_magnitude_vector(\.default)?(\.weight)?$"), _MAGNITUDE),
    (re.compile(r"\.set_weight$"), _WHOLE),
)
"""End of a name -> part of an adapter; what is before it is the name of the layer."""

_SHOWN = 4


def is_adapter_name(name: str) -> bool:
    """Return whether a name in a weight file is that of a matrix of an adapter."""
    return any(pattern.search(name) is not None for pattern, part in _PARTS if part in (_FIRST, _SECOND))


def parse(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return an adapter as peft describes it: its configuration, and its weights by PEFT's names without the prefix.

    Args:
        tensors: content of the file.
        metadata: texts of its header.
        where: name of the file, for messages.

    Raises:
        ValueError: if it holds other things than matrices, alphas, magnitudes and whole layers, or they do not belong
            together; the message names some of them.
    """
    parts, unknown = _divided(tensors)
    problems = [f"unknown weights: {_some(unknown)}; LoRA, rsLoRA and DoRA are read"] if unknown else []
    modules = {name: found for name, found in parts.items() if found.keys() != {_WHOLE}}
    if torn := [name for name, found in modules.items() if not {_FIRST, _SECOND} <= found.keys() or _WHOLE in found]:
        problems.append(f"layers without both matrices: {_some(torn)}")
    if not modules:
        problems.append("it holds no matrices of an adapter")
    for name in modules.keys() - set(torn):
        problems += _misfits(name, modules[name])
    if problems:
        raise ValueError(f"{where} is not an adapter that can be used:\n" + "\n".join(f"- {each}" for each in problems))
    stated = _stated_config(metadata, where)
    ranks = {name: found[_FIRST].shape[0] for name, found in modules.items()}
    alphas = {name: _alpha(name, found, ranks[name], stated) for name, found in modules.items()}
    (rank, _), (alpha, _) = (Counter(values.values()).most_common(1)[0] for values in (ranks, alphas))
    whole = [name for name in parts if name not in modules]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(name): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {re.escape(name): value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(modules),
        "use_dora": any(_MAGNITUDE in found for found in modules.values()),
        "modules_to_save": sorted({name.removesuffix(".bias") for name in whole}),
    }
    return parse_config(config, where), _peft_weights(parts)


def _divided(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Return the parts of each layer, and the names that are not those of parts."""
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        for pattern, part in _PARTS:
            if match := pattern.search(name):
                parts.setdefault(name[: match.start()].removeprefix("base_model.model."), {})[part] = tensor
                break
        else:
            unknown.append(name)
    return parts, unknown


def _misfits(name: str, found: Mapping[str, Tensor]) -> list[str]:
    """Return what is wrong with the parts of a layer."""
    first, second = found[_FIRST], found[_SECOND]
    if first.ndim < 2 or second.ndim < 2 or first.shape[0] != second.shape[1]:
        return [f"{name}: matrices of {tuple(first.shape)} and {tuple(second.shape)} do not belong together"]
    outputs, magnitude = second.shape[0], found.get(_MAGNITUDE)
    if magnitude is not None and magnitude.numel() != outputs:
        return [f"{name}: {magnitude.numel()} magnitudes for {outputs} outputs"]
    if magnitude is not None and magnitude.ndim > 1 and magnitude.shape[0] != outputs and magnitude.shape[1] != outputs:
        return [f"{name}: magnitudes of its inputs; only those of outputs are read"]
    if _ALPHA in found and found[_ALPHA].numel() != 1:
        return [f"{name}: an alpha of {found[_ALPHA].numel()} values"]
    return []


def _alpha(name: str, found: Mapping[str, Tensor], rank: int, stated: tuple[str, LoraConfig] | None) -> float:
    """Return the numerator of a layer's scale, with the rank as denominator."""
    if _ALPHA in found:
        return float(found[_ALPHA].item())
    if stated is None:
        return float(rank)
    component, config = stated
    return adapter_scale(config, name.removeprefix(f"{component}."), rank) * rank


def _stated_config(metadata: Mapping[str, str], where: str) -> tuple[str, LoraConfig] | None:
    """Return the component and its configuration in the metadata of a file of diffusers; None if it has none.

    Raises:
        ValueError: if there are several components, or the configuration cannot be used.
    """
    text = metadata.get(DIFFUSERS_KEY)
    if text is None:
        return None
    values: Any = parse_json(text, max_bytes=_MAX_METADATA_BYTES)
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {DIFFUSERS_KEY} is not an object")
    components = {key.rpartition(".")[0] for key in values}
    if len(components) > 1:
        raise ValueError(f"{where} holds adapters of several networks ({', '.join(sorted(components))}); one is read")
    own = {key.rpartition(".")[2]: value for key, value in values.items()} | {"peft_type": "LORA"}
    return next(iter(components), ""), parse_config(own, f"{where}: {DIFFUSERS_KEY}")


def _peft_weights(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights by PEFT's names without the prefix."""
    weights: dict[str, Tensor] = {}
    for name, found in parts.items():
        if _WHOLE in found:
            weights[name if name.endswith(".bias") else f"{name}.weight"] = found[_WHOLE]
            continue
        weights[f"{name}.{_FIRST}"], weights[f"{name}.{_SECOND}"] = found[_FIRST], found[_SECOND]
        if _MAGNITUDE in found:
            # In peft, a vector for linear layers, and 1 x outputs x 1 for convolutions.
            dimensions = found[_FIRST].ndim
            shape = (-1,) if dimensions == 2 else (1, -1, *(1,) * (dimensions - 2))
            weights[f"{name}.lora_magnitude_vector"] = found[_MAGNITUDE].reshape(shape)
    return weights


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
