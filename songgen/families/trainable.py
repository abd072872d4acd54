"""Choice of the trained parameters of a model, used by optimizer, checkpoints, moving average and export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor, nn

_WRAPPERS = frozenset({"module", "_orig_mod", "_checkpoint_wrapped_module"})
"""Parts of parameter names that are added by DDP, DeepSpeed, compilation and activation checkpointing."""


@dataclass(frozen=True)
class ParameterGroups:
    """Named groups that partition the parameters of a family's models."""

    prefixes: Mapping[str, tuple[str, ...]]
    """Group -> prefixes of its parameters' names."""

    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Alias -> groups that it stands for."""

    def group_of(self, parameter_name: str) -> str:
        """Return the group of a parameter.

        Raises:
            ValueError: if no group or more than one claims the name.
        """
        found = [group for group, prefixes in self.prefixes.items() if parameter_name.startswith(prefixes)]
        if len(found) != 1:
            raise ValueError(
                f"parameter {parameter_name!r} belongs to {found or 'no group'}; expected exactly one group"
            )
        return found[0]

    def expand(self, names: Iterable[str]) -> list[str]:
        """Return the groups for names of groups and aliases, in the order of `prefixes`.

        Raises:
            ValueError: if a name is unknown.
        """
        wanted = {group for name in names for group in self.aliases.get(name, (name,))}
        if unknown := wanted - set(self.prefixes):
            known = ", ".join([*self.aliases, *self.prefixes])
            raise ValueError(f"unknown parameter groups {sorted(unknown)}; known groups: {known}")
        return [group for group in self.prefixes if group in wanted]


ONE_GROUP = ParameterGroups({"all": ("",)})
"""Groups of a model that has no named groups: a single one."""


class WeightForm(Protocol):
    """Form of trained weights in files, if they are stored in another way than as `model.safetensors`.

    Such files are also what the run produces: its output folder contains them in place of a model.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files, the one with the weights (safetensors) first."""

    @property
    def frozen_content(self) -> Mapping[str, str]:
        """Hashes of the weights that are needed besides the trained ones, by name."""

    def write(self, folder: Path, weights: Mapping[str, Tensor], *, steps: int, plan: Mapping[str, Any]) -> None:
        """Write the files.

        Args:
            folder: existing folder.
            weights: whole trained weights by the names of the parameters.
            steps: completed optimizer steps.
            plan: identity of the data of the run.
        """

    def write_others(self, folder: Path, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Write the same weights in the forms of other programs, next to the files of what the run produces.

        Args:
            folder: folder that `write` has written to; checkpoints do not get these files.
            weights: as in `write`.

        Returns:
            Names of the files.
        """

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Read the weights by the names of the parameters.

        Raises:
            ValueError: if the file is missing or damaged.
        """


@dataclass(frozen=True)
class TrainedParameter:
    """Trained parameter of a model."""

    name: str
    """Name in the model without wrappers, also used in checkpoints."""

    group: str
    """Group of the parameter."""

    decays: bool
    """Whether weight decay applies."""

    learning_rate_factor: float = 1.0
    """Factor of the run's learning rate."""


@dataclass(frozen=True)
class Trainable:
    """Trained parameters of a model, with their learning rates and weight decay.

    Only this class freezes parameters. It never unfreezes one: a parameter that was frozen before stays frozen.
    """

    entries: tuple[TrainedParameter, ...]
    """Trained parameters, in the order of the model."""

    frozen_groups: tuple[str, ...] = ()
    """Groups without trained parameters, in the order of `ParameterGroups.prefixes`."""
    form: WeightForm | None = None
    """Form in which the weights are stored; None: `model.safetensors`, and a whole model at the end of the run."""

    @classmethod
    def choose(
        cls,
        model: nn.Module,
        groups: ParameterGroups = ONE_GROUP,
        *,
        frozen: Iterable[str] = (),
        learning_rate_factors: Mapping[str, float] | None = None,
        own_factor: Callable[[str], float] = lambda name: 1.0,
        form: WeightForm | None = None,
    ) -> Self:
        """Freeze groups of a model and describe the remaining trained parameters.

        Args:
            model: model that is not wrapped yet.
            groups: parameter groups of the model.
            frozen: names of groups or aliases to freeze.
            learning_rate_factors: group or alias -> factor of the learning rate; a group's own factor takes precedence
                over that of an alias.
            own_factor: name of a parameter -> factor in addition to that of its group.
            form: form in which the weights are stored; None for the usual one.

        Raises:
            ValueError: if a group is unknown, or a factor is given for a group that is not trained.
        """
        chosen = set(groups.expand(frozen))
        for name, parameter in model.named_parameters():
            if groups.group_of(_bare(name)) in chosen:
                parameter.requires_grad_(False)
        factors = _factors(groups, learning_rate_factors or {})
        constant = _without_decay(model)
        entries = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                bare = _bare(name)
                group = groups.group_of(bare)
                factor = factors.get(group, 1.0) * own_factor(bare)
                entries.append(TrainedParameter(bare, group, bare not in constant, factor))
        trained = {entry.group for entry in entries}
        if useless := [group for group in groups.prefixes if group in factors and group not in trained]:
            raise ValueError(
                f"learning_rate_factors names groups that are not trained: {', '.join(useless)}; leave them out, or do "
                "not freeze them"
            )
        present = {groups.group_of(_bare(name)) for name, _ in model.named_parameters()}
        return cls(tuple(entries), tuple(group for group in groups.prefixes if group in present - trained), form)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name, as the optimizer updates and a checkpoint holds them.

        Args:
            model: the model, bare or wrapped (DDP, DeepSpeed, compilation; with FSDP2 the values are shards).
        """
        present = {_bare(name): parameter for name, parameter in model.named_parameters()}
        return {entry.name: present[entry.name] for entry in self.entries}

    def frozen_parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the other parameters by name, in the order of the model: used, and neither updated nor saved.

        Args:
            model: as in `parameters`.
        """
        trained = {entry.name for entry in self.entries}
        named = ((_bare(name), parameter) for name, parameter in model.named_parameters())
        return {name: parameter for name, parameter in named if name not in trained}

    def optimizer_groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimizer's groups of parameters: one for each factor, with and without decay.

        Args:
            model: the model, bare or wrapped.
            weight_decay: weight decay of the parameters that decay.
        """
        parameters = self.parameters(model)
        found: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for entry in self.entries:
            found.setdefault((entry.learning_rate_factor, entry.decays), []).append(parameters[entry.name])
        # Factor 1 first, decaying parameters before the others. The order must not change: DeepSpeed's flat tensors,
        # and with them the rounding of sums, depend on it.
        order = sorted(found, key=lambda kind: (kind[0] != 1.0, kind[0], not kind[1]))
        return [
            {"params": found[kind], "weight_decay": weight_decay if kind[1] else 0.0, FACTOR_KEY: kind[0]}
            for kind in order
        ]

    def exported(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights that the run produces.

        Of a model folder that is all of them, trained or not, since it is self-contained; otherwise the trained ones.
        """
        if self.form is not None:
            return dict(self.parameters(model))
        return {_bare(name): tensor for name, tensor in model.state_dict().items()}


FACTOR_KEY = "learning_rate_factor"
"""Key in an optimizer's parameter group for the factor of its learning rate."""


def _bare(name: str) -> str:
    """Return a parameter's name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _factors(groups: ParameterGroups, given: Mapping[str, float]) -> dict[str, float]:
    """Return the factor of each group that has one; a group's own factor takes precedence over that of an alias."""
    aliases_first = sorted(given, key=lambda name: name not in groups.aliases)
    return {group: given[name] for name in aliases_first for group in groups.expand([name])}


def _without_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters to which weight decay does not apply.

    Weights of linear and convolution layers decay. Embeddings, everything inside a normalization layer, biases and
    other vectors do not: pulling them towards zero does not regularize.
    """
    constant = {_bare(name) for name, entry in model.named_parameters() if entry.ndim < 2 or "pos_bias" in name}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower():
            constant.update(_bare(f"{prefix}.{name}" if prefix else name) for name, _ in module.named_parameters())
    return constant
