"""Adapter of a run: attached to the model as the configuration says, and stored as a folder of PEFT."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from songgen import __version__
from songgen.adapters.attach import attach
from songgen.adapters.folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    Adapter,
    AdapterRecipe,
    peft_names,
    weights_fingerprint,
    write_adapter,
)
from songgen.adapters.options import AdapterOptions
from songgen.adapters.quantization import quantize
from songgen.adapters.targets import Targets, TargetWords, find_targets
from songgen.config import LoraArguments, RunConfig
from songgen.families.costs import AdapterPlan
from songgen.families.registry import write_shared_forms
from songgen.families.trainable import ParameterGroups, Trainable
from songgen.runtime.tensor_files import read_tensors

if TYPE_CHECKING:
    from peft import LoraConfig

logger = logging.getLogger(__name__)

_SECOND_MATRIX = (".lora_B.", ".lora_embedding_B.")
_OWN_PARTS = (".lora_A.", ".lora_embedding_A.", ".lora_magnitude_vector.", *_SECOND_MATRIX)
"""Parts of the names of an adapter's parameters; those of layers that are trained whole have none of them."""


@dataclass(frozen=True)
class AdaptedLayers:
    """What a family says about its models for adapters."""

    words: TargetWords
    """Words for parts of the models."""
    quantized: str
    """Regular expression for the whole names of linear layers that are quantized if the run asks for it."""
    root: str = ""
    """Name of the module of the model that adapters are attached to, empty for the whole model. All names of layers,
    those in files too, are relative to it, and the fingerprint of the base is that of this module."""

    def within(self, name: str) -> str:
        """Return the name in the model of a layer or parameter of the module."""
        return f"{self.root}.{name}" if self.root else name


@dataclass(frozen=True)
class AdapterForm:
    """Form of the weights of an adapter run; see `songgen.families.trainable.WeightForm`."""

    config: LoraConfig
    """How the adapter is attached."""
    recipe: AdapterRecipe
    """How the adapter is made, without steps and data."""
    written_names: Mapping[str, str]
    """Trained parameter -> its name in the file."""
    names: tuple[str, ...] = (ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE)
    """Names of the files, the one with the weights first."""

    @property
    def frozen_content(self) -> Mapping[str, str]:
        """See `WeightForm`."""
        return {"base_weights_sha256": self.recipe.base_fingerprint}

    def write(self, folder: Path, weights: Mapping[str, Tensor], *, steps: int, plan: Mapping[str, Any]) -> None:
        """See `WeightForm`."""
        recipe = dataclasses.replace(self.recipe, steps=steps, data_fingerprint=plan.get("data_sha256"))
        write_adapter(folder, self.config, self._named(weights), recipe, hashes=False)

    def write_others(self, folder: Path, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        """See `WeightForm`."""
        return write_shared_forms(folder, Adapter(self.config, self._named(weights), self.recipe))

    def read(self, folder: Path) -> dict[str, Tensor]:
        """See `WeightForm`."""
        own_names = {written: name for name, written in self.written_names.items()}
        tensors = read_tensors(folder / ADAPTER_WEIGHTS_FILE)
        return {own_names.get(written, written): tensor for written, tensor in tensors.items()}

    def _named(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights by their names in the file."""
        return {self.written_names[name]: tensor for name, tensor in weights.items()}


def choose_trained(
    config: RunConfig,
    core: nn.Module,
    groups: ParameterGroups,
    layers: AdaptedLayers,
    frozen: Collection[str],
    overrides: Mapping[str, Any],
) -> Trainable:
    """Attach an adapter if the configuration describes one, and return the trained parameters.

    Args:
        config: configuration of the run.
        core: model as it was opened, changed in place.
        groups: parameter groups of the model.
        layers: what its family says about its layers.
        frozen: names of groups or aliases that are not trained.
        overrides: see `attach_adapter`.

    Raises:
        ValueError: if the configuration names groups that do not exist, or sets a factor for one that is not trained;
            or as `attach_adapter` does.
    """
    form = attach_adapter(config, core, groups, layers, frozen, overrides)
    factors: dict[str, float] = dict(config.training.learning_rate_factors.items())
    trainable = Trainable.choose(
        core,
        groups,
        frozen=frozen,
        learning_rate_factors=factors,
        own_factor=partial(adapter_rate_factor, config),
        form=form,
    )
    what = "frozen" if form is None else "the base is frozen, without an adapter"
    logger.info("%s: %s", what, ", ".join(trainable.frozen_groups) or "nothing")
    return trainable


def planned_training(
    config: RunConfig, core: nn.Module, groups: ParameterGroups, layers: AdaptedLayers, frozen: Collection[str]
) -> tuple[frozenset[str], AdapterPlan | None]:
    """Return what a run will train, from a model without content (on the meta device), which gets no adapter.

    Returns:
        Names of the trained parameters of the model itself, and the adapters.

    Raises:
        ValueError: as `choose_trained` does.
    """
    plan = plan_adapters(config, core, groups, layers, frozen)
    if plan is not None:
        return plan.saved, plan
    return frozenset(entry.name for entry in Trainable.choose(core, groups, frozen=frozen).entries), None


def attach_adapter(
    config: RunConfig,
    core: nn.Module,
    groups: ParameterGroups,
    layers: AdaptedLayers,
    frozen: Collection[str],
    overrides: Mapping[str, Any],
) -> AdapterForm | None:
    """Quantize the base if the configuration says so, and attach the adapter. The base is frozen by this.

    Layers of frozen groups get no adapter.

    Args:
        config: configuration of the run.
        core: model as it was opened, changed in place.
        groups: parameter groups of the model.
        layers: what its family says about its layers.
        frozen: names of groups or aliases that are not trained.
        overrides: fields of the model's configuration that the run replaced; switches are recorded in the recipe, since
            the model must be opened in the same way to use the adapter.

    Returns:
        How the adapter is stored; None if the configuration describes none.

    Raises:
        ValueError: if the configuration names layers that the model does not have, or that are frozen; or if a
            package is missing.
    """
    arguments = config.adapter.lora_arguments()
    if arguments is None:
        return None
    options, root = adapter_options(arguments), core.get_submodule(layers.root)
    targets = _find_targets(root, options, groups, layers, frozen)
    fingerprint = weights_fingerprint(root.state_dict())
    core.requires_grad_(False)
    if options.quantization != "none":
        _quantize(root, options, targets, layers.quantized, getattr(torch, config.training.dtype))
    lora_config = attach(root, options, targets, seed=config.training.seed)
    names = [name for name, parameter in root.named_parameters() if parameter.requires_grad]
    recipe = AdapterRecipe(
        base_model=config.model.model_name_or_path,
        base_fingerprint=fingerprint,
        program_version=__version__,
        quantization=None if options.quantization == "none" else options.quantization,
        track_pattern=config.model.track_pattern,
        config_overrides={name: value for name, value in overrides.items() if isinstance(value, bool)},
    )
    return AdapterForm(
        lora_config, recipe, {layers.within(name): written for name, written in peft_names(names).items()}
    )


def _find_targets(
    root: nn.Module,
    options: AdapterOptions,
    groups: ParameterGroups,
    layers: AdaptedLayers,
    frozen: Collection[str],
) -> Targets:
    """Return the layers of a module that get an adapter: none of groups that are frozen."""
    kept = set(groups.expand(frozen))

    def is_frozen(name: str) -> bool:
        return groups.group_of(layers.within(f"{name}.weight")) in kept

    return find_targets(root, options, layers.words, is_frozen)


def plan_adapters(
    config: RunConfig, core: nn.Module, groups: ParameterGroups, layers: AdaptedLayers, frozen: Collection[str]
) -> AdapterPlan | None:
    """Return the sizes of what `attach_adapter` would attach and quantize; the model stays as it is.

    Raises:
        ValueError: if the configuration names layers that the model does not have, or that are frozen.
    """
    arguments = config.adapter.lora_arguments()
    if arguments is None:
        return None
    options, root = adapter_options(arguments), core.get_submodule(layers.root)
    targets = _find_targets(root, options, groups, layers, frozen)
    saved = [name for name, _ in root.named_parameters() if name.rpartition(".")[0] in targets.saved]
    quantized = [] if options.quantization == "none" else quantized_layers(root, targets, layers.quantized)
    return AdapterPlan(
        ranks={layers.within(name): targets.ranks.get(name, options.rank) for name in targets.adapted},
        saved=frozenset(map(layers.within, saved)),
        dropout=options.dropout,
        has_magnitudes=options.use_dora,
        quantized=frozenset(map(layers.within, quantized)),
        quantization=options.quantization,
    )


def quantized_layers(core: nn.Module, targets: Targets, pattern: str) -> list[str]:
    """Return the linear layers whose names match a pattern, without those that are trained whole."""
    return [
        name
        for name, module in core.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(pattern, name) and name not in targets.saved
    ]


def adapter_options(arguments: LoraArguments) -> AdapterOptions:
    """Return the options of an adapter from the keys of the table `lora`."""
    targets = arguments.target_modules
    return AdapterOptions(
        targets=(targets,) if isinstance(targets, str) else tuple(targets),
        rank=arguments.r,
        alpha=arguments.lora_alpha,
        dropout=arguments.lora_dropout,
        use_rslora=arguments.use_rslora,
        use_dora=arguments.use_dora,
        rank_pattern=arguments.rank_pattern,
        alpha_pattern=arguments.alpha_pattern,
        modules_to_save=tuple(arguments.modules_to_save),
        quantization=arguments.quantization,
    )


def adapter_rate_factor(config: RunConfig, name: str) -> float:
    """Return the factor of the learning rate of a parameter by its name; 1 for those that are not of an adapter."""
    if not any(part in f"{name}." for part in _OWN_PARTS):
        return 1.0
    adapter, factor = config.adapter, 1.0
    if adapter.lora_learning_rate is not None:
        factor = adapter.lora_learning_rate / config.training.learning_rate
    return factor * adapter.lora_plus_ratio if any(part in name for part in _SECOND_MATRIX) else factor


def _quantize(core: nn.Module, options: AdapterOptions, targets: Targets, pattern: str, dtype: torch.dtype) -> None:
    """Quantize the linear layers whose names match a pattern; layers that are trained whole stay as they are."""
    from accelerate.state import PartialState

    names = quantized_layers(core, targets, pattern)
    before = sum(parameter.nbytes for parameter in core.parameters())
    quantize(core, names, options.quantization, compute_dtype=dtype, device=PartialState().device)
    after = sum(parameter.nbytes for parameter in core.parameters())
    logger.info(
        "base in %s: %d layers quantized, %.0f MiB instead of %.0f MiB",
        options.quantization, len(names), after / 2**20, before / 2**20,
    )  # fmt: skip
