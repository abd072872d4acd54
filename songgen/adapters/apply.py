"""Attaching adapters to an opened model, to generate or to merge: several at once, each with a strength.

The adapter of a run in training is attached elsewhere, as it is trained. Here an adapter that may come from anyone is
compared with the model first: names, shapes, and the fingerprint of the base that it was trained on.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from songgen.adapters.folder import PEFT_PREFIX, Adapter, model_names, weights_fingerprint
from songgen.adapters.peft_config import lora_config_class

if TYPE_CHECKING:
    from peft import LoraConfig

_LORA_PART = ".lora_"
_SHOWN = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterUse:
    """An adapter that was read, and how strongly it is applied."""

    adapter: Adapter
    """The adapter."""
    name: str
    """Its name in messages."""
    strength: float = 1.0
    """Factor of what it adds to the base model."""


@dataclass(frozen=True)
class Attached:
    """Adapters that are attached to a model."""

    model: nn.Module
    """The model."""
    base_weights: Mapping[str, Tensor]
    """Weights of the base that were replaced, because adapters hold their modules whole, by the model's names."""

    @contextmanager
    def without(self) -> Iterator[None]:
        """Return a context in which the model computes what its base does."""
        parameters = dict(self.model.named_parameters())
        trained = {name: parameters[name].data for name in self.base_weights}
        for name, tensor in self.base_weights.items():
            parameters[name].data = tensor.to(parameters[name])
        try:
            with without_adapters(self.model):
                yield
        finally:
            for name, tensor in trained.items():
                parameters[name].data = tensor


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Return a context in which the attached adapters of a model, and copies that it trains, are not used."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def attach_adapters(model: nn.Module, uses: Sequence[AdapterUse], *, any_base: bool = False) -> Attached:
    """Attach adapters to a model that was opened in float32, and make all of them active.

    What an adapter adds is multiplied by its strength: the product of its matrices, the change of a DoRA magnitude and
    the change of modules that it holds whole. With strength 0 it is not attached, so that the base is used bit for bit.

    Args:
        model: the base model, as it was opened: neither converted nor wrapped. If this raises, do not use it further.
        uses: the adapters.
        any_base: whether an adapter may have been trained on a base with other weights; that is a warning then.

    Returns:
        A handle to use the model without them.

    Raises:
        ValueError: if an adapter was trained on another base, or does not fit the model: it matches no module, or not
            all of its modules.
    """
    lora_config_class()  # says what to install
    _require_base(model, uses, any_base=any_base)
    parts = {f"adapter_{number}": _Parts.of(model, use) for number, use in enumerate(uses) if use.strength != 0}
    replaced = _add_whole_modules(model, parts.values())
    for name, each in parts.items():
        _inject(model, name, each)
    if any(each.matrices for each in parts.values()):
        from peft.functional import set_adapter

        set_adapter(model, list(parts), inference_mode=True)
    return Attached(model, replaced)


@dataclass(frozen=True)
class _Parts:
    """An adapter, divided by how its weights are used, after comparing it with the model."""

    use: AdapterUse
    matrices: dict[str, Tensor]
    """Weights next to layers of the model, by PEFT's names."""
    whole: dict[str, Tensor]
    """Weights that replace weights of the model, by the model's names."""
    targets: list[str]
    """Modules with `matrices`."""

    @classmethod
    def of(cls, model: nn.Module, use: AdapterUse) -> _Parts:
        """Divide the weights.

        Raises:
            ValueError: if they do not fit the model.
        """
        weights = use.adapter.weights
        matrices = {name: tensor for name, tensor in weights.items() if _LORA_PART in name}
        whole = {name.removeprefix(PEFT_PREFIX): weights[name] for name in weights.keys() - matrices.keys()}
        present = [name for name, _ in model.named_modules() if name]
        found = {name.removeprefix(PEFT_PREFIX).rsplit(_LORA_PART, 1)[0] for name in matrices}
        expected = _targets(use.adapter.config, present)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        problems = _listed("it has weights for modules that the model does not have", found - set(present))
        problems += _listed("it targets modules that it has no weights for", expected - found)
        problems += _listed("it has weights for modules that it does not target", found & set(present) - expected)
        odd = {name for name, tensor in whole.items() if shapes.get(name) != tuple(tensor.shape)}
        saved = set(use.adapter.config.modules_to_save or ())
        odd |= {name for name in whole if not _is_saved(name, saved)}
        problems += _listed("it holds weights that the model does not have, or not in this shape", odd)
        unfilled = {name for name in shapes if _is_saved(name, saved)} - whole.keys()
        problems += _listed("it replaces modules whole and lacks these weights of them", unfilled)
        if not weights or problems:
            raise ValueError(
                f"the adapter {use.name} does not fit the model:\n"
                + "\n".join(problems)
                + f"\nThe model's modules are called, for example, {', '.join(_kinds(model))}. Use the base model "
                "that the adapter was trained on"
            )
        return cls(use, matrices, whole, sorted(found))


def _require_base(model: nn.Module, uses: Iterable[AdapterUse], *, any_base: bool) -> None:
    """Compare the fingerprint of a model with those of the bases that adapters were trained on."""
    known = [(use, use.adapter.recipe) for use in uses]
    if not any(recipe for _, recipe in known):
        return
    fingerprint = weights_fingerprint(model.state_dict())
    for use, recipe in known:
        if recipe is None or recipe.base_fingerprint == fingerprint:
            continue
        difference = (
            f"the adapter {use.name} was trained on another base model: on {recipe.base_model} with the fingerprint "
            f"{recipe.base_fingerprint[:12]}, and this model has {fingerprint[:12]}"
        )
        if not any_base:
            raise ValueError(
                f"{difference}. Open the base that it was trained on, or, if the two are closely related (another "
                "stage of the same model, for example), use it anyway with --any_base"
            )
        logger.warning("%s; it is used as asked, and may sing worse than on its own base", difference)


def _targets(config: LoraConfig, modules: Iterable[str]) -> set[str]:
    """Return the modules that a configuration targets, as peft decides it; modules that are kept whole are excluded."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return {name for name in modules if check_target_module_exists(config, name)}


def _is_saved(name: str, modules: Iterable[str]) -> bool:
    """Return whether a weight of the model belongs to one of the modules that are kept whole, as peft finds them."""
    endings = tuple(modules)
    parents = name.split(".")[:-1]
    return bool(endings) and any(".".join(parents[: end + 1]).endswith(endings) for end in range(len(parents)))


def _add_whole_modules(model: nn.Module, parts: Iterable[_Parts]) -> dict[str, Tensor]:
    """Replace weights by those of modules that adapters hold whole; several and weaker ones add their changes.

    Returns:
        The weights that were replaced, by name.
    """
    parameters = dict(model.named_parameters())
    originals: dict[str, Tensor] = {}
    for each in parts:
        for name, tensor in each.whole.items():
            target = parameters[name].data
            is_first = name not in originals
            original = originals.setdefault(name, target.clone())
            if is_first and each.use.strength == 1:
                target.copy_(tensor)  # exactly what was trained
            else:
                target.add_(each.use.strength * (tensor.to(target) - original))
    return originals


def _inject(model: nn.Module, name: str, parts: _Parts) -> None:
    """Attach one adapter, not active yet."""
    if not parts.matrices:
        return
    from peft.functional import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = copy.deepcopy(parts.use.adapter.config)
    # The names are known, so nothing is left to match; weights that replace the model's are in it already.
    config.target_modules = parts.targets
    config.exclude_modules = config.modules_to_save = config.layers_to_transform = config.layers_pattern = None
    config.init_lora_weights, config.lora_dropout, config.inference_mode = True, 0.0, True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about several adapters, and patterns that match nothing
        # On the meta device: the ranks may have nothing to do with the weights, and are compared before memory is used.
        inject_adapter_in_model(config, model, name, low_cpu_mem_usage=True)
    places = dict(model.named_parameters())
    names = model_names(places, name)
    shapes = {written: tuple(places[own].shape) for written, own in names.items()}
    found = {written: tuple(tensor.shape) for written, tensor in parts.matrices.items()}
    if shapes != found:
        differing = {key for key in shapes.keys() | found.keys() if shapes.get(key) != found.get(key)}
        lines = _listed("its weights and its configuration do not agree", differing)
        raise ValueError("\n".join([f"the adapter {parts.use.name} does not fit the model:", *lines]))
    precision = next(tensor.dtype for tensor in places.values() if tensor.is_floating_point() and not tensor.is_meta)
    device = next(tensor.device for tensor in places.values() if not tensor.is_meta)
    values = {own: parts.matrices[written].to(device, precision) for written, own in names.items()}
    model.load_state_dict(values, strict=False, assign=True)
    strength = parts.use.strength
    for module in model.modules():
        if isinstance(module, LoraLayer) and name in module.scaling and strength != 1:
            _weaken(module, name, strength)


def _weaken(layer: Any, name: str, strength: float) -> None:
    """Multiply what an adapter changes in a layer by its strength."""
    if name in layer.lora_magnitude_vector:
        # DoRA: the magnitude of the base's weight, and from there a part of the way to the trained one.
        magnitude = layer.lora_magnitude_vector[name]
        nothing = torch.zeros((), device=magnitude.weight.device, dtype=magnitude.weight.dtype)
        base = magnitude.get_weight_norm(layer.get_base_layer().weight, nothing, 1.0)
        magnitude.weight.data = base + strength * (magnitude.weight.data - base)
    layer.scaling[name] *= strength


def _listed(what: str, names: Iterable[str]) -> list[str]:
    """Return a line that lists names; none without names."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return [f"- {what}: {', '.join(ordered[:_SHOWN])}{more}"] if ordered else []


def _kinds(model: nn.Module) -> list[str]:
    """Return the last parts of the names of layers that adapters are attached to: `q_proj`, `fc1`."""
    layers = (name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding))
    return [name for name in dict.fromkeys(name.rpartition(".")[2] for name in layers) if not name.isdigit()]


def adapter_layers(model: nn.Module) -> Mapping[str, Any]:
    """Return the layers with attached adapters by their names; empty for a model without."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
